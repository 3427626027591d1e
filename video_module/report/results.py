"""Write and read the files of test_model.py: figures, predictions and confusion matrix."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.files import read_text, replacing, write_json
from video_module.report.confusion import draw_confusion
from video_module.report.metrics import confusion_matrix
from video_module.report.statistics import describe_share
from video_module.report.style import save
from video_module.tables import pluralize

FIGURES = {
    "video_top1": "video top-1",
    "video_top5": "video top-5",
    "clip_top1": "clip top-1",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log-loss",
    "ece": "calibration error (ECE)",
}
"""Figures that X_results.json always contains, with their names in tables. shown_figures() selects from them."""
WINDOW_FIGURES = {"window_mean_class_accuracy": "mean class accuracy per window"}
"""Further figures if windows were scored, as the original project did."""

# Columns of X_predictions.csv, followed by one for each class.
_PREDICTION_COLUMNS = ["video", "label", "prediction", "score", "source"]
_NUM_SHOWN = 5


def shown_figures(num_classes: int) -> dict[str, str]:
    """Return FIGURES, without top-5 if there are five classes or fewer, because it is then always 1."""
    return {key: title for key, title in FIGURES.items() if key != "video_top5" or num_classes > 5}


def results_stem(checkpoint: Path, output_dir: Path | None) -> Path:
    """Return the common start of a test's files: the model's name, in its folder unless `output_dir` is given.

    X.pth and X.onnx are often both tested, so the files of X.onnx are named X_onnx_results.json and so on.
    """
    name = checkpoint.stem + ("_onnx" if checkpoint.suffix.lower() == ".onnx" else "")
    return (output_dir or checkpoint.parent) / name


def result_paths(stem: Path) -> list[Path]:
    """Return the paths that write_results() writes."""
    ends = ("_results.json", "_predictions.csv", "_confusion.csv", "_confusion.png")
    return [stem.with_name(stem.name + end) for end in ends]


def shared_name(paths: Sequence[Path]) -> str | None:
    """Name the summary of X_results.json files: "x_folds" for x_fold1 and x_fold2, X for one file; None if unclear."""
    names = [path.name.removesuffix("_results.json") for path in paths]
    if len(names) == 1:
        return names[0]
    shared = {re.sub(r"(?<![^_])fold\d+(?![^_])", "folds", name, count=1) for name in names}
    return shared.pop() if len(shared) == 1 else None


def format_figures(figures: dict[str, Any]) -> str:
    """Format the figures and their intervals as a table, followed by the worst classes and confusions."""
    titles = shown_figures(len(figures["per_class"]))
    if "window_top1" in figures:
        titles["clip_top1"] = "clip top-1 (per window, as the original counted)"
        titles |= WINDOW_FIGURES
    width = max(map(len, titles.values()))
    lines = []
    for key, title in titles.items():
        interval = figures["intervals"].get(key)
        cell = f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        lines.append(f"  {title:{width}}  {figures[key]:.4f}{cell}")
    if figures["num_answers"] < figures["num_videos"]:
        precision = "none" if figures["answer_precision"] is None else f"{figures['answer_precision']:.2f}"
        reached = f"{figures['num_answers']} of {figures['num_videos']} videos reach {figures['min_score']:.2f}"
        lines.append(f"  {reached}, {precision} of these correct; the others are uncertain")
    recordings = pluralize(figures["num_sources"], "recording")
    counts = f"{pluralize(figures['num_videos'], 'video')} of {recordings}, {count_views(figures)}"
    if any(figures["intervals"].values()):
        counts += "; in brackets: 95 % intervals, resampled by recording"
    lines.append(f"  {counts}")
    if figures["interval_note"]:
        lines.append(f"  {figures['interval_note']}")
    return "\n".join([*lines, *failure_lines(figures)])


def failure_lines(figures: dict[str, Any]) -> list[str]:
    """List the worst classes and the most frequent confusions."""
    lines = []
    classes = {name: row for name, row in figures["per_class"].items() if row["support"]}
    if absent := len(figures["per_class"]) - len(classes):
        lines.append(
            f"  {absent} of {len(figures['per_class'])} classes have no test video and are left out of all means"
        )
    worst = sorted(classes, key=lambda name: (classes[name]["recall"], name))
    worst = [
        f"{name} {describe_share(round(row['recall'] * row['support']), row['support'])}"
        for name in worst
        if (row := classes[name])["recall"] < 1
    ][:_NUM_SHOWN]
    confused = [
        f"{pair['label']} as {pair['prediction']} ({pair['count']} of {classes[pair['label']]['support']})"
        for pair in figures["most_confused"][:_NUM_SHOWN]
    ]
    for title, items in (("worst classes", worst), ("most confused", confused)):
        if items:
            lines.append(f"  {title}: {', '.join(items)}")
    return lines


def describe_views(views: dict[str, Any]) -> str:
    """Describe the views of a results file in words."""
    crops = pluralize(views["num_crops"], "crop")
    if views["sampling"] == "windows":
        return f"windows every {views['clip_step']} frames x {crops}"
    return f"{pluralize(views['num_clips'], 'clip')} x {crops}"


def count_views(figures: dict[str, Any]) -> str:
    """Describe how many views were scored, and why if they are fewer than expected."""
    views = figures["views"]
    text = f"{figures['num_clips']:,} views"
    if views["sampling"] == "windows":
        return text
    if figures["num_clips"] == figures["num_videos"] * views["num_clips"] * views["num_crops"]:
        return text
    return f"{text} ({describe_views(views)}; short videos are scored once)"


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
    """Write <stem>_results.json, _predictions.csv, _confusion.csv and _confusion.png. Returns their paths."""
    assert video_scores.shape == (len(paths), len(class_names))
    results, predictions, *_ = result_paths(stem)
    write_json(results, figures)
    best = video_scores.argmax(axis=1)

    def prediction_rows() -> Iterator[list[str]]:
        for path, source, label, prediction, scores in zip(paths, sources, labels, best, video_scores, strict=True):
            # Six digits are the precision of fp32, and stay readable in a spreadsheet with 51 classes.
            score, *rest = (f"{value:.6f}" for value in (scores[prediction], *scores))
            yield [path, class_names[label], class_names[prediction], score, source, *rest]

    # Written row by row, because as text the whole table would take many times the memory of its numbers.
    _write_csv(predictions, [*_PREDICTION_COLUMNS, *class_names], prediction_rows())
    matrix = confusion_matrix(best, labels, len(class_names))
    title = f"{figures['model']}: video top-1 {figures['video_top1']:.3f}"
    return [results, predictions, *write_confusion(stem, matrix, class_names, title=title)]


def write_confusion(stem: Path, matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> list[Path]:
    """Write <stem>_confusion.csv and _confusion.png. Returns their paths."""
    *_, table, picture = result_paths(stem)
    rows = ([name, *row.tolist()] for name, row in zip(class_names, matrix, strict=True))
    _write_csv(table, ["label \\ prediction", *class_names], rows)
    save(draw_confusion(matrix, class_names, title=title), picture)
    return [table, picture]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_results(path: Path) -> dict[str, Any]:
    """Read an X_results.json to compare it with others.

    Raises InputError if it is missing, damaged, another kind of file, or from a version that recorded less.
    """
    if path.is_file() and path.suffix != ".json":
        raise InputError(f"{path}: not a results file of test_model.py; expected X_results.json")
    try:
        figures = json.loads(read_text(path))
        if "figures" in figures:
            raise InputError(f"{path}: the summary of several results; pass these one by one, as X_fold1_results.json")
        for key in FIGURES:
            if not math.isfinite(figures[key]):
                raise ValueError(f"{key} is {figures[key]}")
        # Access these values only to raise an error if one is missing or of the wrong type.
        figures["model"], describe_views(figures["views"]), figures["split_digest"], figures["per_class_accuracy"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a results file of test_model.py ({error!r})") from None
    needed = ("protocol", "fold", "split", "weights", "precision", "clip", "num_sources", "train_overlap")
    if missing := [key for key in needed if key not in figures]:
        raise InputError(f"{path}: written by an older version, without {missing[0]}; run test_model.py again")
    # Results of earlier versions do not have these keys
    return dict.fromkeys(("num_folds", "folds_digest", "training", "checkpoint_digest")) | figures


def leak_states(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return whether each test shares videos with its model's training: "none", "allowed" (--allow_leak) or "unknown".

    It is unknown if the model file records no training videos, or if it records only their recordings and some of these
    are shared, as in official folds.
    """
    states = []
    for result in results:
        overlap = result["train_overlap"]
        if overlap and overlap["is_leak"]:
            states.append("allowed")
        elif overlap is None or (overlap.get("num_sources") and overlap.get("num_clips") is None):
            states.append("unknown")
        else:
            states.append("none")
    return states


