"""Choose the frames of a clip. This is index arithmetic only; no video is opened here.

All clips follow one rule: they take `num_frames` frames, `frame_stride` apart, from a start on. With
ClipConfig.target_fps, the stride counts frames at that rate instead of frames of the video, and a clip takes the frames
shown at these times. If the video is too short, the stride is reduced until the clip fits. If it has fewer than
`num_frames` frames, the last one is repeated.

Functions take the video's `fps` and, if frames are not evenly spaced, `edges_s`: the start of each frame and the end of
the last in seconds, (num_video_frames + 1,). Both are only used with target_fps.
"""

import math
from collections.abc import Sequence

import numpy as np

from video_module.config import ClipConfig
from video_module.errors import InputError

# Added before rounding down, because floating-point results can lie just below a whole number: 100 * 0.29 would become
# frame 28. Real steps are much larger than this.
EPSILON = 1e-6


def _file_frames(clip: ClipConfig, fps: float | None) -> float:
    """Return how many frames of the video correspond to a stride of one: fps / target_fps, or 1 without target_fps."""
    if clip.target_fps is None:
        return 1.0
    if not fps or not math.isfinite(fps) or fps < 0:
        raise InputError(
            f"the model samples at {clip.target_fps:g} frames/s, but the video's frame rate is unknown ({fps})"
        )
    return fps / clip.target_fps


def _frame_step(clip: ClipConfig, fps: float | None) -> float:
    """Return how many frames of the video lie between two frames of a clip."""
    return clip.frame_stride * _file_frames(clip, fps)


def clip_span(clip: ClipConfig, fps: float | None) -> int:
    """Return how many frames of the video a clip covers, from its first to its last, both included."""
    return int(_offsets(clip.num_frames, _frame_step(clip, fps))[-1]) + 1


def _offsets(num_frames: int, step: float) -> np.ndarray:
    return np.floor(np.arange(num_frames) * step + EPSILON).astype(np.int64)


def _edges(num_video_frames: int, clip: ClipConfig, fps: float | None, edges_s: Sequence[float] | None) -> np.ndarray:
    """Return the start of each frame and the end of the last, (num_video_frames + 1,), in units of frame_stride."""
    if clip.target_fps is None:
        return np.arange(num_video_frames + 1, dtype=np.float64)
    if edges_s is None:
        return np.arange(num_video_frames + 1) / _file_frames(clip, fps)
    assert len(edges_s) == num_video_frames + 1, (len(edges_s), num_video_frames)
    return np.asarray(edges_s, np.float64) * clip.target_fps


def edge_of(time_s: float, position: int, clip: ClipConfig) -> float:
    """Return the start of a frame in units of frame_stride."""
    return position if clip.target_fps is None else time_s * clip.target_fps


def clip_indices(
    start: int,
    num_video_frames: int,
    clip: ClipConfig,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> np.ndarray:
    """Return the frames of the clip that starts at `start`: int64 (num_frames,), ascending."""
    if not 0 <= start < num_video_frames:
        raise ValueError(f"start must be in 0..{num_video_frames - 1}, got {start}")
    return start + pick_frames(_edges(num_video_frames, clip, fps, edges_s)[start:], clip)


def span_of(clip: ClipConfig) -> int:
    """Return the distance from a clip's first frame to its last, in units of frame_stride."""
    return (clip.num_frames - 1) * clip.frame_stride


def pick_frames(edges: np.ndarray, clip: ClipConfig) -> np.ndarray:
    """Return the frames of a clip that starts at the first frame, given the edges of frames as in _edges()."""
    available = len(edges) - 1
    positions = np.arange(clip.num_frames, dtype=np.int64)
    wanted = edges[0] + positions * clip.frame_stride
    if wanted[-1] < edges[-1] - EPSILON:
        return np.searchsorted(edges[:-1], wanted + EPSILON, side="right") - 1
    # The video is too short for the step, so reduce the step until the clip fits. If even a step of 1 is too long,
    # repeat the last frame. Looping or playing backwards would show motion that is not in the video.
    if clip.num_frames <= available:
        return positions * (available - 1) // max(clip.num_frames - 1, 1)
    return np.minimum(positions, available - 1)


def last_start(
    num_video_frames: int, clip: ClipConfig, *, fps: float | None = None, edges_s: Sequence[float] | None = None
) -> int:
    """Return the last frame at which a whole clip can start, or 0 if the video is shorter than a clip."""
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")
    return last_fit(_edges(num_video_frames, clip, fps, edges_s), clip)


def last_fit(edges: np.ndarray, clip: ClipConfig) -> int:
    """Return last_start(), given the edges of frames as in _edges()."""
    return max(0, int(np.searchsorted(edges[:-1], edges[-1] - span_of(clip) - EPSILON)) - 1)


def random_start(
    num_video_frames: int,
    clip: ClipConfig,
    rng: np.random.Generator,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> int:
    """Draw the start of a clip; all possible ones are equally likely."""
    return int(rng.integers(last_start(num_video_frames, clip, fps=fps, edges_s=edges_s) + 1))


def uniform_starts(
    num_video_frames: int,
    clip: ClipConfig,
    num_clips: int,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> list[int]:
    """Return the starts of `num_clips` clips, spread evenly from the first possible start to the last.

    A single clip is in the middle. If only one clip fits into the video, it is returned once, because the mean over
    copies of it would be the same.
    """
    if num_clips < 1:
        raise ValueError(f"num_clips must be at least 1, got {num_clips}")
    last = last_start(num_video_frames, clip, fps=fps, edges_s=edges_s)
    if last == 0:
        return [0]
    if num_clips == 1:
        return [last // 2]
    # position * last / (num_clips - 1), rounded to the nearest frame without floating point
    starts = [(position * last + (num_clips - 1) // 2) // (num_clips - 1) for position in range(num_clips)]
    assert starts[0] == 0 and starts[-1] == last, f"clips must reach both ends of 0..{last}, got {starts}"
    return starts


def begins_window(begin: float | np.ndarray, end: float | np.ndarray, clip: ClipConfig, clip_step: int | None):
    """Return whether a window starts at the frame shown from `begin` to `end`.

    Windows are `clip_step` apart; None is half a clip. `begin`, `end` and `clip_step` are in units of frame_stride.
    """
    if clip_step is None:
        clip_step = clip.default_clip_step
    if clip_step < 1:
        raise ValueError(f"clip_step must be at least 1, got {clip_step}")
    return np.ceil((begin - EPSILON) / clip_step) * clip_step < end - EPSILON


def window_starts(
    num_video_frames: int,
    clip: ClipConfig,
    clip_step: int | None,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> list[int]:
    """Return the starts of windows `clip_step` apart. If they do not reach the end, a last one ends with the video."""
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")
    edges = _edges(num_video_frames, clip, fps, edges_s)
    last = last_fit(edges, clip)
    starts = np.flatnonzero(begins_window(edges[: last + 1], edges[1 : last + 2], clip, clip_step)).tolist()
    if starts[-1] != last:
        starts.append(last)
    return starts
