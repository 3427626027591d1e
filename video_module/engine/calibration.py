"""What makes a model's scores mean something: a temperature, and the score below which an answer is uncertain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video_module.scores import at_temperature, log_loss, video_score

# The temperature is drawn towards 1 as if its logarithm had a normal prior of this deviation. A hundred videos outweigh
# it; eight that are all right by chance would otherwise ask for a temperature of 0, the score of certainty.
_PRIOR_DEVIATION = 0.5
_RANGE = (1 / 8, 8.0)
# A precision measured on fewer answers says nothing.
_FEWEST_ANSWERS = 5


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What videos that the model did not learn from say about its scores."""

    temperature: float
    """Logits are divided by it before the softmax (Guo et al., ICML 2017)."""
    min_score: float
    """Below this score of a video's best class, the answer is uncertain."""
    precision: float
    """Share of right answers among those of at least `min_score`."""
    num_answers: int
    """Videos whose best class reaches it."""
    num_videos: int

    @property
    def recorded(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"temperature": self.temperature, "min_score": self.min_score}

    def describe(self, min_precision: float) -> str:
        """A line for the end of training."""
        text = (
            f"scores: temperature {self.temperature:.2f}; below {self.min_score:.2f} an answer is uncertain "
            f"({self.num_answers} of {self.num_videos} videos reach it, {self.precision:.2f} of these are right"
        )
        if self.precision < min_precision:
            return f"{text}, the most there is: --min_precision {min_precision:g} is out of reach)"
        return f"{text})"


def calibrate(view_scores: Sequence[np.ndarray], labels: np.ndarray, *, min_precision: float) -> Calibration:
    """Fit temperature and threshold to held-out videos.

    `view_scores` holds each video's probabilities at temperature 1, (num_views, num_classes), `labels` the classes.
    """
    assert len(view_scores) == len(labels) > 0
    temperature = _fit_temperature(view_scores, labels)
    scores = np.stack([video_score(at_temperature(views, temperature)) for views in view_scores])
    min_score, num_answers, precision = _choose_threshold(scores, labels, min_precision)
    return Calibration(
        temperature=temperature,
        min_score=min_score,
        precision=precision,
        num_answers=num_answers,
        num_videos=len(labels),
    )


def _fit_temperature(view_scores: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """The temperature with the smallest log-loss of the videos' scores."""

    def loss(log_temperature: float) -> float:
        scores = [video_score(at_temperature(views, math.exp(log_temperature))) for views in view_scores]
        prior = (log_temperature / _PRIOR_DEVIATION) ** 2 / 2
        return log_loss(np.stack(scores), labels) * len(labels) + prior

    # Golden-section search. 30 steps narrow the range to a millionth of it.
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
    """The lowest threshold that reaches the precision, else that of the highest one: (score, answers, precision)."""
    order = np.argsort(-scores.max(axis=1), kind="stable")
    confidence = scores.max(axis=1)[order]
    precision = (scores.argmax(axis=1) == labels)[order].cumsum() / np.arange(1, len(order) + 1)
    # Answers of one score are given or withheld together.
    is_end = np.append(confidence[:-1] > confidence[1:], True)
    counts = np.flatnonzero(is_end & (np.arange(1, len(order) + 1) >= min(_FEWEST_ANSWERS, len(order)))) + 1
    reached = counts[precision[counts - 1] >= min_precision]
    count = int(reached[-1]) if len(reached) else int(counts[precision[counts - 1].argmax()])
    # Halfway to the next lower score; below the lowest one, halfway to what guessing would give.
    lower = confidence[count] if count < len(order) else 1 / scores.shape[1]
    return float((confidence[count - 1] + lower) / 2), count, float(precision[count - 1])
