"""Turn window scores into smoothed, labelled segments, and write these as JSON, CSV and WebVTT."""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from video_module.config import DEFAULT_MIN_SCORE, TimelineConfig
from video_module.files import replacing, write_text
from video_module.inference.predictor import VideoPrediction, Window
from video_module.scores import top_k


class _Uncertain(str):
    """A string that equals only itself, since a class may be called "uncertain" too."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


UNCERTAIN = _Uncertain("uncertain")
"""Label of a stretch in which no class reaches TimelineConfig.min_score."""
SHOWN_UNCERTAIN = "(uncertain)"
"""How UNCERTAIN is shown to people."""
DEFAULT_TIMELINE = TimelineConfig()


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a video with one label. Times are in seconds; both intervals are half-open."""

    start: int
    end: int
    start_s: float
    end_s: float
    label: str
    """A class, or UNCERTAIN."""
    score: float
    """Mean probability of `label` over the stretch, or of the best class if it is UNCERTAIN."""
    scores: np.ndarray
    """Mean probabilities over the stretch, float64 (num_classes,). If `label` is UNCERTAIN, they are smoothed: the
    smoothed scores stayed below min_score, while those of single windows may reach it."""


def shown_label(label: str, uncertain: str = SHOWN_UNCERTAIN) -> str:
    """A segment's label as shown to people; UNCERTAIN is shown as `uncertain`."""
    return uncertain if label == UNCERTAIN else label


def label_order(segments: Sequence[Segment]) -> list[str]:
    """The classes of the segments in order, without UNCERTAIN ones. Repeats in a row then count once."""
    certain = [segment.label for segment in segments if segment.label != UNCERTAIN]
    return [label for label, _ in groupby(certain)]


def _window_borders(prediction: VideoPrediction) -> np.ndarray:
    """Give each frame to the window whose middle is nearest.

    Returns int64 (num_windows + 1,) from 0 to num_frames: frames borders[n] to borders[n + 1] - 1 are window n's.
    """
    middles = np.array([(window.start + window.end) / 2 for window in prediction.windows])
    # np.round() rounds halves to even, so sometimes up and sometimes down, and could leave a window without a frame.
    between = np.floor((middles[:-1] + middles[1:]) / 2 + 0.5).astype(np.int64)
    borders = np.concatenate([[0], between, [prediction.num_frames]])
    assert (np.diff(borders) > 0).all(), borders
    return borders


def smooth_scores(scores: np.ndarray, times_s: np.ndarray, *, smooth_s: float) -> np.ndarray:
    """Replace each row by a mean of its neighbours, weighted by a triangle that ends `smooth_s` seconds away.

    `scores` (n, num_classes) at ascending times (n,); returns float64 of the same shape. 0 leaves them as they are.
    """
    if smooth_s <= 0:
        return scores.astype(np.float64)
    firsts = np.searchsorted(times_s, times_s - smooth_s, side="right")
    ends = np.searchsorted(times_s, times_s + smooth_s, side="left")
    smoothed = np.empty(scores.shape)
    for row, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        weights = 1 - np.abs(times_s[first:end] - times_s[row]) / smooth_s
        smoothed[row] = weights @ scores[first:end] / weights.sum()
    return smoothed


class Labeller:
    """Labels smoothed scores without flicker: a label lasts until another class clearly leads."""

    # Two classes that are about as likely would otherwise swap with every window, and a class near `min_score` would
    # come and go. So it takes more to change a label than to keep it. A label begins at `min_score`. It ends when
    # another class that reaches `min_score` leads it by `hysteresis`, or when its own score falls `hysteresis` below
    # `min_score`, but not below half of it: with a hysteresis as large as `min_score`, a label would never end.

    def __init__(self, config: TimelineConfig) -> None:
        config = config.for_model(DEFAULT_MIN_SCORE)
        self._min_score, self._margin = config.min_score, config.hysteresis
        self._keep_score = max(config.min_score - config.hysteresis, config.min_score / 2)
        self._label: int | None = None

    def update(self, scores: np.ndarray) -> int | None:
        """Take the next smoothed probabilities, (num_classes,); returns the class, or None if uncertain."""
        best = int(scores.argmax())
        candidate = best if scores[best] >= self._min_score else None
        if self._label is None:
            self._label = candidate
        else:
            own = scores[self._label]
            is_beaten = candidate is not None and scores[best] >= own + self._margin
            if own < self._keep_score or is_beaten:
                self._label = candidate
        return self._label


