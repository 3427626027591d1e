"""Live recognition: always score the newest clip of a stream, so that nothing waits in a queue."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np

from video_module.config import ClipConfig, TimelineConfig
from video_module.data import transforms
from video_module.data.capture import TimedFrame
from video_module.inference.predictor import Predictor
from video_module.inference.timeline import DEFAULT_TIMELINE, UNCERTAIN, Labeller

# A new answer for each quarter of a clip, unless the network is slower than that. Clips that share more than three
# quarters of their frames would give the same answer again.
ANSWERS_PER_CLIP = 4

_RATE_WINDOW_S = 5.0


class RecentFrames:
    """Keeps the last moments of a stream and cuts clips with equal time steps from them.

    Frames are picked by their times, so a stream may skip some. Only one clip's span of resized frames is kept.
    """

    def __init__(self, clip: ClipConfig, *, fps: float) -> None:
        """`fps` is the rate that frame_stride refers to, unless the clip has a target_fps."""
        self.clip = clip
        self.step_s = clip.frame_stride / (clip.target_fps or fps)
        self.span_s = (clip.num_frames - 1) * self.step_s
        # Times have rounding errors; a thousandth of a step covers them and makes no other difference.
        self._slack_s = 1e-3 * self.step_s
        self._frames: deque[tuple[float, np.ndarray]] = deque()

    @property
    def duration_s(self) -> float:
        """Seconds from the clip's first frame to its last; a clip of one frame lasts as long as that frame."""
        return self.span_s or self.step_s

    def push(self, frame: np.ndarray, time_s: float) -> None:
        """Take the next frame, uint8 RGB (H, W, 3) of any size; times ascend."""
        self._frames.append((time_s, transforms.center_view(frame, self.clip)))
        # The oldest frame may go once the one after it is old enough to begin the clip.
        while len(self._frames) > 1 and self._frames[1][0] <= time_s - self.span_s + self._slack_s:
            self._frames.popleft()

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def cut(self) -> np.ndarray | None:
        """The clip that ends with the newest frame, uint8 (T, crop, crop, 3); None until there is a whole clip."""
        frames = self._frames
        if not frames or frames[-1][0] - frames[0][0] < self.span_s - self._slack_s:
            return None
        # For each moment of the clip, take the nearest frame; if two are equally near, the earlier one.
        times = np.array([time_s for time_s, _ in frames])
        assert (np.diff(times) >= 0).all(), "frames must come in the order of their times"
        wanted = times[-1] - self.step_s * np.arange(self.clip.num_frames - 1, -1, -1)
        after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
        nearer = after - (wanted - times[after - 1] <= times[np.minimum(after, len(times) - 1)] - wanted)
        return np.stack([frames[index][1] for index in nearer])


class LiveLabeller:
    """Labels scores as they arrive, smoothed over the recent past, with Labeller's hysteresis."""

    def __init__(self, class_names: list[str], config: TimelineConfig = DEFAULT_TIMELINE, *, smooth_s: float) -> None:
        """`smooth_s`, in seconds, is used if `config` sets none."""
        self.class_names = class_names
        self._smooth_s = smooth_s if config.smooth_s is None else config.smooth_s
        self._labeller = Labeller(config)
        self._recent: deque[tuple[float, np.ndarray]] = deque()

    def update(self, time_s: float, scores: np.ndarray) -> tuple[str, float, np.ndarray]:
        """Return the label (a class, or UNCERTAIN), its smoothed score (or the best one), and all smoothed scores.

        The older a score, the less it counts; after `smooth_s` seconds it is dropped.
        """
        # The first half of the triangle that smooths the windows of a file; later scores are not known yet.
        self._recent.append((time_s, scores))
        while len(self._recent) > 1 and self._recent[0][0] <= time_s - self._smooth_s:
            self._recent.popleft()
        ages = np.array([time_s - then for then, _ in self._recent])
        weights = 1 - ages / self._smooth_s if self._smooth_s > 0 else np.ones(1)
        smoothed = np.average([scores for _, scores in self._recent], axis=0, weights=weights)
        label = self._labeller.update(smoothed)
        if label is None:
            return UNCERTAIN, float(smoothed.max()), smoothed
        return self.class_names[label], float(smoothed[label]), smoothed


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The answer for the clip that ends at `time_s`."""

    time_s: float
    """Time of the clip's last frame, in the stream's own time."""
    label: str
    """A class, or UNCERTAIN."""
    score: float
    scores: np.ndarray
    """Smoothed probabilities, float64 (num_classes,)."""
    latency_s: float
    """From the arrival of the clip's last frame to the answer."""
    windows_per_s: float
    """Rate over the last seconds."""


