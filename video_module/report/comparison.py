"""Compare two models on the same test videos: the difference, its uncertainty, and the videos that changed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from video_module.errors import InputError
from video_module.report import statistics
from video_module.report.folds import check_folds
from video_module.report.recipes import count_videos
from video_module.report.results import (
    FIGURES,
    describe_leaks,
    describe_views,
    leak_states,
    read_predictions,
    read_results,
)
from video_module.tables import pluralize

_NUM_SHOWN = 10


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """Compare two results files X_results.json, with X_predictions.csv beside them. Differences are second minus first.

    `paths` can also be the folds of one model followed by the same folds of another, whose differences are averaged.
    Raises InputError if the two models were not tested on the same videos.
    """
    if len(paths) < 2 or len(paths) % 2:
        raise InputError(
            "--compare requires two results files, or those of one model's folds and then as many of another's; "
            f"got {len(paths)}"
        )
    tests = [_read(path) for path in paths]
    halves = tests[: len(tests) // 2], tests[len(tests) // 2 :]
    if len(tests) > 2:
        for half in halves:
            check_folds([test.path for test in half], [test.figures for test in half])
    pairs = _pair_tests(*halves)
    folds = [_pair_videos(*pair) for pair in pairs]
    rows = [row for fold in folds for row in fold]
    gains = _gains(rows)
    owners = np.repeat(np.arange(len(folds)), list(map(len, folds)))
    tallies = _tally_differences(gains, [row["label"] for row in rows], owners)
    figures_of = partial(_difference_figures, num_folds=len(folds))
    sources = [row["source"] for row in rows]
    intervals = statistics.intervals(tallies, sources, figures_of)
    first, second = zip(*pairs, strict=True)
    return {
        "first": _describe_model(first),
        "second": _describe_model(second),
        "leaks": leak_states([test.figures for test in (*first, *second)]),
        "num_videos": len({row["video"] for row in rows}),
        "num_tests": len(rows),
        "num_sources": len(set(sources)),
        "num_resamples": statistics.NUM_RESAMPLES,
        "figures": {
            key: {
                "first": float(np.mean([test.figures[key] for test in first])),
                "second": float(np.mean([test.figures[key] for test in second])),
                "difference": float(value),
                "interval": intervals[key],
            }
            for key, value in figures_of(statistics.add_up(tallies)).items()
        },
        "interval_note": statistics.interval_note(intervals, num_sources=len(set(sources))),
        "folds": [_compare_fold(*pair, _gains(fold)) for pair, fold in zip(pairs, folds, strict=True)],
        # Not for several folds, because official folds test some videos more than once
        "mcnemar": _mcnemar(gains) if len(folds) == 1 else None,
        "better": [row for row, gain in zip(rows, gains, strict=True) if gain > 0],
        "worse": [row for row, gain in zip(rows, gains, strict=True) if gain < 0],
    }


class _Test(NamedTuple):
    """A results file and the predictions beside it."""

    path: Path
    figures: dict[str, Any]
    predictions: list[dict[str, Any]]

    @property
    def videos(self) -> set[str]:
        return {row["video"] for row in self.predictions}


def _read(path: Path) -> _Test:
    figures = read_results(path)
    return _Test(path, figures, read_predictions(path, figures))


def _pair_tests(first: Sequence[_Test], second: Sequence[_Test]) -> list[tuple[_Test, _Test]]:
    """Pair each test of the first model with the test of the second on the same videos."""
    pairs = []
    for test, neighbour in zip(first, second, strict=True):
        same = next((other for other in second if other.videos == test.videos), None)
        if same is None:
            different = min(test.videos ^ neighbour.videos)
            raise InputError(
                f"{test.path} and {neighbour.path} were scored on different videos; only one of them has {different}"
            )
        pairs.append((test, same))
    return pairs


def _pair_videos(first: _Test, second: _Test) -> list[dict[str, str]]:
    """Return a row for each video with the predictions of both models, in the order of the first."""
    others = {row["video"]: row for row in second.predictions}
    rows = []
    for row in first.predictions:
        video, label, other = row["video"], row["label"], others[row["video"]]
        if label != other["label"]:
            raise InputError(f"{video}: {first.path} labels it {label}, {second.path} {other['label']}")
        predictions = {"first": row["prediction"], "second": other["prediction"]}
        rows.append({"video": video, "label": label, **predictions, "source": row["source"]})
    return rows


def _gains(rows: Sequence[dict[str, str]]) -> np.ndarray:
    """Return for each video 1 if only the second model is right, -1 if only the first is, else 0.

    These differences are resampled, not the two accuracies: videos that are hard for both models cancel out, which
    makes the interval narrower.
    """
    return np.array([(row["second"] == row["label"]) - (row["first"] == row["label"]) for row in rows])


def _mcnemar(gains: np.ndarray) -> dict[str, Any]:
    num_first, num_second = int((gains < 0).sum()), int((gains > 0).sum())
    p_value = statistics.mcnemar(num_first, num_second)
    return {"num_first_only": num_first, "num_second_only": num_second, "p_value": p_value}


def _describe_model(tests: Sequence[_Test]) -> dict[str, Any]:
    """Describe one of the two models."""
    records = [test.figures["training"] or {} for test in tests]
    return {
        "results": [str(test.path) for test in tests],
        "model": tests[0].figures["model"],
        "views": tests[0].figures["views"],
        "split_digests": [test.figures["split_digest"] for test in tests],
        "checkpoint_digests": [test.figures["checkpoint_digest"] for test in tests],
        **{key: [record.get(key) for record in records] for key in ("num_train_videos", "num_val_videos")},
    }


def _compare_fold(first: _Test, second: _Test, gains: np.ndarray) -> dict[str, Any]:
    values = [test.figures["video_top1"] for test in (first, second)]
    return {
        "fold": first.figures["fold"],
        "results": [str(first.path), str(second.path)],
        "first": values[0],
        "second": values[1],
        "difference": float(gains.mean()),
        "mcnemar": _mcnemar(gains),
    }


def _tally_differences(gains: np.ndarray, labels: Sequence[str], folds: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each video adds to the differences of its fold, as report.metrics.tally() does for one model."""
    _, classes = np.unique(labels, return_inverse=True)
    num_classes, num_folds = classes.max() + 1, folds.max() + 1
    fold_rows = np.eye(num_folds)[folds]
    # One column for each class of each fold
    label_rows = np.eye(num_folds * num_classes)[folds * num_classes + classes]
    gain = gains[:, None].astype(np.float64)
    return {"videos": fold_rows, "gain": fold_rows * gain, "support": label_rows, "gains": label_rows * gain}


