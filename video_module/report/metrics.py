"""Metrics of a video classifier. Shares are fractions in 0..1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from video_module.report import statistics
from video_module.scores import at_temperature, is_in_top_k, video_score

_NUM_CALIBRATION_BINS = 15
_NUM_CONFUSED = 20


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the predictions for each label: int64 (num_classes, num_classes), row = label, column = prediction."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def _calibration_bins(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * _NUM_CALIBRATION_BINS).astype(int), _NUM_CALIBRATION_BINS - 1)


def _reliability(scores: np.ndarray, labels: np.ndarray) -> dict[str, list]:
    """Compute mean confidence and accuracy in 15 equal bins of confidence; None for empty bins."""
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    bins = _calibration_bins(confidence)
    members = [bins == number for number in range(_NUM_CALIBRATION_BINS)]
    return {
        "edges": (np.arange(_NUM_CALIBRATION_BINS + 1) / _NUM_CALIBRATION_BINS).tolist(),
        "counts": [int(member.sum()) for member in members],
        "confidence": [float(confidence[member].mean()) if member.any() else None for member in members],
        "accuracy": [float(correct[member].mean()) if member.any() else None for member in members],
    }


def _one_hot(numbers: np.ndarray, width: int) -> np.ndarray:
    rows = np.zeros((len(numbers), width))
    rows[np.arange(len(numbers)), numbers] = 1
    return rows


def tally(view_scores: Sequence[np.ndarray], video_scores: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each video adds to the figures, float64 (num_videos, width) each. figures_of() takes their sums.

    Because all figures are computed from sums over videos, a bootstrap resample is a weighted sum, which is fast.
    """
    num_classes = video_scores.shape[1]
    best, confidence = video_scores.argmax(axis=1), video_scores.max(axis=1)
    correct = best == labels
    view_hits = [(scores.argmax(axis=1) == label).sum() for scores, label in zip(view_scores, labels, strict=True)]
    picked = video_scores[np.arange(len(labels)), labels]
    label_rows = _one_hot(labels, num_classes)
    bin_rows = _one_hot(_calibration_bins(confidence), _NUM_CALIBRATION_BINS)
    columns = {
        "videos": np.ones(len(labels)),
        "top1": correct,
        "top5": is_in_top_k(video_scores, labels, 5),
        "views": [len(scores) for scores in view_scores],
        "view_hits": view_hits,
        # A probability of 0 would make the loss infinite, but X_results.json needs finite numbers.
        "log_loss": -np.log(np.maximum(picked, 1e-15)),
    }
    return {name: np.asarray(column, np.float64)[:, None] for name, column in columns.items()} | {
        "support": label_rows,
        "predicted": _one_hot(best, num_classes),
        "hits": label_rows * correct[:, None],
        "gap": bin_rows * (confidence - correct)[:, None],
    }


def figures_of(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the figures from summed tallies, (...,) each.

    Classes without a video are left out of the means over classes. ECE is the mean gap between confidence and accuracy
    over 15 bins of confidence (Guo et al., ICML 2017).
    """
    videos, views = sums["videos"][..., 0], sums["views"][..., 0]
    present = sums["support"] > 0
    num_present = present.sum(axis=-1)
    recall = np.divide(sums["hits"], sums["support"], out=np.zeros(present.shape), where=present)
    denominator = sums["support"] + sums["predicted"]
    f1 = np.divide(2 * sums["hits"], denominator, out=np.zeros(present.shape), where=present)
    return {
        "video_top1": sums["top1"][..., 0] / videos,
        "video_top5": sums["top5"][..., 0] / videos,
        "clip_top1": sums["view_hits"][..., 0] / views,
        "mean_class_accuracy": recall.sum(axis=-1) / num_present,
        "macro_f1": f1.sum(axis=-1) / num_present,
        "log_loss": sums["log_loss"][..., 0] / videos,
        "ece": np.abs(sums["gap"]).sum(axis=-1) / videos,
    }


def per_class(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Compute precision, recall, F1 and support of each class from a confusion matrix; None if the divisor is 0.

    F1 is also None for a class without videos, because it is left out of the means.
    """
    support, predicted, hits = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist(), np.diag(matrix).tolist()
    return {
        name: {
            "precision": hits[i] / predicted[i] if predicted[i] else None,
            "recall": hits[i] / support[i] if support[i] else None,
            "f1": 2 * hits[i] / (support[i] + predicted[i]) if support[i] else None,
            "support": support[i],
        }
        for i, name in enumerate(class_names)
    }


def most_confused(matrix: np.ndarray, class_names: Sequence[str], limit: int = _NUM_CONFUSED) -> list[dict[str, Any]]:
    """List pairs of label and wrong prediction, sorted by number of videos, then by share of the label's videos."""
    support = matrix.sum(axis=1)
    pairs = [
        {
            "label": class_names[row],
            "prediction": class_names[column],
            "count": int(matrix[row, column]),
            "share": float(matrix[row, column] / support[row]),
        }
        for row, column in zip(*np.nonzero(matrix), strict=True)
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair["count"], -pair["share"], pair["label"], pair["prediction"]))[:limit]


