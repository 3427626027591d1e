"""Cut windows from a video while it is decoded, so that each frame is read and resized once."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from video_module.config import ClipConfig
from video_module.data import sampling, transforms
from video_module.data.decoding import VideoReader


@dataclass(frozen=True)
class WindowClip:
    """A clip ready for the model, and its place in the video."""

    indices: np.ndarray
    """Its frames in the video, int64 (T,)."""
    frames: np.ndarray
    """uint8 RGB (T, crop, crop, 3)."""

    @property
    def start(self) -> int:
        """First frame."""
        return int(self.indices[0])

    @property
    def end(self) -> int:
        """One past the last frame."""
        return int(self.indices[-1]) + 1


class WindowCutter:
    """Cuts windows from frames that come one at a time, without knowing how many will come.

    The windows are those of sampling.window_starts(). Only one clip's span of resized frames is kept.
    """

    def __init__(self, clip: ClipConfig, *, clip_step: int | None) -> None:
        """`clip_step` counts frames as frame_stride does; None means half a clip."""
        self.clip, self.clip_step = clip, clip_step
        self.num_frames = 0
        # When each frame begins, in the unit of frame_stride, and its pixels
        self._recent: deque[tuple[float, np.ndarray]] = deque()
        self._due: deque[int] = deque()
        self._previous: int | None = None

    def push(self, frame: np.ndarray, time_s: float) -> list[WindowClip]:
        """Take the next frame, uint8 RGB (H, W, 3) of any size, and return the windows that are complete with it."""
        begin = sampling.edge_of(time_s, self.num_frames, self.clip)
        if self._recent and sampling.begins_window(self._recent[-1][0], begin, self.clip, self.clip_step):
            self._due.append(self.num_frames - 1)
        self._recent.append((begin, transforms.center_view(frame, self.clip)))
        self.num_frames += 1
        windows, span = [], sampling.span_of(self.clip)
        # A window is complete as soon as a frame begins at its last moment or later.
        while self._due and self._recent[self._due[0] - self._oldest][0] + span <= begin + sampling.EPSILON:
            windows.append(self._cut(self._due.popleft(), end=np.inf))
        while len(self._recent) > 1 and self._recent[1][0] + span < begin - sampling.EPSILON:
            self._recent.popleft()
        return windows

    def finish(self, end_s: float) -> list[WindowClip]:
        """Return the windows that push() has not returned. The last frame ends at `end_s`."""
        end = sampling.edge_of(end_s, self.num_frames, self.clip)
        edges = np.array([begin for begin, _ in self._recent] + [end])
        last = self._oldest + sampling.last_fit(edges, self.clip)
        starts = [start for start in self._due if start < last]
        return [self._cut(start, end=end) for start in starts + [last] if start != self._previous]

    @property
    def _oldest(self) -> int:
        return self.num_frames - len(self._recent)

    def _cut(self, start: int, *, end: float) -> WindowClip:
        recent = list(islice(self._recent, start - self._oldest, None))
        picked = sampling.pick_frames(np.array([begin for begin, _ in recent] + [end]), self.clip)
        self._previous = start
        return WindowClip(start + picked, np.stack([recent[index][1] for index in picked]))


def iter_windows(video: str | Path | VideoReader, clip: ClipConfig, *, clip_step: int | None) -> Iterator[WindowClip]:
    """Yield a video's windows, centre-cropped, as it is decoded. Raises VideoError if no frame decodes."""
    reader = video if isinstance(video, VideoReader) else VideoReader(video)
    cutter = WindowCutter(clip, clip_step=clip_step)
    for frame in reader:
        yield from cutter.push(frame.to_rgb(), frame.time_s)
    if reader.num_frames == 0:
        raise reader.no_frame()
    yield from cutter.finish(reader.duration_s)