def _smoothing_s(prediction: VideoPrediction, config: TimelineConfig) -> float:
    """Seconds to smooth over: the config's, or the length of the model's clip."""
    if config.smooth_s is not None:
        return config.smooth_s
    first = prediction.windows[0]
    return prediction.time_of(first.end) - prediction.time_of(first.start)


def find_segments(prediction: VideoPrediction, config: TimelineConfig = DEFAULT_TIMELINE) -> list[Segment]:
    """Join neighbouring windows of one label. The segments cover the video without gap or overlap."""
    config = config.for_model(prediction.min_score)
    borders = _window_borders(prediction)
    scores = np.stack([window.scores for window in prediction.windows])
    times_s = np.array([(prediction.time_of(w.start) + prediction.time_of(w.end)) / 2 for w in prediction.windows])
    labeller = Labeller(config)
    smoothed = smooth_scores(scores, times_s, smooth_s=_smoothing_s(prediction, config))
    labels = np.array([-1 if (label := labeller.update(row)) is None else label for row in smoothed])
    weights = np.diff(borders)
    segments = []
    for rows in np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels)) + 1):
        start, end, label = int(borders[rows[0]]), int(borders[rows[-1] + 1]), labels[rows[0]]
        mean = np.average((smoothed if label < 0 else scores)[rows], axis=0, weights=weights[rows])
        segments.append(
            Segment(
                start=start,
                end=end,
                start_s=prediction.time_of(start),
                end_s=prediction.time_of(end),
                label=UNCERTAIN if label < 0 else prediction.class_names[label],
                score=float(mean.max() if label < 0 else mean[label]),
                scores=mean,
            )
        )
    assert segments[0].start == 0 and segments[-1].end == prediction.num_frames, segments
    return segments


def to_json(
    prediction: VideoPrediction,
    segments: list[Segment],
    *,
    model: str,
    k: int,
    config: TimelineConfig = DEFAULT_TIMELINE,
) -> dict[str, Any]:
    """The answer for one video, as run_model.py and the API return it.

    `segments` must come from find_segments() with the same `config`.
    """
    config = config.for_model(prediction.min_score)
    return {
        "video": str(prediction.path),
        "model": model,
        "fps": prediction.fps,
        "num_frames": prediction.num_frames,
        "num_damaged_frames": prediction.num_damaged_frames,
        "duration_s": prediction.duration_s,
        "timeline": dataclasses.asdict(config) | {"smooth_s": _smoothing_s(prediction, config)},
        "top_k": prediction.top_k(k),
        "segments": [
            {
                **_stretch(segment, prediction),
                "label": str(segment.label),
                "is_uncertain": segment.label == UNCERTAIN,
                "score": segment.score,
                "top_k": top_k(segment.scores, prediction.class_names, k),
            }
            for segment in segments
        ],
        "windows": [
            {**_stretch(window, prediction), "top_k": top_k(window.scores, prediction.class_names, k)}
            for window in prediction.windows
        ],
    }


def _stretch(part: Segment | Window, prediction: VideoPrediction) -> dict[str, int | float]:
    times = {"start_s": prediction.time_of(part.start), "end_s": prediction.time_of(part.end)}
    return {"start_frame": part.start, "end_frame": part.end, **times}


def write_csv(path: Path, prediction: VideoPrediction) -> None:
    """Write one row per window, not smoothed: start_frame, end_frame, start_s, end_s, label, score."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start_frame", "end_frame", "start_s", "end_s", "label", "score"])
        for window in prediction.windows:
            best = int(window.scores.argmax())
            times = f"{prediction.time_of(window.start):.3f}", f"{prediction.time_of(window.end):.3f}"
            writer.writerow(
                [window.start, window.end, *times, prediction.class_names[best], f"{window.scores[best]:.6f}"]
            )


def write_vtt(path: Path, segments: list[Segment]) -> None:
    """Write segments as WebVTT subtitles, which players load for a video of the same name; UNCERTAIN is left out."""
    write_text(path, "\n".join(_vtt_lines(segments)))


def _vtt_lines(segments: list[Segment]) -> Iterator[str]:
    yield "WEBVTT"
    yield ""
    for segment in segments:
        if segment.label == UNCERTAIN:
            continue
        yield f"{_vtt_time(segment.start_s)} --> {_vtt_time(segment.end_s)}"
        text = segment.label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{text} {segment.score:.0%}"
        yield ""


def _vtt_time(seconds: float) -> str:
    """01:02:03.456"""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
