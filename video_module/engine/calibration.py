"""Calibrate a model's scores: fit a temperature and the threshold below which an answer counts as uncertain."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from video_module.scores import at_temperature, log_loss, video_score
from video_module.tables import align

# Standard deviation of a normal prior on the logarithm of the temperature, which pulls the temperature towards 1. A
# hundred videos outweigh it. Without it, eight videos that happen to be all correct would give a temperature of 0, at
# which the best class always scores 1.
_PRIOR_DEVIATION = 0.5
_RANGE = (1 / 8, 8.0)
# A precision measured on fewer answers is meaningless.
_FEWEST_ANSWERS = 5


# Shares of the unknown actions that a user may want to be reported as uncertain.
_WANTED_SHARES = (0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """The effect of a threshold on videos of known and of unknown classes."""

    min_score: float
    known_answered: float
    """Share of the videos of known classes whose best score reaches `min_score`."""
    precision: float | None
    """Share of correct answers among those; None if no video reaches `min_score`."""
    unknown_held: float
    """Share of the videos of unknown classes whose best score stays below `min_score`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A temperature and a threshold fitted to held-out videos, and their measured effect."""

    temperature: float
    """Divisor of the logits before the softmax (Guo et al., ICML 2017)."""
    min_score: float
    """Score of a video's best class below which the answer is uncertain."""
    precision: float
    """Share of correct answers among the videos that score at least `min_score`."""
    num_answers: int
    """Number of videos that score at least `min_score`."""
    num_videos: int
    trade_offs: tuple[TradeOff, ...] = ()
    """Effects of `min_score` and of higher thresholds; empty with fewer than three classes."""
    learned_unknown: bool = False
    """Whether the network was trained on the classes that stand in for unknown ones in `trade_offs`."""

    @property
    def recorded(self) -> dict[str, float]:
        """The values that a checkpoint stores."""
        return {"temperature": self.temperature, "min_score": self.min_score}

    def describe(self, min_precision: float) -> str:
        """Return the report for the end of training: a line on known actions and a table on unknown ones."""
        return "\n".join([self._describe_known(min_precision), *self._describe_unknown()])

    def _describe_unknown(self) -> Iterator[str]:
        if not self.trade_offs:
            return
        if self.learned_unknown:
            yield (
                "actions outside all classes, estimated by leaving each class out of the scores in turn (truly new "
                "actions are noticed less often, because the network has learned these):"
            )
        else:
            yield "actions outside all classes, measured by fitting without each class in turn:"
        rows = [["--min_score", "known: answered", "answers correct", "unknown: uncertain"]]
        for row in self.trade_offs:
            right = "-" if row.precision is None else f"{row.precision:.2f}"
            name = f"{row.min_score:.2f}" + " (the model's)" * (row.min_score == self.min_score)
            rows.append([name, f"{row.known_answered:.2f}", right, f"{row.unknown_held:.2f}"])
        yield align(rows, left=(0,))

    def _describe_known(self, min_precision: float) -> str:
        text = (
            f"scores: temperature {self.temperature:.2f}; answers below {self.min_score:.2f} are uncertain "
            f"({self.num_answers} of {self.num_videos} videos score higher, with precision {self.precision:.2f}"
        )
        if self.precision < min_precision:
            return f"{text}; no threshold reaches --min_precision {min_precision:g})"
        return f"{text})"


def calibrate(
    view_scores: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    min_precision: float,
    unknown: Sequence[np.ndarray] | None = None,
) -> Calibration:
    """Fit the temperature and the threshold to held-out videos.

    `view_scores` holds each video's probabilities at temperature 1, shape (num_views, num_classes), and `labels` the
    class indices. `unknown` holds probabilities of videos from models that were trained without the videos' classes.
    If it is None, each video is scored with its own class removed from the softmax instead. That estimate is
    optimistic, because the network has learned to tell the removed class from the others.
    """
    assert len(view_scores) == len(labels) > 0
    temperature = _fit_temperature(view_scores, labels)
    scores = np.stack([video_score(at_temperature(views, temperature)) for views in view_scores])
    min_score, num_answers, precision = _choose_threshold(scores, labels, min_precision)
    learned_unknown = unknown is None
    if learned_unknown:
        unknown = [_without(views, label) for views, label in zip(view_scores, labels, strict=True)]
    return Calibration(
        temperature=temperature,
        min_score=min_score,
        precision=precision,
        num_answers=num_answers,
        num_videos=len(labels),
        trade_offs=_trade_offs(scores, labels, _best_unknown(unknown, temperature), min_score=min_score),
        learned_unknown=learned_unknown,
    )


