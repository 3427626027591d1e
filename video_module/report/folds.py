"""Combine the results of several folds, and show them beside published results."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.errors import InputError
from video_module.report.metrics import summarise
from video_module.report.results import (
    FIGURES,
    describe_views,
    failure_lines,
    find_leaks,
    read_predictions,
    read_results,
    shown_figures,
)
from video_module.tables import align, pluralize

_MEAN, _FIRST = "mean of the 3 official splits", "official split 1 alone"
# Method, HMDB51 top-1 in percent, protocol. No Video Swin number on the official splits has been published.
_PUBLISHED = (
    ("C3D, Sports-1M", "51.6", _MEAN),
    ("R(2+1)D RGB, K400", "74.5", _MEAN),
    ("I3D RGB", "74.8", _MEAN),
    ("I3D two-stream (RGB + flow)", "80.9", _MEAN),
    ("VideoMAE ViT-B, K400", "73.3", _MEAN),
    ("MVD ViT-B", "76.4-79.7", _MEAN),
    ("VideoMAE V2-g", "88.1", _MEAN),
    ("R3D-50 from scratch", "22.4", _FIRST),
    ("R(2+1)D-50 from scratch", "21.7", _FIRST),
)
_MUST_AGREE = (
    *("protocol", "num_folds", "folds_digest", "split"),
    *("model", "weights", "precision", "clip", "classes", "views"),
)
# In each official fold of HMDB51. Results on fewer of them must not be compared with published ones.
_NUM_OFFICIAL_TEST_VIDEOS = 1530


def combine(paths: Sequence[Path]) -> dict[str, Any]:
    """Mean and sample standard deviation of every figure over the folds of one protocol.

    Folds of a cross-validation, which test every video once, are also pooled: see _pool(). Raises InputError unless
    the results are of one model that started from the same weights and was tested with the same views on different
    folds.
    """
    if len(paths) < 2:
        raise InputError(f"--results requires the results of at least two folds, got {len(paths)}")
    results = [read_results(path) for path in paths]
    for result in results:
        result["classes"] = list(result["per_class_accuracy"])
        # Results of earlier versions lack these
        result.setdefault("num_folds", None)
        result.setdefault("folds_digest", None)
    for key in _MUST_AGREE:
        for path, result in zip(paths[1:], results[1:], strict=True):
            if result[key] != results[0][key]:
                first, other = _difference(results[0][key], result[key])
                raise InputError(f"{paths[0]} and {path} cannot be combined: {key} {first} and {other}")
    for key, name in (("split_digest", "split"), ("fold", "fold")):
        seen: dict[Any, Path] = {}
        for path, result in zip(paths, results, strict=True):
            if result[key] in seen:
                raise InputError(
                    f"{seen[result[key]]} and {path} are both results of {name} {result[key]}; pass each fold once"
                )
            if result[key] is not None:
                seen[result[key]] = path
    figures = {}
    for key in FIGURES:
        values = [result[key] for result in results]
        # The folds are a sample of all splits that could have been drawn, hence n - 1.
        figures[key] = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "values": values}
    return {
        "results": [str(path) for path in paths],
        **{key: results[0][key] for key in ("protocol", "model", "weights", "precision", "views")},
        "folds": [result["fold"] for result in results],
        "split_digests": [result["split_digest"] for result in results],
        "num_folds": results[0]["num_folds"],
        "folds_digest": results[0]["folds_digest"],
        "num_videos": [result["num_videos"] for result in results],
        "num_classes": len(results[0]["classes"]),
        "figures": figures,
        "pooled": _pool(paths, results) if results[0]["folds_digest"] else None,
        "leaks": find_leaks(paths, results),
    }


def _pool(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures over the videos of all folds together, each scored by a model that had not seen its source.

    A fold of a small set has too few videos to say much; all of them together have as many as there are, and an
    interval by source. It holds for the models as they are: what other draws of the folds, or another training, would
    change is not in it. Raises InputError if predictions are missing, or of a video in two folds.
    """
    rows = [row for path, result in zip(paths, results, strict=True) for row in read_predictions(path, result)]
    if twice := [video for video, count in Counter(row["video"] for row in rows).items() if count > 1]:
        raise InputError(f"{paths[0]} and the others: {twice[0]} is tested in two folds; run test_model.py again")
    class_names = results[0]["classes"]
    scores = np.stack([row["scores"] for row in rows])
    best = np.array([class_names.index(row["prediction"]) for row in rows])
    # Two classes can be equal in the table's six digits; which one was ahead, the prediction tells.
    scores[np.arange(len(rows)), best] = np.minimum(scores[np.arange(len(rows)), best] + 1e-9, 1)
    labels = np.array([class_names.index(row["label"]) for row in rows])
    sources = [row["source"] for row in rows]
    pooled = summarise(list(scores[:, None]), scores, labels, class_names, sources=sources, cross_validated=True)
    # The table has no clips.
    del pooled["clip_top1"], pooled["intervals"]["clip_top1"], pooled["num_clips"]
    return pooled


