"""Cut clips from a file and re-encode them: short, small, and with keyframes close together."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from video_module.data import transforms
from video_module.data.decoding import Frame, frames_from
from video_module.data.encoding import open_video
from video_module.data.packets import packet_table
from video_module.data.records import probe_video
from video_module.data.segments import TOLERANCE_S, Segment
from video_module.errors import VideoError

# A clip of training decodes half as many frames as this in vain, on average.
_KEYFRAME_INTERVAL = 16
# Of an original's frames in a clip, so many may be lost. A tenth is damage, as in records.py.
_MAX_LOST = 0.1
# How long a frame is shown at least, where a file gives two of them one time.
_LEAST_S = 0.0001


class Stopped(Exception):
    """Raised by `advance` to end the work, which leaves nothing half-written."""


def write_clips(
    segments: Mapping[Path, Segment],
    *,
    short_side: int,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[Path, int | VideoError]]:
    """Encode segments of one file in one pass over it: H.264, the frames' own times, no sound.

    Yields each path as soon as it is written, with how many of the segment's frames the file has lost; or, where none
    decodes or too few, with a VideoError. `advance` is told the seconds that each frame is shown. Raises VideoError if
    the file cannot be opened.
    """
    waiting = sorted(segments.items(), key=lambda item: _begin_s(item[1]))
    file, running = waiting[0][1].file, {}
    frames = frames_from(file, _begin_s(waiting[0][1]))
    try:
        for frame in chain(frames, [None]):
            advance(0.0)
            while waiting and (frame is None or frame.time_s >= _begin_s(waiting[0][1])):
                path, segment = waiting.pop(0)
                running[path] = _encode(path, segment, short_side, advance)
                next(running[path])
            for path, encoder in list(running.items()):
                try:
                    encoder.send(frame)
                except StopIteration as end:
                    del running[path]
                    yield path, _lost(path, segments[path], end.value)
                except VideoError as error:
                    del running[path]
                    yield path, error
            if not waiting and not running:
                return
    finally:
        frames.close()
        for encoder in running.values():
            encoder.close()


def _begin_s(segment: Segment) -> float:
    return (segment.start_s or 0.0) - TOLERANCE_S


def _end_s(segment: Segment) -> float:
    return math.inf if segment.end_s is None else segment.end_s - TOLERANCE_S


def _encode(
    path: Path, segment: Segment, short_side: int, advance: Callable[[float], None]
) -> Generator[None, Frame | None, int]:
    """Is sent the frames from the segment's first one on, and None after the file's last; returns how many it has."""
    table = packet_table(segment.file)
    num_frames, now_s, size = 0, 0.0, None
    with open_video(path, fps=table.fps, keyframe_interval=_KEYFRAME_INTERVAL) as writer:
        frame = yield
        zero_s = frame.time_s if frame else 0.0
        while frame is not None and frame.time_s < _end_s(segment):
            pixels = frame.to_rgb()
            size = size or _prepared_size(*pixels.shape[:2], short_side)
            # It is shown until the next one, but hardly beyond the segment, where a recording stands still
            latest_s = max(segment.end_s or math.inf, frame.time_s + table.step_s())
            frame = yield
            until_s = min(frame.time_s if frame else table.end_s, latest_s) - zero_s
            until_s = max(until_s, now_s + _LEAST_S)
            # As evaluation and serving resize, so that a network sees the same in a clip and in what it was cut from
            writer.write(transforms.resize(pixels, size), (now_s, until_s))
            advance(until_s - now_s)
            num_frames, now_s = num_frames + 1, until_s
        if num_frames == 0:
            raise VideoError(f"{segment.file}: no frame decodes")
    return num_frames


def _lost(path: Path, segment: Segment, num_frames: int) -> int | VideoError:
    """How many frames a clip of `num_frames` lacks. If that is too many, it is removed."""
    edges_s = packet_table(segment.file).edges_s()
    first, last = np.searchsorted(edges_s[:-1], [_begin_s(segment), _end_s(segment)])
    num_due = int(last - first)
    num_lost = max(0, num_due - num_frames)
    if num_lost <= _MAX_LOST * num_due:
        return num_lost
    # Packets may promise frames that a sound file does not have
    if probe_video(segment.file).num_damaged_frames == 0:
        return 0
    path.unlink()
    return VideoError(f"{segment.file}: damaged: only {num_frames} of {num_due} frames decode")


def _prepared_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the short side brought to `short_side`, if it is longer; even, as H.264 wants them."""
    scale = short_side / min(height, width)
    return (height, width) if scale >= 1 else (2 * round(height * scale / 2), 2 * round(width * scale / 2))