def _best_unknown(unknown: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """Return the score of each video's best class, shape (num_videos,)."""
    return np.array([video_score(at_temperature(views, temperature)).max() for views in unknown])


def _without(views: np.ndarray, label: int) -> np.ndarray:
    """Remove class `label` from the scores of a video's views, without normalising the rest to a sum of 1."""
    # If the other scores were all rounded to 0, they could not be normalised.
    return np.maximum(np.delete(views, label, axis=1), 1e-300)


def _trade_offs(
    scores: np.ndarray, labels: np.ndarray, unknown: np.ndarray, *, min_score: float
) -> tuple[TradeOff, ...]:
    """Return the effects of the chosen threshold and of higher ones, which leave more unknown videos uncertain."""
    if scores.shape[1] < 3:  # with two classes, the one that is left always scores 1
        return ()
    best, is_right = scores.max(axis=1), scores.argmax(axis=1) == labels
    higher = [float(np.quantile(unknown, share, method="higher")) for share in _WANTED_SHARES]
    # A score equal to the threshold counts as an answer, so go to the next float above the quantile.
    thresholds = [min_score, *(np.nextafter(value, 2) for value in higher if value >= min_score)]
    return tuple(
        TradeOff(
            min_score=float(threshold),
            known_answered=float((best >= threshold).mean()),
            precision=float(is_right[best >= threshold].mean()) if (best >= threshold).any() else None,
            unknown_held=float((unknown < threshold).mean()),
        )
        for threshold in thresholds
    )


def _fit_temperature(view_scores: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the temperature that minimises the log-loss of the videos' scores, with the prior added."""

    def loss(log_temperature: float) -> float:
        scores = [video_score(at_temperature(views, math.exp(log_temperature))) for views in view_scores]
        prior = (log_temperature / _PRIOR_DEVIATION) ** 2 / 2
        return log_loss(np.stack(scores), labels) * len(labels) + prior

    # Golden-section search; 30 steps narrow the range to a millionth of its width.
    low, high = (math.log(bound) for bound in _RANGE)
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(inner[0]), loss(inner[1])]
    for _ in range(30):
        if losses[0] < losses[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            losses = [loss(inner[0]), losses[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            losses = [losses[1], loss(inner[1])]
    return math.exp((low + high) / 2)


def _choose_threshold(scores: np.ndarray, labels: np.ndarray, min_precision: float) -> tuple[float, int, float]:
    """Return the lowest threshold that reaches the precision, as (score, number of answers, precision).

    If none reaches it, the threshold with the highest precision is returned.
    """
    order = np.argsort(-scores.max(axis=1), kind="stable")
    confidence = scores.max(axis=1)[order]
    precision = (scores.argmax(axis=1) == labels)[order].cumsum() / np.arange(1, len(order) + 1)
    # A threshold cannot separate answers of equal score.
    is_end = np.append(confidence[:-1] > confidence[1:], True)
    counts = np.flatnonzero(is_end & (np.arange(1, len(order) + 1) >= min(_FEWEST_ANSWERS, len(order)))) + 1
    reached = counts[precision[counts - 1] >= min_precision]
    count = int(reached[-1]) if len(reached) else int(counts[precision[counts - 1].argmax()])
    # Place the threshold halfway to the next lower score or, below the lowest one, halfway to the score of a guess.
    lower = confidence[count] if count < len(order) else 1 / scores.shape[1]
    return float((confidence[count - 1] + lower) / 2), count, float(precision[count - 1])
