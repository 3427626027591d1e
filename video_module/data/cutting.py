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

# On average, reading a training clip decodes half as many frames as this only to reach its start.
_KEYFRAME_INTERVAL = 16
# Largest share of a segment's frames that may fail to decode, as in records.py.
_MAX_LOST = 0.1
# Shortest duration of a frame, for files in which two frames have the same time.
_LEAST_S = 0.0001


class Stopped(Exception):
    """Raised by `advance` to stop the work. No partly written file remains."""


def write_clips(
    segments: Mapping[Path, Segment],
    *,
    short_side: int,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[Path, int | VideoError]]:
    """Encode segments of one file in one pass over it, as H.264 without sound. Frames keep their times.

    Yields each path as soon as it is written, with the number of frames that did not decode, or with a VideoError if
    too few decode. `advance` gets the duration of each frame in seconds. Raises VideoError if the file cannot be
    opened.
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
    """Encode the frames sent to it, from the segment's first on; None ends the file. Returns their number."""
    table = packet_table(segment.file)
    num_frames, now_s, size = 0, 0.0, None
    with open_video(path, fps=table.fps, keyframe_interval=_KEYFRAME_INTERVAL) as writer:
        frame = yield
        zero_s = frame.time_s if frame else 0.0
        while frame is not None and frame.time_s < _end_s(segment):
            pixels = frame.to_rgb()
            size = size or _prepared_size(*pixels.shape[:2], short_side)
            # A frame lasts until the next one, but not far beyond the segment's end, even if the next comes late
            latest_s = max(segment.end_s or math.inf, frame.time_s + table.step_s())
            frame = yield
            until_s = min(frame.time_s if frame else table.end_s, latest_s) - zero_s
            until_s = max(until_s, now_s + _LEAST_S)
            # Resized as in evaluation and serving, so that a clip looks to the network like the original
            writer.write(transforms.resize(pixels, size), (now_s, until_s))
            advance(until_s - now_s)
            num_frames, now_s = num_frames + 1, until_s
        if num_frames == 0:
            raise VideoError(f"{segment.file}: no frame decodes")
    return num_frames


def _lost(path: Path, segment: Segment, num_frames: int) -> int | VideoError:
    """Return how many frames a clip of `num_frames` lacks. If too many, delete it and return a VideoError."""
    edges_s = packet_table(segment.file).edges_s()
    first, last = np.searchsorted(edges_s[:-1], [_begin_s(segment), _end_s(segment)])
    num_due = int(last - first)
    num_lost = max(0, num_due - num_frames)
    if num_lost <= _MAX_LOST * num_due:
        return num_lost
    # Even an intact file can have fewer frames than its packets announce
    if probe_video(segment.file).num_damaged_frames == 0:
        return 0
    path.unlink()
    return VideoError(f"{segment.file}: damaged: only {num_frames} of {num_due} frames decode")


def _prepared_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width), reduced to the short side if it is longer. Reduced sizes are even, as H.264 needs."""
    scale = short_side / min(height, width)
    return (height, width) if scale >= 1 else (2 * round(height * scale / 2), 2 * round(width * scale / 2))
