"""The only reader of video files: OpenCV with its own FFmpeg, forward only, one thread per reader.

A seek to a frame costs a decode from the keyframe before it (every 100 frames or so in HMDB51), so frames are reached
by grab(), which decodes without converting, and only wanted ones are retrieved. Loaders run many readers at once: with
one decoder thread each they are twice as fast as with FFmpeg's default.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from video_module.errors import InputError

# fmt: off
VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".m4v", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts",
    ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".divx", ".mxf",
)
# fmt: on
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Containers that store the number of frames. Of others OpenCV's count is duration times rate, which is a guess.
_SUFFIXES_WITH_COUNT = (".avi", ".mp4", ".mov", ".m4v")
# So much is decoded to measure a rate that no header states: a minute and a half of 640x480.
_MEASURED_PIXELS = 2**30
# Where a container states no usable rate.
DEFAULT_FPS = 25.0


class VideoError(InputError):
    """A video that cannot be opened, or holds fewer frames than asked for; the text names the file."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container's header says. Only frames that decode count, so its frame count is a hint."""

    width: int
    height: int
    fps: float
    header_num_frames: int
    """0 where the container stores no count."""
    estimated_num_frames: int
    """From the duration and the rate, for progress bars; 0 where even that is unknown."""


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file; hidden files (such as macOS's `._x.avi`) are not."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def _open(path: str | Path) -> cv2.VideoCapture:
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # OpenCV would crash on it
        raise VideoError(f"{str(path)!a}: the name is not valid UTF-8; rename the file") from None
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    # FFmpeg takes a picture for a video of one frame
    if path.suffix.lower() in _PICTURE_SUFFIXES:
        raise VideoError(f"{path}: a picture, not a video")
    # Absolute, so that no part of a name is taken for a protocol ("a:b.avi") or an option ("-x.avi")
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError(f"{path}: not a video that can be read")
    return capture


def is_rate(fps: float) -> bool:
    """Whether frames/s, as a file or a stream claims them, can be true."""
    return 0.1 <= fps <= 1000


def _info(capture: cv2.VideoCapture, path: str | Path) -> VideoInfo:
    fps = capture.get(cv2.CAP_PROP_FPS)
    # The count is negative or absurd where the header says nothing
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    count = int(count) if 0 < count < 1e9 else 0
    return VideoInfo(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        fps=float(fps) if is_rate(fps) else DEFAULT_FPS,
        header_num_frames=count if Path(path).suffix.lower() in _SUFFIXES_WITH_COUNT else 0,
        estimated_num_frames=count,
    )


def read_info(path: str | Path) -> VideoInfo:
    """Read a video's header. Raises VideoError if it cannot be opened.

    Where it tells no duration, as in browsers' recordings, its rate is a guess too (of the first two frames): there the
    first frames are decoded and their times taken.
    """
    capture = _open(path)
    try:
        info = _info(capture, path)
        return info if info.estimated_num_frames else _measure(capture, info)
    finally:
        capture.release()


def _measure(capture: cv2.VideoCapture, info: VideoInfo) -> VideoInfo:
    most = _MEASURED_PIXELS // max(1, info.width * info.height)
    times_s: list[float] = []
    while len(times_s) < most and capture.grab():
        times_s.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    span_s = times_s[-1] - times_s[0] if times_s else 0.0
    fps = (len(times_s) - 1) / span_s if span_s > 0 else info.fps
    return dataclasses.replace(
        info,
        fps=fps if is_rate(fps) else info.fps,
        estimated_num_frames=len(times_s) if len(times_s) < most else 0,
    )


def count_frames(path: str | Path) -> tuple[int, VideoInfo]:
    """Count the frames that decode, by decoding them. Raises VideoError if the file cannot be opened."""
    capture = _open(path)
    try:
        num_frames = 0
        while capture.grab():
            num_frames += 1
        info = _info(capture, path)
        return num_frames, info if info.estimated_num_frames else read_info(path)
    finally:
        capture.release()


def iter_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every frame that decodes, in order, as uint8 RGB (H, W, 3). Raises VideoError if there is none."""
    for retrieve in iter_positions(path):
        yield retrieve()


def iter_positions(path: str | Path) -> Iterator[Callable[[], np.ndarray]]:
    """iter_frames() for callers that skip some: yields, for each frame, a function that converts and returns it.

    It is to be called before the next one is asked for.
    """
    capture = _open(path)

    def retrieve() -> np.ndarray:
        decoded, frame = capture.retrieve()
        if not decoded:
            raise VideoError(f"{path}: frame {num_frames - 1} does not decode")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    num_frames = 0
    try:
        while capture.grab():
            num_frames += 1
            yield retrieve
        if num_frames == 0:
            raise VideoError(f"{path}: no frame decodes")
    finally:
        capture.release()


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray,
    *,
    per_frame: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Decode the frames at `indices` (ascending, repeats allowed) in one forward pass.

    `per_frame` maps each (H, W, 3) frame as it comes (a resize, say), so that full-size frames need not pile up.
    Returns uint8 RGB (len(indices), H, W, 3).
    Raises VideoError naming `path` if it cannot be opened or ends before the last index.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or len(indices) == 0 or indices[0] < 0 or (np.diff(indices) < 0).any():
        raise ValueError(f"indices must be ascending and not negative, got {indices.tolist()}")
    capture = _open(path)
    frames = size = None
    position = -1
    try:
        for number, index in enumerate(indices):
            if index == position:
                frames[number] = frames[number - 1]
                continue
            while position < index:
                if not capture.grab():
                    raise VideoError(
                        f"{path}: frame {index} was wanted, but only {position + 1} decode; "
                        "rerun split_data.py to count its frames anew"
                    )
                position += 1
            decoded, frame = capture.retrieve()
            if not decoded:
                raise VideoError(f"{path}: frame {index} does not decode")
            if size is not None and frame.shape != size:
                raise VideoError(f"{path}: the frame size changes midway")
            size = frame.shape
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            if per_frame is not None:
                frame = per_frame(frame)
            if frames is None:
                frames = np.empty((len(indices), *frame.shape), np.uint8)
            # Copied at once rather than stacked at the end: the frame is still in the processor's cache
            frames[number] = frame
    finally:
        capture.release()
    return frames
