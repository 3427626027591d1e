"""Compare two models on the same test videos: the difference, its uncertainty, and the videos they differ on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.report import statistics
from video_module.report.results import FIGURES, describe_views, find_leaks, read_predictions, read_results

_NUM_SHOWN = 10


def compare(first_path: Path, second_path: Path) -> dict[str, Any]:
    """Compare two X_results.json with their X_predictions.csv: differences are second minus first.

    Raises InputError unless both are known to be of the same split and of the same videos.
    """
    paths = (first_path, second_path)
    results = [read_results(path) for path in paths]
    digests = [result["split_digest"] for result in results]
    if digests[0] != digests[1]:
        raise InputError(
            f"{first_path} is of split {digests[0]}, {second_path} of {digests[1]}: results on different splits cannot "
            "be compared"
        )
    rows = _pair_videos(paths, results)
    # 1: only the second model is right, -1: only the first. Resampling these differences makes use of the pairing:
    # what is hard for both models cancels out, and the interval is narrower than those of the two figures.
    gains = np.array([(row["second"] == row["label"]) - (row["first"] == row["label"]) for row in rows])
    better = [row for row, gain in zip(rows, gains, strict=True) if gain > 0]
    worse = [row for row, gain in zip(rows, gains, strict=True) if gain < 0]
    tallies = _tally_differences(gains, [row["label"] for row in rows])
    sources = [row["source"] for row in rows]
    intervals = statistics.intervals(tallies, sources, _difference_figures)
    figures = {
        key: {
            "first": results[0][key],
            "second": results[1][key],
            "difference": float(value),
            "interval": intervals[key],
        }
        for key, value in _difference_figures(statistics.add_up(tallies)).items()
    }
    return {
        **{
            name: {"results": str(path), "model": result["model"], "views": result["views"]}
            for name, path, result in zip(("first", "second"), paths, results, strict=True)
        },
        "split_digest": digests[0],
        "leaks": find_leaks(paths, results),
        "num_videos": len(rows),
        "num_sources": len(set(sources)),
        "num_resamples": statistics.NUM_RESAMPLES,
        "figures": figures,
        "interval_note": statistics.interval_note(intervals, num_sources=len(set(sources))),
        "mcnemar": {
            "num_first_only": len(worse),
            "num_second_only": len(better),
            "p_value": statistics.mcnemar(len(worse), len(better)),
        },
        "better": better,
        "worse": worse,
    }


def _pair_videos(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each video with what both models predict, in the order of the first."""
    first, second = (read_predictions(path, result) for path, result in zip(paths, results, strict=True))
    others = {row["video"]: row for row in second}
    if different := sorted(others.keys() ^ {row["video"] for row in first}):
        raise InputError(
            f"{paths[0]} and {paths[1]} were scored on different videos; only one of them has {different[0]}"
        )
    rows = []
    for row in first:
        video, label, other = row["video"], row["label"], others[row["video"]]
        if label != other["label"]:
            raise InputError(f"{video}: {paths[0]} labels it {label}, {paths[1]} {other['label']}")
        predictions = {"first": row["prediction"], "second": other["prediction"]}
        rows.append({"video": video, "label": label, **predictions, "source": row["source"]})
    return rows


def _tally_differences(gains: np.ndarray, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """What each video adds to the differences, as report.metrics.tally() does for one model."""
    _, classes = np.unique(labels, return_inverse=True)
    label_rows = np.eye(classes.max() + 1)[classes]
    gain = gains[:, None].astype(np.float64)
    return {"videos": np.ones((len(classes), 1)), "gain": gain, "support": label_rows, "gains": label_rows * gain}


def _difference_figures(sums: statistics.Sums) -> dict[str, np.ndarray]:
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
        views = f"{describe_views(first['views'])}; {describe_views(second['views'])}"
        lines.append(f"the views differ ({views}), so the difference is due to both models and views")
    lines.append(f"  {'':20}{'first':>9}{'second':>9}{'difference':>12}")
    for key, figure in comparison["figures"].items():
        interval = figure["interval"]
        cell = f"  [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
        lines.append(
            f"  {FIGURES[key]:20}{figure['first']:9.4f}{figure['second']:9.4f}{figure['difference']:+12.4f}{cell}"
        )
    counts = f"{comparison['num_videos']} videos of {comparison['num_sources']} sources"
    if any(figure["interval"] for figure in comparison["figures"].values()):
        counts += "; in brackets: 95 % interval of the difference, resampled by source"
    lines.append(f"  {counts}")
    lines += [f"  {path}: tested with --allow_leak on videos its model was trained on" for path in comparison["leaks"]]
    if comparison["interval_note"]:
        lines.append(f"  {comparison['interval_note']}")
    test = comparison["mcnemar"]
    lines.append(
        f"  McNemar's exact test: only the first is correct on {test['num_first_only']} videos, only the second on "
        f"{test['num_second_only']}; p = {test['p_value']:.3g} (treats videos of one source as independent)"
    )
    for key in ("better", "worse"):
        rows = comparison[key]
        if rows:
            lines.append(f"  {key} in the second ({len(rows)})")
            lines += [f"    {row['video']}: {row['first']} -> {row['second']}" for row in rows[:_NUM_SHOWN]]
        if len(rows) > _NUM_SHOWN:
            lines.append(f"    … and {len(rows) - _NUM_SHOWN} more")
    return "\n".join(lines)