def tag_figures(
    tags: Sequence[Mapping[str, str] | None], correct: np.ndarray, values: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Top-1 by tags: {"num_tagged_videos", "by_tag": {tag: {value: {"num_videos", "video_top1"}}}}.

    `tags` has the tags of each video or None, `values` the values of each tag in display order. "by_tag" is None if
    less than half of the videos have tags.
    """
    num_tagged, by_tag = sum(video is not None for video in tags), {}
    for tag, names in values.items():
        members = {name: np.array([video is not None and video[tag] == name for video in tags]) for name in names}
        by_tag[tag] = {
            name: {"num_videos": int(member.sum()), "video_top1": float(correct[member].mean())}
            for name, member in members.items()
            if member.any()
        }
    return {"num_tagged_videos": num_tagged, "by_tag": by_tag if 2 * num_tagged >= len(tags) else None}


def summarise(
    view_scores: Sequence[np.ndarray],
    video_scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    sources: Sequence[str],
    cross_validated: bool = False,
) -> dict[str, Any]:
    """Compute all figures of X_results.json that depend on scores.

    `view_scores` has the probabilities (num_views, K) of each video, `video_scores` (N, K) their means, and `sources`
    the recording of each video. `cross_validated` is passed to interval_note(). Classes without a video have accuracy
    None and are left out of the means over classes.
    """
    assert video_scores.shape == (len(labels), len(class_names)) and len(view_scores) == len(sources) == len(labels)

    tallies = tally(view_scores, video_scores, labels)
    matrix = confusion_matrix(video_scores.argmax(axis=1), labels, len(class_names))
    classes = per_class(matrix, class_names)
    intervals, num_sources = statistics.intervals(tallies, sources, figures_of), len(set(sources))
    # With five classes or fewer, top-5 is always 1 and is not shown
    told = {name: pair for name, pair in intervals.items() if name != "video_top5" or len(class_names) > 5}
    return {
        **{name: float(value) for name, value in figures_of(statistics.add_up(tallies)).items()},
        "intervals": intervals,
        "interval_note": statistics.interval_note(
            told,
            num_sources=num_sources,
            num_videos=len(labels),
            num_right=int(tallies["top1"].sum()),
            cross_validated=cross_validated,
        ),
        "per_class_accuracy": {name: row["recall"] for name, row in classes.items()},
        "per_class": classes,
        "most_confused": most_confused(matrix, class_names),
        "reliability": _reliability(video_scores, labels),
        "num_videos": len(labels),
        "num_clips": sum(len(scores) for scores in view_scores),
        "num_sources": num_sources,
        "num_resamples": statistics.NUM_RESAMPLES,
    }


def calibration_figures(
    view_scores: Sequence[np.ndarray], labels: np.ndarray, *, temperature: float, min_score: float
) -> dict[str, Any]:
    """Compute calibration without the model's temperature, and the answers that reach its threshold `min_score`."""
    scores = np.stack([video_score(views) for views in view_scores])
    before = np.stack([video_score(at_temperature(views, 1 / temperature)) for views in view_scores])
    gaps = tally(view_scores, before, labels)["gap"].sum(axis=0)
    is_answer = scores.max(axis=1) >= min_score
    right = (scores.argmax(axis=1) == labels)[is_answer]
    return {
        "temperature": temperature,
        "ece_before_temperature": float(np.abs(gaps).sum() / len(labels)),
        "reliability_before_temperature": _reliability(before, labels),
        "min_score": min_score,
        "num_answers": int(is_answer.sum()),
        "answer_precision": float(right.mean()) if len(right) else None,
    }


def window_figures(view_scores: Sequence[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Compute the accuracy of single windows, as the original project did: over all, and as a mean over classes."""
    hits = np.concatenate([scores.argmax(axis=1) == label for scores, label in zip(view_scores, labels, strict=True)])
    owners = np.repeat(labels, [len(scores) for scores in view_scores])
    by_class = [hits[owners == label].mean() for label in np.unique(labels)]
    return {"window_top1": float(hits.mean()), "window_mean_class_accuracy": float(np.mean(by_class))}
