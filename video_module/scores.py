"""Turn logits into scores of clips and videos, and say how reliable an accuracy measured on few videos is."""

import math
from collections.abc import Callable

import numpy as np

from video_module.tables import pluralize

ScoreClips = Callable[[np.ndarray], np.ndarray]
"""A function from uint8 RGB clips (N, T, H, W, 3) to float32 logits (N, num_classes)."""


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax over the last axis as float64 probabilities."""
    logits = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def at_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Turn softmax() probabilities at temperature 1 into those at `temperature`."""
    with np.errstate(divide="ignore"):  # log(0) is minus infinity, which the softmax turns back into 0
        return softmax(np.log(scores), temperature=temperature)


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log(score of the label) for `scores` (N, K), where a score of 0 counts as 1e-15."""
    picked = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(picked, 1e-15)).mean())


def video_score(view_scores: np.ndarray) -> np.ndarray:
    """Average the probabilities of a video's views, (num_views, num_classes) -> (num_classes,)."""
    return view_scores.mean(axis=0)


def top_k(scores: np.ndarray, class_names: list[str], k: int) -> list[dict[str, str | float]]:
    """Return the k best classes of a score vector as [{"label", "score"}], best first; ties keep the class order."""
    best = np.argsort(-scores, kind="stable")[:k]
    return [{"label": class_names[index], "score": float(scores[index])} for index in best]


def is_in_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return whether each row's label is among the k best of `scores` (N, K), bool (N,); ties keep the class order."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of rows of `scores` (N, K) whose label is among the k best."""
    return float(is_in_top_k(scores, labels, k).mean())


# A test is small below this many videos or sources. The interval is then at least 0.18 wide, more than most
# differences between models.
_SMALL_TEST, _FEW_SOURCES = 100, 5


def accuracy_interval(num_right: float, num_videos: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, for `num_right` of `num_videos` independent videos (Wilson, 1927)."""
    square = 1.96**2
    centre = (num_right + square / 2) / (num_videos + square)
    share = num_right / num_videos
    half = math.sqrt(square * (share * (1 - share) / num_videos + square / (4 * num_videos**2)))
    half /= 1 + square / num_videos
    return max(0.0, centre - half), min(1.0, centre + half)


def is_small_test(num_videos: int, num_sources: int | None = None) -> bool:
    """Return whether a test on this many videos, from this many sources if known, says little."""
    return 0 < num_videos < _SMALL_TEST or (num_sources is not None and 0 < num_sources < _FEW_SOURCES)


def describe_small_test(
    num_videos: int, num_sources: int | None, num_right: int | None = None, *, folds_flag: str | None
) -> str:
    """Say how wide the interval of a small test is, and advise a cross-validation unless it is part of one.

    Without `num_right`, two thirds are assumed to be right. `num_sources` is None if the recordings are unknown.
    `folds_flag` is the flag to advise, or None.
    """
    low, high = accuracy_interval(2 / 3 * num_videos if num_right is None else num_right, num_videos)
    right = "if two thirds were right" if num_right is None else f"with {num_right} right"
    recordings = "" if num_sources is None else f" of {pluralize(num_sources, 'recording')}"
    wider = "" if num_sources == num_videos else "; wider if videos share a recording"
    advice = f"; to test on every video, cross-validate with split_data.py {folds_flag}" if folds_flag else ""
    return (
        f"a test on {pluralize(num_videos, 'video')}{recordings} says little: {right}, the true accuracy could be "
        f"anything from {low:.2f} to {high:.2f} (95 % interval{wider}){advice}"
    )
