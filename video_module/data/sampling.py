"""Which frames of a video make a clip: index arithmetic alone, no video is opened here.

One rule makes every clip. A clip starts at a frame and takes `num_frames` frames `step` apart, `step` being the clip's
stride, scaled by the file's frame rate where ClipConfig.target_fps asks for equal time. A video shorter than the clip's
span is stretched: first the step shrinks until the video is just covered, then its last frame is repeated.
"""

import math
from collections.abc import Iterator
from itertools import count, takewhile

import numpy as np

from video_module.config import ClipConfig
from video_module.errors import InputError

# Added before a position is rounded down. Floating point can put a whole number just below itself, as 100 * 0.29, and
# frame 28 would stand in for 29. Real steps are far coarser than this.
_EPSILON = 1e-6


def _file_frames(clip: ClipConfig, fps: float | None) -> float:
    """Frames of a file of `fps` for one frame at the rate that the clip counts in: 1 without target_fps."""
    if clip.target_fps is None:
        return 1.0
    if not fps or not math.isfinite(fps) or fps < 0:
        raise InputError(
            f"the model samples at {clip.target_fps:g} frames/s, but the video's frame rate is unknown ({fps})"
        )
    return fps / clip.target_fps


def _frame_step(clip: ClipConfig, fps: float | None) -> float:
    """Frames of a file of `fps` from one frame of the clip to the next."""
    return clip.frame_stride * _file_frames(clip, fps)


def clip_span(clip: ClipConfig, fps: float | None) -> int:
    """Frames of a file of `fps` from a clip's first frame to its last, both counted."""
    return int(_offsets(clip.num_frames, _frame_step(clip, fps))[-1]) + 1


def _offsets(num_frames: int, step: float) -> np.ndarray:
    return np.floor(np.arange(num_frames) * step + _EPSILON).astype(np.int64)


def clip_indices(start: int, num_video_frames: int, clip: ClipConfig, *, fps: float | None = None) -> np.ndarray:
    """The frames of the clip that starts at `start`: int64 (num_frames,), ascending, each below num_video_frames."""
    if not 0 <= start < num_video_frames:
        raise ValueError(f"start must be in 0..{num_video_frames - 1}, got {start}")
    available = num_video_frames - start
    if clip_span(clip, fps) <= available:
        return start + _offsets(clip.num_frames, _frame_step(clip, fps))
    positions = np.arange(clip.num_frames, dtype=np.int64)
    # Too short for the step: the step shrinks until the clip just fits. Too short even for a step of 1: the last frame
    # is repeated. Loops and mirrored playback would show motions that are not in the video.
    if clip.num_frames <= available:
        return start + positions * (available - 1) // max(clip.num_frames - 1, 1)
    return start + np.minimum(positions, available - 1)


def last_start(num_video_frames: int, clip: ClipConfig, *, fps: float | None = None) -> int:
    """The last frame at which a whole clip can start; 0 in a video shorter than the clip."""
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")
    return max(0, num_video_frames - clip_span(clip, fps))


def random_start(num_video_frames: int, clip: ClipConfig, rng: np.random.Generator, *, fps: float | None = None) -> int:
    """A clip's start drawn evenly from all possible ones."""
    return int(rng.integers(last_start(num_video_frames, clip, fps=fps) + 1))


def uniform_starts(num_video_frames: int, clip: ClipConfig, num_clips: int, *, fps: float | None = None) -> list[int]:
    """Starts of `num_clips` clips spread evenly from the first possible to the last; of one clip, the middle.

    A video in which only one clip fits gives that clip once: the mean over copies of it would be the same.
    """
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    last = last_start(num_video_frames, clip, fps=fps)
    if last == 0:
        return [0]
    if num_clips == 1:
        return [last // 2]
    # position * last / (num_clips - 1), rounded to the nearest frame without floating point
    starts = [(position * last + (num_clips - 1) // 2) // (num_clips - 1) for position in range(num_clips)]
    assert starts[0] == 0 and starts[-1] == last, f"clips must reach both ends of 0..{last}, got {starts}"
    return starts


def endless_window_starts(clip: ClipConfig, clip_step: int | None, *, fps: float | None = None) -> Iterator[int]:
    """Starts of windows `clip_step` frames apart, ascending, without end.

    Like frame_stride, clip_step is counted at target_fps where the clip has one. None stands for half a clip.
    """
    if clip_step is None:
        clip_step = clip.default_clip_step
    if clip_step < 1:
        raise ValueError(f"clip_step must be at least 1, got {clip_step}")
    step, previous = clip_step * _file_frames(clip, fps), -1
    for number in count():
        start = math.floor(number * step + _EPSILON)
        # In a file of far fewer frames/s than target_fps, steps can be shorter than a frame
        if start != previous:
            yield start
        previous = start


def window_starts(
    num_video_frames: int, clip: ClipConfig, clip_step: int | None, *, fps: float | None = None
) -> list[int]:
    """The endless_window_starts() of a video; one more ends with it where frames would be left uncovered."""
    last = last_start(num_video_frames, clip, fps=fps)
    starts = list(takewhile(lambda start: start <= last, endless_window_starts(clip, clip_step, fps=fps)))
    if starts[-1] != last:
        starts.append(last)
    return starts