class LiveSession:
    """Reads frames in one thread and scores the newest clip in another. A context manager.

    The reader takes every frame as it arrives. Whenever the scorer is free, it takes the clip that ends now. So a slow
    network gives fewer answers, but never late ones.
    """

    def __init__(
        self,
        frames: Iterator[TimedFrame],
        predictor: Predictor,
        *,
        clip_step: int | None = None,
        config: TimelineConfig = DEFAULT_TIMELINE,
    ) -> None:
        """`clip_step`: minimum number of frames between two answers; None means a quarter of a clip."""
        self._stream, self._predictor, self._clip_step = frames, predictor, clip_step
        self._config = config.for_model(predictor.min_score)
        self._readings: SimpleQueue[Reading | Exception] = SimpleQueue()
        self._news = threading.Condition()
        self.newest: TimedFrame | None = None
        """The latest frame."""
        self._recent: RecentFrames | None = None
        self._due_s = -np.inf
        self._num_gaps = 0
        self._is_stopped = self._has_ended = False
        self._reader, self._scorer = (
            threading.Thread(target=self._guard, args=(work,), daemon=True) for work in (self._read, self._score)
        )
        self.num_frames = self.num_dropped = 0

    def __enter__(self) -> "LiveSession":
        self._reader.start()
        self._scorer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # Wait for the scorer, however long its clip takes: a thread that is inside the network when Python exits aborts
        # the process. The reader may be waiting for a frame that never comes, and does no harm if it is left running.
        self._scorer.join()
        self._reader.join(timeout=1.0)

    def stop(self) -> None:
        """End both threads, from any thread."""
        with self._news:
            self._is_stopped = True
            self._news.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether no more answers will come, since the stream has ended or the session was stopped."""
        return not self._scorer.is_alive()

    @property
    def span_s(self) -> float | None:
        """Length of a clip, in seconds of the stream; None before the first frame."""
        return None if self._recent is None else self._recent.span_s

    def next_reading(self, *, timeout_s: float) -> Reading | None:
        """Wait for the next answer; None if it does not come in time. Raises what the stream or the network raised."""
        try:
            reading = self._readings.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(reading, Exception):
            raise reading
        return reading

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            # Queued like an answer, so that next_reading() raises it in the caller's thread.
            self._readings.put(error)
            self.stop()

    def _read(self) -> None:
        try:
            for timed in self._stream:
                with self._news:
                    if self._is_stopped:
                        return
                    self._take(timed)
                    self._news.notify_all()
        finally:
            # Closing the generator releases the camera.
            if close := getattr(self._stream, "close", None):
                close()
            with self._news:
                self._has_ended = True
                self._news.notify_all()

    def _take(self, timed: TimedFrame) -> None:
        if self._recent is None:
            self._recent = RecentFrames(self._predictor.clip, fps=timed.fps)
        if timed.after_gap:
            self._recent.clear()
            self._num_gaps += 1
        self._recent.push(timed.frame, timed.time_s)
        self.num_frames += 1
        self.num_dropped += timed.num_dropped
        self.newest = timed

    def _score(self) -> None:
        labeller, num_gaps = None, 0
        done: deque[float] = deque()
        while due := self._wait_for_clip():
            timed, clip = due
            # Frames from before a gap say nothing about what the camera sees now.
            if labeller is None or num_gaps != self._num_gaps:
                num_gaps = self._num_gaps
                labeller = LiveLabeller(self._predictor.class_names, self._config, smooth_s=self._recent.duration_s)
            label, score, scores = labeller.update(timed.time_s, self._predictor.predict_clips(clip[None])[0])
            now = time.monotonic()
            done.append(now)
            while done[0] < now - _RATE_WINDOW_S:
                done.popleft()
            # Windows' clock ticks every 16 ms, so two answers may come at the same time.
            taken_s = done[-1] - done[0]
            self._readings.put(
                Reading(
                    time_s=timed.time_s,
                    label=label,
                    score=score,
                    scores=scores,
                    latency_s=now - timed.arrival_s,
                    windows_per_s=(len(done) - 1) / taken_s if taken_s else 0.0,
                )
            )

    def _wait_for_clip(self) -> tuple[TimedFrame, np.ndarray] | None:
        """Wait until an answer is due; returns the newest frame and the clip that ends with it, or None at the end."""
        with self._news:
            while not self._is_stopped:
                timed = self.newest
                if timed is not None and timed.time_s >= self._due_s:
                    # If the clip is not complete yet, try again with the next frame.
                    self._due_s = np.nextafter(timed.time_s, np.inf)
                    if (clip := self._recent.cut()) is not None:
                        self._due_s = max(self._due_s, timed.time_s + self._step_s(timed.fps))
                        return timed, clip
                if self._has_ended:
                    return None
                self._news.wait()
        return None

    def _step_s(self, fps: float) -> float:
        """Minimum seconds between two answers, a little less than a whole number of frames."""
        if self._clip_step is None:
            return self._recent.span_s / ANSWERS_PER_CLIP
        return (self._clip_step - 1e-3) / (self._predictor.clip.target_fps or fps)
