"""The files that test_model.py leaves: figures, predictions, confusion."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.files import replacing, write_json
from video_module.report.metrics import confusion_matrix
from video_module.report.plots import plot_confusion

_SHOWN = {
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "clip_top1": "clip top-1",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log-loss",
    "ece": "calibration error (ECE)",
}


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as a table of two columns."""
    lines = [f"  {title:24} {figures[key]:.4f}" for key, title in _SHOWN.items()]
    return "\n".join([*lines, f"  {figures['num_videos']} videos, {figures['num_clips']} views"])


def write_results(
    stem: Path,
    figures: dict[str, Any],
    *,
    paths: Sequence[str],
    labels: np.ndarray,
    video_scores: np.ndarray,
    class_names: Sequence[str],
) -> list[Path]:
    """Write <stem>_results.json, _predictions.csv, _confusion.csv and _confusion.png; returns their paths."""
    results, predictions, table, picture = (
        stem.with_name(stem.name + end)
        for end in ("_results.json", "_predictions.csv", "_confusion.csv", "_confusion.png")
    )
    write_json(results, figures)
    best = video_scores.argmax(axis=1)
    with replacing(predictions) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "prediction", "score", *class_names])
        for path, label, prediction, scores in zip(paths, labels, best, video_scores, strict=True):
            row = [
                path,
                class_names[label],
                class_names[prediction],
                *(f"{s:.6f}" for s in (scores[prediction], *scores)),
            ]
            writer.writerow(row)
    matrix = confusion_matrix(best, labels, len(class_names))
    with replacing(table) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ prediction", *class_names])
        writer.writerows([name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True))
    plot_confusion(picture, matrix, class_names, title=f"{figures['model']}: video top-1 {figures['video_top1']:.3f}")
    return [results, predictions, table, picture]
