"""The files that test_model.py leaves: figures, predictions, confusion. Written and read here."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.files import read_text, replacing, write_json
from video_module.report.metrics import confusion_matrix
from video_module.report.plots import plot_confusion

FIGURES = {
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "clip_top1": "clip top-1",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log-loss",
    "ece": "calibration error (ECE)",
}
"""What X_results.json always holds, and how it is called."""
WINDOW_FIGURES = {"window_mean_class_accuracy": "mean class accuracy per window"}
"""What it holds besides where windows were scored, as the original project did."""

_PREDICTION_COLUMNS = ["video", "label", "prediction", "score", "source"]  # then one for each class
_NUM_SHOWN = 5


def format_figures(figures: dict[str, Any]) -> str:
    """The figures with their intervals as a table, then where the model fails."""
    titles = dict(FIGURES)
    if "window_top1" in figures:
        titles["clip_top1"] = "clip top-1 (per window, as the original counted)"
        titles |= WINDOW_FIGURES
    width = max(map(len, titles.values()))
    lines = [
        f"  {title:{width}}  {figures[key]:.4f}{_format_interval(figures['intervals'].get(key))}"
        for key, title in titles.items()
    ]
    counts = f"{figures['num_videos']} videos of {figures['num_sources']} sources, {count_views(figures)}"
    if any(figures["intervals"].values()):
        counts += "; in brackets 95 % intervals, resampled by source"
    lines.append(f"  {counts}")
    if figures["interval_note"]:
        lines.append(f"  {figures['interval_note']}")
    classes = {name: row for name, row in figures["per_class"].items() if row["support"]}
    if absent := len(figures["per_class"]) - len(classes):
        lines.append(f"  {absent} of {len(figures['per_class'])} classes have no test video and count in no mean")
    worst = sorted(classes, key=lambda name: (classes[name]["recall"], name))
    worst = [f"{name} {classes[name]['recall']:.2f}" for name in worst if classes[name]["recall"] < 1][:_NUM_SHOWN]
    confused = [
        f"{pair['label']} as {pair['prediction']} ({pair['count']} of {classes[pair['label']]['support']})"
        for pair in figures["most_confused"][:_NUM_SHOWN]
    ]
    for title, items in (("worst classes", worst), ("most confused", confused)):
        if items:
            lines.append(f"  {title}: {', '.join(items)}")
    return "\n".join(lines)


def _format_interval(interval: Sequence[float] | None) -> str:
    return f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def describe_views(views: dict[str, Any]) -> str:
    """What a results file records of its views, in words."""
    crops = f"{views['num_crops']} crop{'s' if views['num_crops'] > 1 else ''}"
    if views["sampling"] == "windows":
        return f"windows every {views['clip_step']} frames x {crops}"
    return f"{views['num_clips']} clip{'s' if views['num_clips'] > 1 else ''} x {crops}"


def count_views(figures: dict[str, Any]) -> str:
    """How many views were scored, and why they are fewer than videos times views where they are."""
    views = figures["views"]
    text = f"{figures['num_clips']:,} views"
    if views["sampling"] == "windows" or figures["num_clips"] == (
        figures["num_videos"] * views["num_clips"] * views["num_crops"]
    ):
        return text
    return f"{text} ({describe_views(views)}, but one clip of a video that is no longer)"


def write_results(
    stem: Path,
    figures: dict[str, Any],
    *,
    paths: Sequence[str],
    sources: Sequence[str],
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
        writer.writerow([*_PREDICTION_COLUMNS, *class_names])
        for path, source, label, prediction, scores in zip(paths, sources, labels, best, video_scores, strict=True):
            score, *rest = (f"{value:.6f}" for value in (scores[prediction], *scores))
            writer.writerow([path, class_names[label], class_names[prediction], score, source, *rest])
    matrix = confusion_matrix(best, labels, len(class_names))
    with replacing(table) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label \\ prediction", *class_names])
        writer.writerows([name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True))
    plot_confusion(picture, matrix, class_names, title=f"{figures['model']}: video top-1 {figures['video_top1']:.3f}")
    return [results, predictions, table, picture]


def read_results(path: Path) -> dict[str, Any]:
    """Read an X_results.json. Raises InputError if it is missing, damaged or of a version that recorded less."""
    try:
        figures = json.loads(read_text(path))
        for key in FIGURES:
            if not math.isfinite(figures[key]):
                raise ValueError(f"{key} is {figures[key]}")
        figures["model"], describe_views(figures["views"]), figures["split_digest"], figures["per_class_accuracy"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a results file of test_model.py ({error!r})") from None
    needed = ("protocol", "fold", "split", "weights", "precision", "clip", "num_sources", "train_overlap")
    if lacking := [key for key in needed if key not in figures]:
        raise InputError(f"{path}: records no {lacking[0]}, as older versions did; run test_model.py again")
    return figures


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What X_predictions.csv says of each video, in its order."""

    videos: list[str]
    labels: list[str]
    predictions: list[str]
    sources: list[str]

    @property
    def correct(self) -> np.ndarray:
        """bool (num_videos,)."""
        return np.array([label == best for label, best in zip(self.labels, self.predictions, strict=True)])


def read_predictions(results_path: Path, figures: dict[str, Any]) -> Predictions:
    """Read the X_predictions.csv beside an X_results.json that holds `figures`.

    Raises InputError if it is not there, not such a table, or of another run than the figures.
    """
    if not results_path.name.endswith("_results.json"):
        raise InputError(
            f"{results_path}: expected a name ending in _results.json, with its _predictions.csv beside it"
        )
    path = results_path.with_name(results_path.name.removesuffix("_results.json") + "_predictions.csv")
    header, *rows = list(csv.reader(StringIO(read_text(path), newline=""))) or [[]]
    width = len(_PREDICTION_COLUMNS)
    if header[:width] != _PREDICTION_COLUMNS or any(len(row) != len(header) for row in rows):
        raise InputError(
            f"{path}: not a table with the columns {', '.join(_PREDICTION_COLUMNS)}; run test_model.py again"
        )
    videos, labels, best, _, sources = map(list, zip(*(row[:width] for row in rows), strict=True)) if rows else [[]] * 5
    predictions = Predictions(videos=videos, labels=labels, predictions=best, sources=sources)
    if len(rows) != figures["num_videos"] or not np.isclose(predictions.correct.mean(), figures["video_top1"]):
        raise InputError(f"{path}: of another run than {results_path}; run test_model.py again")
    return predictions
