"""Windows of a video as it is decoded: each frame is read and resized once, however many windows hold it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from video_module.config import ClipConfig
from video_module.data import sampling, transforms
from video_module.data.decoding import iter_frames


@dataclass(frozen=True)
class WindowClip:
    """A clip ready for the model, and where it stands in the video."""

    start: int
    """First frame."""
    end: int
    """One past the last frame."""
    frames: np.ndarray
    """uint8 RGB (T, crop, crop, 3)."""
    num_decoded: int
    """Frames of the video decoded so far."""


def iter_windows(path: str | Path, clip: ClipConfig, *, clip_step: int | None, fps: float) -> Iterator[WindowClip]:
    """Yield the clips of sampling.window_starts(), centre-cropped, without knowing the video's length beforehand.

    Only one clip's span of small frames is kept. `clip_step` None stands for half a clip. Raises VideoError if no frame
    decodes.
    """
    span = sampling.clip_span(clip, fps)
    recent: deque[np.ndarray] = deque(maxlen=span)
    starts = sampling.endless_window_starts(clip, clip_step, fps=fps)
    num_decoded, start, previous = 0, next(starts), None

    def cut(first: int) -> WindowClip:
        indices = sampling.clip_indices(first, num_decoded, clip, fps=fps)
        oldest = num_decoded - len(recent)
        frames = np.stack([recent[index - oldest] for index in indices])
        return WindowClip(first, min(first + span, num_decoded), frames, num_decoded)

    for frame in iter_frames(path):
        recent.append(transforms.center_crop(transforms.resize_frame(frame, clip), clip))
        num_decoded += 1
        if num_decoded == start + span:
            yield cut(start)
            start, previous = next(starts), start
    last = sampling.last_start(num_decoded, clip, fps=fps)
    if previous != last:
        yield cut(last)
