"""Two models on the same test videos: how far apart they are, how surely, and on which videos."""

from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.report import statistics
from video_module.report.results import FIGURES, Predictions, describe_views, read_predictions, read_results

_COMPARED = ("video_top1", "mean_class_accuracy")  # as difference_figures() gives them
_NUM_SHOWN = 10


def compare(first_path: Path, second_path: Path) -> dict[str, Any]:
    """Compare two X_results.json with their X_predictions.csv: differences are second minus first.

    Raises InputError unless both are known to be of the same split and of the same videos.
    """
    paths = (first_path, second_path)
    results = [read_results(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result["split_digest"] is None:
            raise InputError(f"{path}: tested on a folder that no split.json describes, so its split is unknown")
    digests = [result["split_digest"] for result in results]
    if digests[0] != digests[1]:
        raise InputError(
            f"{first_path} is of split {digests[0]}, {second_path} of {digests[1]}: only the same split compares"
        )
    leaks = [
        str(path)
        for path, result in zip(paths, results, strict=True)
        if result["train_overlap"] and result["train_overlap"]["is_leak"]
    ]
    first, second = (read_predictions(path, result) for path, result in zip(paths, results, strict=True))
    second = _in_order_of(first, second, paths)
    differences = tally_differences(first, second)
    observed = difference_figures(statistics.add_up(differences))
    intervals = statistics.intervals(differences, first.sources, difference_figures)
    num_sources = len(set(first.sources))
    rows = [
        {"video": video, "label": label, "first": one, "second": other, "source": source}
        for video, label, one, other, source in zip(
            first.videos, first.labels, first.predictions, second.predictions, first.sources, strict=True
        )
    ]
    better = [row for row, gain in zip(rows, second.correct & ~first.correct, strict=True) if gain]
    worse = [row for row, loss in zip(rows, first.correct & ~second.correct, strict=True) if loss]
    return {
        **{
            name: {"results": str(path), "model": result["model"], "views": result["views"]}
            for name, path, result in zip(("first", "second"), paths, results, strict=True)
        },
        "split_digest": digests[0],
        "leaks": leaks,
        "num_videos": len(rows),
        "num_sources": num_sources,
        "num_resamples": statistics.NUM_RESAMPLES,
        "figures": {
            key: {
                "first": results[0][key],
                "second": results[1][key],
                "difference": float(value),
                "interval": intervals[key],
            }
            for key, value in observed.items()
        },
        "interval_note": statistics.interval_note(intervals, num_sources),
        "mcnemar": {
            "num_first_only": len(worse),
            "num_second_only": len(better),
            "p_value": statistics.mcnemar(len(worse), len(better)),
        },
        "better": better,
        "worse": worse,
    }


def _in_order_of(first: Predictions, second: Predictions, paths: tuple[Path, Path]) -> Predictions:
    """`second` with its videos in the order of `first`."""
    rows = {row[0]: row for row in zip(second.videos, second.labels, second.predictions, second.sources, strict=True)}
    if set(rows) != set(first.videos):
        other = sorted(set(rows) ^ set(first.videos))
        raise InputError(f"{paths[0]} and {paths[1]} score other videos: {other[0]} stands in one of them only")
    ordered = [rows[video] for video in first.videos]
    videos, labels, predictions, sources = map(list, zip(*ordered, strict=True))
    for video, *pair in zip(videos, first.labels, labels, strict=True):
        if pair[0] != pair[1]:
            raise InputError(f"{video}: {paths[0]} labels it {pair[0]}, {paths[1]} {pair[1]}")
    return Predictions(videos=videos, labels=labels, predictions=predictions, sources=sources)


def tally_differences(first: Predictions, second: Predictions) -> dict[str, np.ndarray]:
    """What each video adds to the differences, as report.metrics.tally() of one model."""
    _, classes = np.unique(first.labels, return_inverse=True)
    label_rows = np.eye(classes.max() + 1)[classes]
    gain = (second.correct.astype(float) - first.correct)[:, None]  # 1: only the second is right, -1: only the first
    return {"videos": np.ones((len(classes), 1)), "gain": gain, "support": label_rows, "gains": label_rows * gain}


def difference_figures(sums: statistics.Sums) -> dict[str, np.ndarray]:
    """Differences of top-1 and of mean class accuracy that follow from summed tallies, (...,) each."""
    present = sums["support"] > 0
    recall = np.divide(sums["gains"], sums["support"], out=np.zeros(present.shape), where=present)
    return {
        "video_top1": sums["gain"][..., 0] / sums["videos"][..., 0],
        "mean_class_accuracy": recall.sum(axis=-1) / present.sum(axis=-1),
    }


def format_comparison(comparison: dict[str, Any]) -> str:
    """The differences as a table, McNemar's test, and the first of the videos that changed sides."""
    first, second = comparison["first"], comparison["second"]
    lines = [f"first   {first['model']}: {first['results']}", f"second  {second['model']}: {second['results']}"]
    if first["views"] != second["views"]:
        lines.append(
            f"the views differ ({describe_views(first['views'])}; {describe_views(second['views'])}): the difference "
            "is of models and views together"
        )
    lines.append(f"  {'':20}{'first':>9}{'second':>9}{'difference':>12}")
    for key in _COMPARED:
        figure = comparison["figures"][key]
        interval = figure["interval"]
        cell = f"  [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
        lines.append(
            f"  {FIGURES[key]:20}{figure['first']:9.4f}{figure['second']:9.4f}{figure['difference']:+12.4f}{cell}"
        )
    counts = f"{comparison['num_videos']} videos of {comparison['num_sources']} sources"
    if any(figure["interval"] for figure in comparison["figures"].values()):
        counts += "; in brackets the 95 % interval of the difference, resampled by source"
    lines.append(f"  {counts}")
    lines += [f"  {path}: tested with --allow_leak on what its model was trained on" for path in comparison["leaks"]]
    if comparison["interval_note"]:
        lines.append(f"  {comparison['interval_note']}")
    test = comparison["mcnemar"]
    lines.append(
        f"  McNemar's exact test: only the first is right on {test['num_first_only']} videos, only the second on "
        f"{test['num_second_only']}; p = {test['p_value']:.3g} (it takes clips of one film for independent)"
    )
    for title, rows in (("better", comparison["better"]), ("worse", comparison["worse"])):
        if rows:
            lines.append(f"  {title} in the second ({len(rows)})")
            lines += [f"    {row['video']}: {row['first']} -> {row['second']}" for row in rows[:_NUM_SHOWN]]
        if len(rows) > _NUM_SHOWN:
            lines.append(f"    … and {len(rows) - _NUM_SHOWN} more")
    return "\n".join(lines)
