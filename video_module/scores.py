"""From logits to the score of a video; evaluation and serving share these lines."""

from collections.abc import Callable

import numpy as np

ScoreClips = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB (N, T, H, W, 3) -> logits float32 (N, num_classes)."""


def softmax(logits: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    logits = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def at_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities that softmax() gives at `temperature`, from those at 1."""
    with np.errstate(divide="ignore"):  # the logarithm of 0 is as good as the logit that it came from
        return softmax(np.log(scores), temperature=temperature)


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -log of the label's score, (N, K); a score that rounds to 0 counts as 1e-15."""
    picked = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(picked, 1e-15)).mean())


def video_score(view_scores: np.ndarray) -> np.ndarray:
    """The score of a video: the mean of its views' probabilities. (num_views, num_classes) -> (num_classes,)."""
    return view_scores.mean(axis=0)


def top_k(scores: np.ndarray, class_names: list[str], k: int) -> list[dict[str, str | float]]:
    """The k best classes of one score vector, best first: [{"label", "score"}]; ties keep the classes' order."""
    best = np.argsort(-scores, kind="stable")[:k]
    return [{"label": class_names[index], "score": float(scores[index])} for index in best]


def is_in_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each row's label is among the k best of `scores` (N, K): bool (N,); ties keep the classes' order."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows of `scores` (N, K) whose label is among the k best."""
    return float(is_in_top_k(scores, labels, k).mean())