def describe_leaks(states: Sequence[str], names: Sequence[str]) -> list[str]:
    """Describe the tests with a leak in a line each, by name, and those with unknown leaks in one line."""
    lines = [
        f"{name} was tested with --allow_leak on videos its model was trained on"
        for name, state in zip(names, states, strict=True)
        if state == "allowed"
    ]
    if unknown := [name for name, state in zip(names, states, strict=True) if state == "unknown"]:
        whose = "its model file does" if len(unknown) == 1 else "their model files do"
        lines.append(f"leaks unknown: {list_names(unknown)} ({whose} not record the training videos)")
    return lines


def list_names(names: Sequence[str]) -> str:
    """Join names, and their noun if it is the same: "fold 1", "fold 2", "fold 3" become "folds 1, 2 and 3"."""
    nouns = {name.partition(" ")[0] for name in names}
    *others, last = names
    if not others:
        return last
    if nouns <= {"fold"} or nouns <= {"split"}:
        others = [f"{others[0].replace(' ', 's ', 1)}", *(name.partition(" ")[2] for name in others[1:])]
        last = last.partition(" ")[2]
    return f"{', '.join(others)} and {last}"


def read_predictions(results_path: Path, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the X_predictions.csv beside an X_results.json with these `figures`. Returns a row for each video.

    "scores" of a row is float64 (num_classes,), its other values are text. Raises InputError if the file is missing,
    does not have the expected columns, or is from another run than the figures.
    """
    if not results_path.name.endswith("_results.json"):
        raise InputError(f"{results_path}: expected a file named X_results.json beside its X_predictions.csv")
    path = results_path.with_name(results_path.name.removesuffix("_results.json") + "_predictions.csv")
    # csv.DictReader would confuse the column "score" with that of a class called "score".
    header, *lines = list(csv.reader(io.StringIO(read_text(path), newline=""))) or [[]]
    width = len(_PREDICTION_COLUMNS)
    if header[:width] != _PREDICTION_COLUMNS or any(len(line) != len(header) for line in lines):
        raise InputError(
            f"{path}: not a table with the columns {', '.join(_PREDICTION_COLUMNS)}; run test_model.py again"
        )
    try:
        scores = [np.array(line[width:], np.float64) for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: {error}; run test_model.py again") from None
    rows = [
        dict(zip(_PREDICTION_COLUMNS, line[:width], strict=True)) | {"scores": row}
        for line, row in zip(lines, scores, strict=True)
    ]
    num_right = sum(row["label"] == row["prediction"] for row in rows)
    class_names = header[width:]
    is_same = class_names == list(figures["per_class_accuracy"]) and len(rows) == figures["num_videos"]
    is_same = is_same and {row[key] for row in rows for key in ("label", "prediction")} <= set(class_names)
    if not is_same or not math.isclose(num_right, figures["video_top1"] * len(rows)):
        raise InputError(f"{path}: from a different run than {results_path}; run test_model.py again")
    return rows
