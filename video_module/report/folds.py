"""Combine the results of several folds, and compare them with published results."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.files import write_json
from video_module.report.metrics import confusion_matrix, summarise
from video_module.report.published import format_published, why_not_comparable
from video_module.report.recipes import combine_training, describe_training, find_differences
from video_module.report.results import (
    FIGURES,
    describe_leaks,
    describe_views,
    failure_lines,
    leak_states,
    list_names,
    read_predictions,
    read_results,
    shown_figures,
    write_confusion,
)
from video_module.tables import align, pluralize

_MUST_AGREE = (
    *("protocol", "num_folds", "folds_digest", "split"),
    *("model", "weights", "precision", "clip", "classes", "views"),
)


def combine(paths: Sequence[Path]) -> dict[str, Any]:
    """Compute the mean and the sample standard deviation of every figure over the folds of one protocol.

    Folds of a cross-validation, which test every video once, are also pooled, see _pool(). Raises InputError if the
    results are not of different folds, or differ in the model, its initial weights or the views.
    """
    results = [read_results(path) for path in paths]
    if len(paths) < 2:
        raise InputError(f"--results requires the results of at least two folds, got {len(paths)}")
    check_folds(paths, results)
    combined = {
        "results": [str(path) for path in paths],
        **{key: results[0][key] for key in ("protocol", "model", "weights", "precision", "clip", "views")},
        "folds": [result["fold"] for result in results],
        "split_digests": [result["split_digest"] for result in results],
        "num_folds": results[0]["num_folds"],
        "folds_digest": results[0]["folds_digest"],
        "num_videos": [result["num_videos"] for result in results],
        "num_classes": len(results[0]["classes"]),
        "training": combine_training(results),
        "sd": "sample standard deviation over the folds (n - 1)",
        "figures": {key: _over_folds([result[key] for result in results]) for key in FIGURES},
        "per_class_accuracy": {
            name: _over_folds([result["per_class_accuracy"][name] for result in results])
            for name in results[0]["classes"]
        },
        "pooled": _pool(paths, results) if results[0]["folds_digest"] else None,
        "leaks": leak_states(results),
    }
    reason = why_not_comparable(combined)
    return {
        **combined,
        "warnings": _warnings(combined, results),
        "comparable_with_published": reason is None,
        "not_comparable_because": reason,
    }


def write_folds(path: Path, combined: dict[str, Any]) -> list[Path]:
    """Write the result of combine() and, for pooled folds, X_confusion.csv and .png. Returns the paths."""
    write_json(path, combined)
    pooled = combined["pooled"]
    if not pooled:
        return [path]
    class_names = list(pooled["per_class"])
    results = [Path(result) for result in combined["results"]]
    rows = _pooled_rows(results, [read_results(result) for result in results])
    labels, best = (_indices(rows, key, class_names) for key in ("label", "prediction"))
    matrix = confusion_matrix(best, labels, len(class_names))
    title = f"{combined['model']}, {len(results)} folds: video top-1 {pooled['video_top1']:.3f}"
    return [path, *write_confusion(path.with_suffix(""), matrix, class_names, title=title)]


def check_folds(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> None:
    """Raise InputError if the results are not of different folds of one protocol, each with its own model."""
    for path, result in zip(paths, results, strict=True):
        if result["split_digest"] is None:
            raise InputError(f"{path}: tested on a folder without split.json, so its split is unknown")
        result["classes"] = list(result["per_class_accuracy"])
    for key in _MUST_AGREE:
        for path, result in zip(paths[1:], results[1:], strict=True):
            if result[key] != results[0][key]:
                first, other = _difference(results[0][key], result[key])
                raise InputError(f"{paths[0]} and {path} cannot be combined: {key} {first} and {other}")
    reasons = {
        "split_digest": "are both results of split {}; pass each fold once",
        "fold": "are both results of fold {}; pass each fold once",
        "checkpoint_digest": "are results of one model, {}; each fold needs its own model, trained on that fold",
    }
    for key, reason in reasons.items():
        seen: dict[Any, Path] = {}
        for path, result in zip(paths, results, strict=True):
            if result[key] in seen:
                raise InputError(f"{seen[result[key]]} and {path} {reason.format(result[key])}")
            if result[key] is not None:
                seen[result[key]] = path


def _over_folds(values: list[float | None]) -> dict[str, Any]:
    """Compute mean and deviation of the known values. A class may have no test video in a fold."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        # n - 1, because the folds are a sample of all possible splits.
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": values,
    }