def _difference_figures(sums: statistics.Sums, *, num_folds: int) -> dict[str, np.ndarray]:
    """Compute the differences of top-1 and of mean class accuracy from summed tallies, (...,) each.

    They are means over folds. In a resample, a class or a fold may have no videos.
    """

    def mean_of(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        present = count > 0
        shares = np.divide(total, count, out=np.zeros(present.shape), where=present)
        return shares.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)

    support, gains = (sums[key].reshape(*sums[key].shape[:-1], num_folds, -1) for key in ("support", "gains"))
    tested = sums["videos"] > 0
    return {
        "video_top1": mean_of(sums["gain"], sums["videos"]),
        "mean_class_accuracy": mean_of(np.where(tested, mean_of(gains, support), 0), tested),
    }


def format_comparison(comparison: dict[str, Any]) -> str:
    """Format the differences as a table, with the folds if there are several, McNemar's test and changed videos."""
    lines = [*_describe_models(comparison["first"], comparison["second"])]
    lines.append(f"  {'':20}{'first':>9}{'second':>9}{'difference':>12}")
    lines += [_format_row(FIGURES[key], figure) for key, figure in comparison["figures"].items()]
    num_folds = len(comparison["folds"])
    counts = f"{comparison['num_videos']} videos of {pluralize(comparison['num_sources'], 'recording')}"
    counts = f"mean of {num_folds} folds, which test {counts}" if num_folds > 1 else counts
    counts += "; difference: second minus first"
    if any(figure["interval"] for figure in comparison["figures"].values()):
        jointly = ", jointly over the folds" if num_folds > 1 else ""
        counts += f"; in brackets: its 95 % interval, resampled by recording{jointly}"
    lines.append(f"  {counts}")
    names = [*comparison["first"]["results"], *comparison["second"]["results"]]
    lines += [f"  {line}" for line in describe_leaks(comparison["leaks"], names)]
    if comparison["interval_note"]:
        lines.append(f"  {comparison['interval_note']}")
    if num_folds > 1:
        return "\n".join([*lines, "  video top-1 of each fold", *map(_format_fold, comparison["folds"])])
    lines.append(f"  McNemar's exact test: {_format_mcnemar(comparison['mcnemar'])}")
    lines[-1] += " (treats videos of one recording as independent)"
    for key in ("better", "worse"):
        rows = comparison[key]
        if rows:
            lines.append(f"  {key} in the second ({len(rows)})")
            lines += [f"    {row['video']}: {row['first']} -> {row['second']}" for row in rows[:_NUM_SHOWN]]
        if len(rows) > _NUM_SHOWN:
            lines.append(f"    … and {len(rows) - _NUM_SHOWN} more")
    return "\n".join(lines)


def _describe_models(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Name the two models, and differences in their views and numbers of training videos."""
    lines = [
        f"{title:6}  {model['model']}: {', '.join(model['results'])}"
        for title, model in (("first", first), ("second", second))
    ]
    if first["views"] != second["views"]:
        views = f"{describe_views(first['views'])}; {describe_views(second['views'])}"
        is_same_model = None not in first["checkpoint_digests"]
        is_same_model = is_same_model and first["checkpoint_digests"] == second["checkpoint_digests"]
        cause = "is due to the views" if is_same_model else "may be due to the models, the views or both"
        lines.append(f"the views differ ({views}), so the difference {cause}")
    counts = [count_videos(model["num_train_videos"]) for model in (first, second)]
    if None not in counts and counts[0] != counts[1]:
        lines.append(f"the first was trained on {counts[0]} videos, the second on {counts[1]}")
    return lines


def _format_row(title: str, figure: dict[str, Any]) -> str:
    interval = figure.get("interval")
    cell = f"  [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
    return f"  {title:20}{figure['first']:9.4f}{figure['second']:9.4f}{figure['difference']:+12.4f}{cell}"


def _format_fold(row: dict[str, Any]) -> str:
    name = Path(row["results"][0]).name if row["fold"] is None else f"fold {row['fold']}"
    return f"{_format_row(name, row)}  {_format_mcnemar(row['mcnemar'])}"


def _format_mcnemar(test: dict[str, Any]) -> str:
    return (
        f"only the first is correct on {test['num_first_only']} videos, only the second on {test['num_second_only']}; "
        f"p = {test['p_value']:.3g}"
    )
