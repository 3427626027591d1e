"""Turn logits into scores of clips and videos, and say how far an accuracy over few videos can be trusted."""

import math
from collections.abc import Callable

import numpy as np

from video_module.tables import pluralize

ScoreClips = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB (N, T, H, W, 3) -> logits float32 (N, num_classes)."""


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    logits = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def at_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Turn softmax() probabilities at temperature 1 into those at `temperature`."""
    with np.errstate(divide="ignore"):  # log(0) is minus infinity, which the softmax turns back into 0
        return softmax(np.log(scores), temperature=temperature)


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log of the label's score; `scores` is (N, K), and a score of 0 counts as 1e-15."""
    picked = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(picked, 1e-15)).mean())


def video_score(view_scores: np.ndarray) -> np.ndarray:
    """The score of a video: the mean of its views' probabilities. (num_views, num_classes) -> (num_classes,)."""
    return view_scores.mean(axis=0)


def top_k(scores: np.ndarray, class_names: list[str], k: int) -> list[dict[str, str | float]]:
    """The k best classes of one score vector, best first: [{"label", "score"}]; ties keep the order of classes."""
    best = np.argsort(-scores, kind="stable")[:k]
    return [{"label": class_names[index], "score": float(scores[index])} for index in best]


def is_in_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each row's label is among the k best of `scores` (N, K): bool (N,); ties keep the order of classes."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows of `scores` (N, K) whose label is among the k best."""
    return float(is_in_top_k(scores, labels, k).mean())


# In smaller tests the interval is 0.18 or wider, more than most differences between models.
_SMALL_TEST, _FEW_SOURCES = 100, 5


def accuracy_interval(num_right: float, num_videos: int) -> tuple[float, float]:
    """95 % interval of the accuracy if `num_right` of `num_videos` independent videos are correct (Wilson, 1927)."""
    square = 1.96**2
    centre = (num_right + square / 2) / (num_videos + square)
    share = num_right / num_videos
    half = math.sqrt(square * (share * (1 - share) / num_videos + square / (4 * num_videos**2)))
    half /= 1 + square / num_videos
    return max(0.0, centre - half), min(1.0, centre + half)


def is_small_test(num_videos: int, num_sources: int | None = None) -> bool:
    """Whether a test on this many videos (from this many sources, if known) says little."""
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
