"""Figures of merit of a classifier of videos. Shares are fractions in 0..1."""

from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_CALIBRATION_BINS = 15


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows of `scores` (N, K) whose label is among the k best; ties keep the classes' order."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, int64 (num_classes, num_classes): row = label, column = prediction."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def expected_calibration_error(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over 15 bins of confidence (Guo et al., ICML 2017)."""
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    bins = np.minimum((confidence * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    gaps = [
        abs(confidence[bins == number].sum() - correct[bins == number].sum()) for number in range(NUM_CALIBRATION_BINS)
    ]
    return float(sum(gaps) / len(labels))


def summarise(
    view_scores: Sequence[np.ndarray], video_scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """All figures of X_results.json that follow from scores.

    `view_scores` holds (num_views, K) probabilities for each video, `video_scores` (N, K) their means. Classes without
    a video have accuracy None and stay out of the means over classes.
    """
    num_classes = len(class_names)
    matrix = confusion_matrix(video_scores.argmax(axis=1), labels, num_classes)
    support, predicted, hits = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    present = support > 0
    recall = hits[present] / support[present]
    f1 = 2 * hits[present] / (support[present] + predicted[present])
    clip_hits = [scores.argmax(axis=1) == label for scores, label in zip(view_scores, labels, strict=True)]
    picked = video_scores[np.arange(len(labels)), labels]
    return {
        "video_top1": top_k_accuracy(video_scores, labels, 1),
        "video_top5": top_k_accuracy(video_scores, labels, 5),
        "clip_top1": float(np.concatenate(clip_hits).mean()),
        "mean_class_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "log_loss": float(-np.log(np.maximum(picked, 1e-15)).mean()),
        "ece": expected_calibration_error(video_scores, labels),
        "per_class_accuracy": {
            name: float(hits[index] / support[index]) if support[index] else None
            for index, name in enumerate(class_names)
        },
        "num_videos": len(labels),
        "num_clips": sum(len(scores) for scores in view_scores),
    }