def _warnings(combined: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[str]:
    """Return warnings if folds were trained with different or unknown settings."""
    warnings = []
    if differences := find_differences(results):
        warnings.append(f"settings differ between the folds: {differences}")
    names = _fold_names(combined)
    if unknown := [name for name, result in zip(names, results, strict=True) if not result["training"]]:
        models, was = ("model", "was") if len(unknown) == 1 else ("models", "were")
        warnings.append(f"how the {models} of {list_names(unknown)} {was} trained is unknown")
    return warnings


def _pool(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute the figures over the videos of all folds, each scored by a model not trained on its recording.

    One fold of a small data set has too few videos to say much; all folds together have all videos. The intervals hold
    for these models: they do not cover how other folds or another training run would change the figures. Raises
    InputError if predictions are missing, or a video is in two folds.
    """
    rows, class_names = _pooled_rows(paths, results), results[0]["classes"]
    scores = np.stack([row["scores"] for row in rows])
    labels, best = (_indices(rows, key, class_names) for key in ("label", "prediction"))
    # The best two classes may be equal in the table's six digits, so make the predicted one the best.
    scores[np.arange(len(rows)), best] = np.minimum(scores[np.arange(len(rows)), best] + 1e-9, 1)
    sources = [row["source"] for row in rows]
    pooled = summarise(list(scores[:, None]), scores, labels, class_names, sources=sources, cross_validated=True)
    # The table has no scores of single clips.
    del pooled["clip_top1"], pooled["intervals"]["clip_top1"], pooled["num_clips"]
    return pooled


def _pooled_rows(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the predictions of all folds. Raises InputError if a video is in two folds."""
    rows = [row for path, result in zip(paths, results, strict=True) for row in read_predictions(path, result)]
    if twice := [video for video, count in Counter(row["video"] for row in rows).items() if count > 1]:
        raise InputError(f"{paths[0]} and the others: {twice[0]} is tested in two folds; run test_model.py again")
    return rows


def _indices(rows: Sequence[dict[str, Any]], key: str, class_names: Sequence[str]) -> np.ndarray:
    """Return the class index of each row's label or prediction."""
    return np.array([class_names.index(row[key]) for row in rows])


def _difference(value: Any, other: Any) -> tuple[Any, Any]:
    """Reduce two unequal settings to what differs, if they are dictionaries or lists."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [key for key in value | other if value.get(key) != other.get(key)]
        return {key: value.get(key) for key in keys}, {key: other.get(key) for key in keys}
    if isinstance(value, list) and isinstance(other, list):
        counts, others = Counter(value), Counter(other)
        return sorted(counts - others) or "in another order", sorted(others - counts) or "in another order"
    return value, other


def format_folds(combined: dict[str, Any]) -> str:
    """Format the folds as a table. For all three of HMDB51, the published numbers and this mean follow."""
    weights = {None: "", "none": " from scratch"}.get(combined["weights"], f" from {combined['weights']}")
    name, views = f"{combined['model']}{weights}", describe_views(combined["views"])
    training = describe_training(combined["training"])
    lines = [
        f"{name}, {combined['protocol']}, {views}",
        *([f"  {training}"] if training else []),
        align(_table(combined), left=(0,)),
        *(_describe_pool(combined) if combined["pooled"] else []),
        *describe_leaks(combined["leaks"], _fold_names(combined)),
        *(f"warning: {text}" for text in combined["warnings"]),
    ]
    if combined["comparable_with_published"]:
        return "\n".join([*lines, *format_published(combined, name=name, views=views)])
    return "\n".join([*lines, f"not comparable with published numbers: {combined['not_comparable_because']}"])


def _fold_names(combined: dict[str, Any]) -> list[str]:
    return [
        f"fold {fold}" if fold is not None else f"split {digest[:6]}"
        for fold, digest in zip(combined["folds"], combined["split_digests"], strict=True)
    ]


def _table(combined: dict[str, Any]) -> list[list[str]]:
    """Return a row for each figure: the pooled value with its interval, if any, then mean, deviation and each fold."""
    pooled = combined["pooled"]
    rows = [["", *(["pooled", ""] if pooled else []), "mean", "sd", *_fold_names(combined)]]
    for key, title in shown_figures(combined["num_classes"]).items():
        cells = []
        if pooled:
            interval = pooled["intervals"].get(key)
            cells.append(f"{pooled[key]:.4f}" if key in pooled else "")
            cells.append(f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
        figure = combined["figures"][key]
        rows.append([title, *cells, *(f"{value:.4f}" for value in (figure["mean"], figure["sd"], *figure["values"]))])
    counts = [f"{count:,}" for count in combined["num_videos"]]
    return [*rows, ["videos", *([f"{pooled['num_videos']:,}", ""] if pooled else []), "", "", *counts]]


def _describe_pool(combined: dict[str, Any]) -> list[str]:
    """Describe the pooled figures, and where the models fail."""
    pooled = combined["pooled"]
    recordings = pluralize(pooled["num_sources"], "recording")
    text = f"pooled: every video once, scored by the model of the fold that tests it; {recordings}"
    if any(pooled["intervals"].values()):
        text += "; in brackets: 95 % intervals, resampled by recording"
    lines = [f"  {text}"]
    if missing := sorted(set(range(1, combined["num_folds"] + 1)) - set(combined["folds"])):
        names = ", ".join(map(str, missing))
        lines.append(f"  {pluralize(len(missing), 'fold')} of {combined['num_folds']} missing: {names}")
    if pooled["interval_note"]:
        lines.append(f"  {pooled['interval_note']}")
    return [*lines, *failure_lines(pooled)]
