"""Choose which frames of a video make a clip. This is index arithmetic only; no video is opened here.

One rule makes every clip. A clip starts at a frame and takes `num_frames` frames, the clip's stride apart. Without
ClipConfig.target_fps the stride counts frames. With it, it counts time: for each moment the frame that is shown then. A
video shorter than the clip's span is stretched: first the step shrinks until the video is just covered, then its last
frame is repeated.

Functions take the video's `fps`, and `edges_s` where its frames are not evenly spaced: when each begins and the last
ends in seconds, (num_video_frames + 1,). Both matter with target_fps alone.
"""

import math
from collections.abc import Sequence

import numpy as np

from video_module.config import ClipConfig
from video_module.errors import InputError

# Added before a position is rounded down. Floating point can put a whole number just below itself, as 100 * 0.29, and
# frame 28 would stand in for 29. Real steps are far coarser than this.
EPSILON = 1e-6


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
    return np.floor(np.arange(num_frames) * step + EPSILON).astype(np.int64)


def _edges(num_video_frames: int, clip: ClipConfig, fps: float | None, edges_s: Sequence[float] | None) -> np.ndarray:
    """Where each frame begins and the last ends, (num_video_frames + 1,), in what frame_stride counts."""
    if clip.target_fps is None:
        return np.arange(num_video_frames + 1, dtype=np.float64)
    if edges_s is None:
        return np.arange(num_video_frames + 1) / _file_frames(clip, fps)
    assert len(edges_s) == num_video_frames + 1, (len(edges_s), num_video_frames)
    return np.asarray(edges_s, np.float64) * clip.target_fps


def edge_of(time_s: float, position: int, clip: ClipConfig) -> float:
    """Where a frame begins in what frame_stride counts."""
    return position if clip.target_fps is None else time_s * clip.target_fps


def clip_indices(
    start: int,
    num_video_frames: int,
    clip: ClipConfig,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> np.ndarray:
    """The frames of the clip that starts at `start`: int64 (num_frames,), ascending, each below num_video_frames."""
    if not 0 <= start < num_video_frames:
        raise ValueError(f"start must be in 0..{num_video_frames - 1}, got {start}")
    return start + pick_frames(_edges(num_video_frames, clip, fps, edges_s)[start:], clip)


def span_of(clip: ClipConfig) -> int:
    """From a clip's first frame to its last, in what frame_stride counts."""
    return (clip.num_frames - 1) * clip.frame_stride


def pick_frames(edges: np.ndarray, clip: ClipConfig) -> np.ndarray:
    """clip_indices() of a clip that starts at edges[0], where frames begin at `edges`, and the last of them ends."""
    available = len(edges) - 1
    positions = np.arange(clip.num_frames, dtype=np.int64)
    wanted = edges[0] + positions * clip.frame_stride
    if wanted[-1] < edges[-1] - EPSILON:
        return np.searchsorted(edges[:-1], wanted + EPSILON, side="right") - 1
    # Too short for the step: the step shrinks until the clip just fits. Too short even for a step of 1: the last frame
    # is repeated. Loops and mirrored playback would show motions that are not in the video.
    if clip.num_frames <= available:
        return positions * (available - 1) // max(clip.num_frames - 1, 1)
    return np.minimum(positions, available - 1)


def last_start(
    num_video_frames: int, clip: ClipConfig, *, fps: float | None = None, edges_s: Sequence[float] | None = None
) -> int:
    """The last frame at which a whole clip can start; 0 in a video shorter than the clip."""
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")
    return last_fit(_edges(num_video_frames, clip, fps, edges_s), clip)


def last_fit(edges: np.ndarray, clip: ClipConfig) -> int:
    """last_start() where frames begin at `edges`, and the last of them ends."""
    return max(0, int(np.searchsorted(edges[:-1], edges[-1] - span_of(clip) - EPSILON)) - 1)


def random_start(
    num_video_frames: int,
    clip: ClipConfig,
    rng: np.random.Generator,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> int:
    """A clip's start drawn evenly from all possible ones."""
    return int(rng.integers(last_start(num_video_frames, clip, fps=fps, edges_s=edges_s) + 1))


def uniform_starts(
    num_video_frames: int,
    clip: ClipConfig,
    num_clips: int,
    *,
    fps: float | None = None,
    edges_s: Sequence[float] | None = None,
) -> list[int]:
    """Starts of `num_clips` clips spread evenly from the first possible to the last; of one clip, the middle.

    A video in which only one clip fits gives that clip once: the mean over copies of it would be the same.
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
    """Whether a window starts with the frame that is shown from `begin` to `end`, in what clip_step counts.

    Windows are `clip_step` apart, counted as frame_stride is; None stands for half a clip.
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
    """Starts of windows `clip_step` apart; one more ends with the video where frames would be left uncovered."""
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")
    edges = _edges(num_video_frames, clip, fps, edges_s)
    last = last_fit(edges, clip)
    starts = np.flatnonzero(begins_window(edges[: last + 1], edges[1 : last + 2], clip, clip_step)).tolist()
    if starts[-1] != last:
        starts.append(last)
    return starts
