"""Windows cut from a video while it is decoded, so that each frame is read and resized once."""

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
    """A clip ready for the model, and its place in the video."""

    start: int
    """First frame."""
    end: int
    """One past the last frame."""
    frames: np.ndarray
    """uint8 RGB (T, crop, crop, 3)."""


class WindowCutter:
    """Cuts windows from frames that come one at a time, without knowing how many will come.

    The windows are those of sampling.window_starts(). Only one clip's span of small frames is kept.
    """

    def __init__(self, clip: ClipConfig, *, clip_step: int | None, fps: float) -> None:
        """`clip_step` is in frames; None means half a clip."""
        self.clip, self.fps = clip, fps
        self.span = sampling.clip_span(clip, fps)
        self.num_frames = 0
        self._recent: deque[np.ndarray] = deque(maxlen=self.span)
        self._starts = sampling.endless_window_starts(clip, clip_step, fps=fps)
        self._next, self._previous = next(self._starts), None

    def push(self, frame: np.ndarray) -> WindowClip | None:
        """Take the next frame, uint8 RGB (H, W, 3) of any size, and return the window that it completes, if any."""
        self._recent.append(transforms.center_view(frame, self.clip))
        self.num_frames += 1
        if self.num_frames < self._next + self.span:
            return None
        self._previous, self._next = self._next, next(self._starts)
        return self._cut(self._previous)

    def finish(self) -> WindowClip | None:
        """Return the window that ends with the last frame, unless push() has returned it."""
        last = sampling.last_start(self.num_frames, self.clip, fps=self.fps)
        return None if last == self._previous else self._cut(last)

    def _cut(self, start: int) -> WindowClip:
        indices = sampling.clip_indices(start, self.num_frames, self.clip, fps=self.fps)
        oldest = self.num_frames - len(self._recent)
        assert oldest <= indices.min(), (oldest, indices)
        frames = np.stack([self._recent[index - oldest] for index in indices])
        return WindowClip(start, min(start + self.span, self.num_frames), frames)


def iter_windows(path: str | Path, clip: ClipConfig, *, clip_step: int | None, fps: float) -> Iterator[WindowClip]:
    """Yield a video's windows, centre-cropped, as it is decoded. Raises VideoError if no frame decodes."""
    cutter = WindowCutter(clip, clip_step=clip_step, fps=fps)
    for frame in iter_frames(path):
        if window := cutter.push(frame):
            yield window
    if window := cutter.finish():
        yield window
