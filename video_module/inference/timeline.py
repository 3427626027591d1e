"""Window scores -> labelled segments, and the files that carry them."""

import csv
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from video_module.files import replacing
from video_module.inference.predictor import VideoPrediction
from video_module.scores import top_k


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a video with one label. Times in seconds, frames half-open."""

    start: int
    end: int
    start_s: float
    end_s: float
    label: str
    score: float
    """Mean probability of `label` over the stretch."""


def frame_scores(prediction: VideoPrediction) -> tuple[np.ndarray, np.ndarray]:
    """The mean score of the windows over each stretch between two window borders.

    Returns (borders int64 (n + 1,), scores float64 (n, num_classes)); borders run from 0 to num_frames. A stretch that
    no window covers (windows may be further apart than they are long) takes the window nearest to its middle.
    """
    windows = prediction.windows
    starts, ends = np.array([w.start for w in windows]), np.array([w.end for w in windows])
    borders = np.unique(np.concatenate([[0, prediction.num_frames], starts, ends]))
    all_scores = np.stack([window.scores for window in windows])
    middles = (starts + ends) / 2
    rows = []
    for left, right in pairwise(borders):
        covering = (starts <= left) & (ends >= right)
        if not covering.any():
            covering = np.arange(len(windows)) == np.abs(middles - (left + right) / 2).argmin()
        rows.append(all_scores[covering].mean(axis=0))
    return borders, np.stack(rows)


def find_segments(prediction: VideoPrediction) -> list[Segment]:
    """Join neighbouring stretches with the same best class. The segments cover the video without gap or overlap."""
    borders, scores = frame_scores(prediction)
    best = scores.argmax(axis=1)
    cuts = np.flatnonzero(np.diff(best)) + 1
    segments = []
    for rows in np.split(np.arange(len(best)), cuts):
        start, end = int(borders[rows[0]]), int(borders[rows[-1] + 1])
        label = best[rows[0]]
        weights = np.diff(borders)[rows]
        segments.append(
            Segment(
                start=start,
                end=end,
                start_s=start / prediction.fps,
                end_s=end / prediction.fps,
                label=prediction.class_names[label],
                score=float(np.average(scores[rows, label], weights=weights)),
            )
        )
    return segments


def to_json(prediction: VideoPrediction, *, model: str, k: int) -> dict[str, Any]:
    """What run_model.py --save_json writes of one video."""
    return {
        "video": str(prediction.path),
        "model": model,
        "fps": prediction.fps,
        "num_frames": prediction.num_frames,
        "duration_s": prediction.duration_s,
        "top_k": prediction.top_k(k),
        "segments": [
            {"start_s": s.start_s, "end_s": s.end_s, "label": s.label, "score": s.score}
            for s in find_segments(prediction)
        ],
        "windows": [
            {
                "start_s": window.start / prediction.fps,
                "end_s": window.end / prediction.fps,
                "top_k": top_k(window.scores, prediction.class_names, k),
            }
            for window in prediction.windows
        ],
    }


def write_csv(path: Path, prediction: VideoPrediction) -> None:
    """One row per window: start_s, end_s, label, score."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start_s", "end_s", "label", "score"])
        for window in prediction.windows:
            best = int(window.scores.argmax())
            times = f"{window.start / prediction.fps:.3f}", f"{window.end / prediction.fps:.3f}"
            writer.writerow([*times, prediction.class_names[best], f"{window.scores[best]:.6f}"])