def _difference(value: Any, other: Any) -> tuple[Any, Any]:
    """Two unequal settings, reduced to what differs where they are dictionaries or lists."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [key for key in value | other if value.get(key) != other.get(key)]
        return {key: value.get(key) for key in keys}, {key: other.get(key) for key in keys}
    if isinstance(value, list) and isinstance(other, list):
        counts, others = Counter(value), Counter(other)
        return sorted(counts - others) or "in another order", sorted(others - counts) or "in another order"
    return value, other


def _why_unpublished(combined: dict[str, Any]) -> str | None:
    """Why these folds must not be compared with the published numbers; None if they may."""
    if combined["protocol"] != "hmdb51":
        return f"the published numbers are for the official folds of HMDB51, these for protocol {combined['protocol']}"
    if sorted(combined["folds"]) != [1, 2, 3]:
        folds = " and ".join(map(str, sorted(combined["folds"])))
        return f"the published numbers are means of folds 1, 2 and 3, this one of {folds}"
    for fold, num_videos in zip(combined["folds"], combined["num_videos"], strict=True):
        if num_videos != _NUM_OFFICIAL_TEST_VIDEOS:
            return f"fold {fold} was tested on {num_videos:,} of its {_NUM_OFFICIAL_TEST_VIDEOS:,} videos"
    if combined["leaks"]:
        return f"{combined['leaks'][0]} was tested with --allow_leak"
    return None


def format_folds(combined: dict[str, Any]) -> str:
    """The folds as a table; for the three of HMDB51, followed by the published numbers and this mean."""
    weights = {None: "", "none": " from scratch"}.get(combined["weights"], f" from {combined['weights']}")
    views = describe_views(combined["views"])
    lines = [
        f"{combined['model']}{weights}, {combined['protocol']}, {views}",
        align(_table(combined), left=(0,)),
        *(_describe_pool(combined) if combined["pooled"] else []),
    ]
    lines += [f"{path}: tested with --allow_leak on videos its model was trained on" for path in combined["leaks"]]
    if reason := _why_unpublished(combined):
        return "\n".join([*lines, f"not comparable with published numbers: {reason}"])
    top1 = combined["figures"]["video_top1"]
    own = (f"{combined['model']}{weights} (here)", f"{top1['mean']:.1%} ± {top1['sd']:.1%}".replace("%", ""))
    rows = [*_PUBLISHED, (*own, f"{_MEAN}, {views}")]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines.append("HMDB51 top-1, percent (± standard deviation over the folds)")
    lines += [f"  {method:{widths[0]}}  {figure:>{widths[1]}}  {protocol}" for method, figure, protocol in rows]
    return "\n".join(lines)


def _table(combined: dict[str, Any]) -> list[list[str]]:
    """A row for each figure: pooled with its interval where the folds are, mean, deviation, and each fold."""
    names = [
        f"fold {fold}" if fold is not None else f"split {digest[:6]}"
        for fold, digest in zip(combined["folds"], combined["split_digests"], strict=True)
    ]
    pooled = combined["pooled"]
    rows = [["", *(["pooled", ""] if pooled else []), "mean", "sd", *names]]
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
    text = f"pooled: every video once, scored by the model of the fold that tests it; {pooled['num_sources']} sources"
    if any(pooled["intervals"].values()):
        text += "; in brackets: 95 % intervals, resampled by source"
    lines = [f"  {text}"]
    if missing := sorted(set(range(1, combined["num_folds"] + 1)) - set(combined["folds"])):
        names = ", ".join(map(str, missing))
        lines.append(f"  {pluralize(len(missing), 'fold')} of {combined['num_folds']} missing: {names}")
    if pooled["interval_note"]:
        lines.append(f"  {pooled['interval_note']}")
    return [*lines, *failure_lines(pooled)]
