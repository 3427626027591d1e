"""Window scores -> labelled segments, and the files that carry them."""

import csv
from dataclasses import dataclass
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


def window_borders(prediction: VideoPrediction) -> np.ndarray:
    """Part the video among its windows, each frame to the window whose middle is nearest.

    Returns int64 (num_windows + 1,) from 0 to num_frames; window n speaks for frames borders[n] to borders[n + 1] - 1.
    """
    middles = np.array([(window.start + window.end) / 2 for window in prediction.windows])
    between = np.floor((middles[:-1] + middles[1:]) / 2 + 0.5).astype(np.int64)  # halves all go one way
    return np.concatenate([[0], between, [prediction.num_frames]])


def find_segments(prediction: VideoPrediction) -> list[Segment]:
    """Join neighbouring windows with the same best class. The segments cover the video without gap or overlap."""
    borders = window_borders(prediction)
    scores = np.stack([window.scores for window in prediction.windows])
    best = scores.argmax(axis=1)
    cuts = np.flatnonzero(np.diff(best)) + 1
    segments = []
    for rows in np.split(np.arange(len(best)), cuts):
        start, end = int(borders[rows[0]]), int(borders[rows[-1] + 1])
        label = best[rows[0]]
        segments.append(
            Segment(
                start=start,
                end=end,
                start_s=start / prediction.fps,
                end_s=end / prediction.fps,
                label=prediction.class_names[label],
                score=float(np.average(scores[rows, label], weights=np.diff(borders)[rows])),
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
