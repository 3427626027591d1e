"""Label a file or a camera while it plays, for the live tab."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import cv2
import numpy as np

from video_module.config import TimelineConfig
from video_module.data import sampling
from video_module.data.decoding import VideoInfo
from video_module.data.packets import DEFAULT_FPS
from video_module.errors import VideoError
from video_module.inference.live import ANSWERS_PER_CLIP, LiveLabeller, RecentFrames
from video_module.inference.overlay import draw_label, segment_colors
from video_module.inference.predictor import Predictor
from video_module.inference.windows import WindowClip, WindowCutter
from video_module.web.api import NameOf
from video_module.web.limits import Limits, Refused
from video_module.web.work import LimitedReader

# Pictures are sent to the browser as JPEG inside messages. 480 lines at 12 pictures per second look live; more would
# overload slow connections, and the label does not change that often anyway.
_MAX_HEIGHT, _MAX_WIDTH = 480, 854
_MAX_RATE = 12

# After a pause of this length, the camera starts again: its new frames do not continue the old ones.
_GAP_S = 1.0

_Moment = tuple[np.ndarray, str | None, float]
"""A frame with its label drawn in, uint8 RGB; the label, None before the first one; the label's score."""


def watch_file(
    path: str | Path,
    predictor: Predictor,
    *,
    info: VideoInfo,
    speed: int,
    config: TimelineConfig,
    limits: Limits,
    name_of: NameOf,
    check: Callable[[], None],
) -> Iterator[_Moment]:
    """Play a video at a multiple of its speed and yield the frames with the current label.

    At double speed, half as many frames are shown and half as many windows are scored. If the network is slower than
    the video, the video slows down. `check` is called for each frame. Raises Refused.
    """
    step = max(1, predictor.clip.default_clip_step) * speed
    cutter = WindowCutter(predictor.clip, clip_step=step)
    smooth_s = sampling.clip_span(predictor.clip, info.fps) / info.fps
    config = config.for_model(predictor.min_score)
    labeller = LiveLabeller(predictor.class_names, config, smooth_s=smooth_s)
    reader = LimitedReader(path, limits, check=check)
    label, score, shown_s, begin = None, 0.0, -np.inf, time.monotonic()

    def label_at(time_s: float, window: WindowClip) -> tuple[str, float]:
        return labeller.update(time_s, predictor.predict_clips(window.frames[None])[0])[:2]

    try:
        for index, timed in enumerate(reader):
            frame = timed.to_rgb()
            for window in cutter.push(frame, timed.time_s):
                label, score = label_at(timed.time_s, window)
            if index % speed:
                continue
            due_s = begin + timed.time_s / speed
            now = time.monotonic()
            if due_s < shown_s + 1 / _MAX_RATE:
                continue
            if due_s > now:
                time.sleep(due_s - now)
            else:
                # Scoring took too long. Moving the start keeps the rest of the video at its own speed. Otherwise all
                # late pictures would be sent at once to catch up.
                begin += now - due_s
                due_s = now
            shown_s = due_s
            yield _draw(frame, label, score, predictor, name_of)
        if reader.num_frames == 0:
            raise reader.no_frame()
        for window in cutter.finish(reader.duration_s) if label is None else []:  # shorter than a clip
            label, score = label_at(reader.duration_s, window)
        yield _draw(frame, label, score, predictor, name_of)
    except VideoError:
        raise Refused("bad_video") from None


class CameraWatch:
    """The state of one visitor's camera.

    Clips are scored in another thread, always the newest clip when the previous one is done. So the picture keeps
    moving even if the network is slow.
    """

    def __init__(self, model: str, predictor: Predictor, config: TimelineConfig, *, scorers: Executor) -> None:
        self.model, self._predictor, self._scorers = model, predictor, scorers
        self._config = config.for_model(predictor.min_score)
        self.last_s = -np.inf
        self._begin(0.0)

    def _begin(self, time_s: float) -> None:
        """Forget all frames, scores and labels, at the start and after a pause."""
        self.begun_s = time_s
        self._recent = RecentFrames(self._predictor.clip, fps=DEFAULT_FPS)
        self._labeller = LiveLabeller(self._predictor.class_names, self._config, smooth_s=self._recent.duration_s)
        self._due_s = -np.inf
        self._answer: tuple[float, Future] | None = None
        self._label: str | None = None
        self._score = 0.0

    def push(self, frame: np.ndarray, time_s: float, name_of: NameOf) -> _Moment:
        """Add a frame, uint8 RGB (H, W, 3), and return it with the latest label."""
        if time_s > self.last_s + _GAP_S:
            self._begin(time_s)
        self.last_s = time_s
        self._recent.push(frame, time_s)
        if self._answer is not None and self._answer[1].done():
            then_s, scores = self._answer
            self._label, self._score, _ = self._labeller.update(then_s, scores.result()[0])
            self._answer = None
        if self._answer is None and time_s >= self._due_s and (clip := self._recent.cut()) is not None:
            self._answer = time_s, self._scorers.submit(self._predictor.predict_clips, clip[None])
            self._due_s = time_s + self._recent.duration_s / ANSWERS_PER_CLIP
        return _draw(frame, self._label, self._score, self._predictor, name_of)


def _draw(frame: np.ndarray, label: str | None, score: float, predictor: Predictor, name_of: NameOf) -> _Moment:
    height, width = frame.shape[:2]
    scale = min(_MAX_HEIGHT / height, _MAX_WIDTH / width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    else:
        frame = frame.copy()
    if label is None:
        return frame, None, 0.0
    name = name_of(label)
    draw_label(frame, name, round(score, 2), color=segment_colors(predictor.class_names)[label])
    return frame, name, score
