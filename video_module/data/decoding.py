"""Read video files with PyAV (FFmpeg): every frame that decodes, in order, upright, with its time.

All other modules read videos through this one. Frames that are not wanted are decoded but not converted to RGB. To
reach a clip late in a file, it seeks to the keyframe before the clip if that is exact, else it decodes from the start.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from video_module.data import packets
from video_module.data.packets import DEFAULT_FPS, PacketTable, packet_table
from video_module.errors import VideoError

# Before this frame, decoding from the start is as fast as building the table that a seek needs.
_MIN_SEEK = 16


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video's size, frame rate and length, from its packets and its first frame. The other frames are not decoded."""

    width: int
    height: int
    """Width and height are those of the upright frames that iter_frames() yields."""
    fps: float
    """Frames divided by duration."""
    duration_s: float
    estimated_num_frames: int
    """Number of packets that should contain a frame."""
    has_times: bool
    """Whether the file states when its frames are shown. If not, a constant `fps` is assumed."""


class _Converter:
    """Convert decoded frames to upright uint8 RGB (H, W, 3), whose rows may have gaps between them.

    Use one converter per file, because it caches FFmpeg's set-up.
    """

    def __init__(self) -> None:
        self._reformatter, self._deep_reformatter = VideoReformatter(), VideoReformatter()

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        source = frame
        if source.format.components[0].bits > 8:
            # When FFmpeg converts to 8 bits directly, it dithers and the result is one level too dark
            source = self._deep_reformatter.reformat(frame, format="rgb48le", interpolation="BICUBIC", threads=1)
        converted = self._reformatter.reformat(source, format="rgb24", threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(converted.height, plane.line_size)
        pixels = rows[:, : 3 * converted.width].reshape(converted.height, converted.width, 3)
        # frame.side_data would create a reference cycle, which keeps the decoder's memory until the next garbage
        # collection.
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
        if matrix is not None:
            pixels = _upright(pixels, np.frombuffer(matrix, np.int32))
        # A frame that was already RGB still belongs to the decoder
        return pixels.copy() if converted is frame else pixels


def _upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply the linear part (a b, c d) of a display matrix as FFmpeg does: (x, y) becomes (ax + cy, bx + dy).

    All eight orientations of a rectangle are an optional swap of the axes, followed by an optional flip of each axis.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) > abs(a):
        pixels, flip_x, flip_y = cv2.transpose(pixels), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    if flip_x or flip_y:
        pixels = cv2.flip(pixels, -1 if flip_x and flip_y else int(flip_x))
    return pixels


class Frame:
    """A decoded frame and its time. It is converted to RGB only on request."""

    __slots__ = ("_converter", "_frame", "time_s")

    def __init__(self, frame: av.VideoFrame, converter: _Converter, time_s: float) -> None:
        self._frame, self._converter, self.time_s = frame, converter, time_s

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as stored, before the frame is turned upright."""
        return self._frame.height, self._frame.width

    def to_rgb(self) -> np.ndarray:
        """Return the upright frame as uint8 RGB (H, W, 3), in memory of its own."""
        return np.ascontiguousarray(self._converter.to_rgb(self._frame))


class VideoReader:
    """Decode a video from its first frame: `for frame in VideoReader(path)`. A reader can be iterated over once.

    Decoding continues after a packet that fails. The counters can be read at any time. Starting the iteration raises
    VideoError if the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.times_s: list[float] = []
        """Times of the frames read so far, ascending from 0."""
        self.num_packets = 0
        """Packets read that should contain a frame. At the end, packets missing from the file are added."""
        self.num_failed = 0
        """How many of these packets failed to decode."""
        self.num_corrupt = 0
        """Frames that the decoder returned but marked as corrupt."""

    @property
    def num_frames(self) -> int:
        return len(self.times_s)

    @property
    def has_times(self) -> bool:
        """Whether the file states when its frames are shown. If not, a constant rate is assumed."""
        return packet_table(self.path).has_times

    @property
    def num_damaged(self) -> int:
        """Number of lost and of corrupt frames."""
        return self.num_failed + self.num_corrupt

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last. Available once all frames are read."""
        return self._end_s

    @property
    def fps(self) -> float:
        """Frames divided by duration."""
        if self._rate and self.edges_s is None:
            return self._rate
        return self.num_frames / self._end_s if self._end_s > 0 else DEFAULT_FPS

    @property
    def edges_s(self) -> np.ndarray | None:
        """Start of each frame and end of the last, float64 (num_frames + 1,); None if frame n is at n / fps.

        Available once all frames are read.
        """
        if self._rate and self.times_s[-1] == (self.num_frames - 1) / self._rate:
            return None
        return np.array([*self.times_s, self._end_s])

    def __iter__(self) -> Iterator[Frame]:
        table = packet_table(self.path)
        container, stream = packets.open_file(self.path)
        converter, clock = _Converter(), _Clock(table, stream)
        # The frames are closed before the container, else FFmpeg leaks the memory of packets.
        with container, closing(self._decode(container, stream)) as frames:
            for frame in frames:
                self.num_corrupt += frame.is_corrupt
                self.times_s.append(clock.time_of(frame))
                yield Frame(frame, converter, self.times_s[-1])
        self.num_packets += table.num_missing
        self.num_failed += table.num_missing
        self._end_s, self._rate = clock.end_s(), clock.rate
        table.num_decoded = self.num_frames

    def no_frame(self) -> VideoError:
        """Return the error for a file without a frame that decodes."""
        container, stream = packets.open_file(self.path)
        with container:
            return VideoError(f"{self.path}: no frame decodes (codec {stream.codec_context.name})")

    def _decode(
        self, container: av.container.InputContainer, stream: av.VideoStream, key: tuple[int, int] | None = None
    ) -> Iterator[av.VideoFrame]:
        context = stream.codec_context
        with closing(packets.read_packets(container, stream, key)) as stream_packets:
            # None flushes the frames that the decoder still holds
            for packet in chain(stream_packets, (None,)):
                promised = packet is not None and not packet.is_discard
                self.num_packets += promised
                try:
                    frames = context.decode(packet)
                except av.error.FFmpegError:
                    self.num_failed += promised
                    continue
                yield from frames


class _Clock:
    """Compute the time of each frame, in display order: seconds from 0, never decreasing."""

    def __init__(self, table: PacketTable, stream: av.VideoStream) -> None:
        self._table, self._stream, self._tick = table, stream, float(stream.time_base)
        self.rate = table.rate and float(table.rate)
        self._first: int | None = None
        self._number, self._time_s = -1, 0.0

    def time_of(self, frame: av.VideoFrame) -> float:
        stamp = packets.stamp_of(frame, self._stream) if self._table.has_times else None
        if self._first is None:
            self._first = stamp
        since_s = None if stamp is None or self._first is None else (stamp - self._first) * self._tick
        self._number += 1
        if self.rate:
            # For evenly spaced frames, undo the container's rounding, so that every reader gets the same times. A lost
            # frame leaves a gap.
            if since_s is not None and since_s > self._number / self.rate + packets.rounding_s(self._stream):
                self._number = round(since_s * self.rate)
            self._time_s = self._number / self.rate
        elif since_s is not None:
            # Rounded to the microsecond, as in split.json
            self._time_s = max(self._time_s, round(since_s, 6))
        elif self._number:
            self._time_s += self._table.step_s()
        return self._time_s

    def end_s(self) -> float:
        """Return when the last frame ends."""
        if self.rate:
            return (self._number + 1) / self.rate
        late_s = 0.0 if self._first is None else (self._first - int(self._table.stamps[0])) * self._tick
        return max(round(self._table.end_s - late_s, 6), self._time_s)


def read_info(path: str | Path) -> VideoInfo:
    """Read a file's packets and decode its first frame. Raises VideoError if none decodes."""
    table, reader = packet_table(path), VideoReader(path)
    first = next(iter(reader), None)
    if first is None:
        raise reader.no_frame()
    height, width = first.to_rgb().shape[:2]
    return VideoInfo(
        width=width,
        height=height,
        fps=table.fps,
        duration_s=table.end_s,
        estimated_num_frames=table.num_frames,
        has_times=table.has_times,
    )


def count_frames(path: str | Path) -> tuple[int, VideoInfo]:
    """Count the frames that decode, by decoding all. Raises VideoError if the file cannot be opened or none decodes."""
    info, reader = read_info(path), VideoReader(path)
    return sum(1 for _ in reader), info


def iter_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every frame that decodes, in order, as uint8 RGB (H, W, 3). Raises VideoError if there is none."""
    reader = VideoReader(path)
    for frame in reader:
        yield frame.to_rgb()
    if reader.num_frames == 0:
        raise reader.no_frame()


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray,
    *,
    per_frame: Callable[[np.ndarray], np.ndarray] | None = None,
    num_frames: int | None = None,
) -> np.ndarray:
    """Decode the frames at `indices` (ascending, repeats allowed) into one array, with wanted_frames().

    `per_frame` is applied to each (H, W, 3) frame at once, for example to resize it, so that full-size frames need not
    be kept. Returns uint8 RGB (len(indices), H, W, 3).
    """
    clip = None
    for number, pixels in wanted_frames(path, indices, num_frames=num_frames):
        if number and indices[number] == indices[number - 1]:
            clip[number] = clip[number - 1]
            continue
        if per_frame is not None:
            pixels = per_frame(pixels)
        if clip is None:
            clip = np.empty((len(indices), *pixels.shape), np.uint8)
        # Copied now, not stacked at the end, because the frame is still in the processor's cache
        clip[number] = pixels
    return clip


def wanted_frames(
    path: str | Path, indices: Sequence[int] | np.ndarray, *, num_frames: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at `indices` (ascending, repeats allowed) in one pass, from the keyframe before the first.

    Yields (position in `indices`, uint8 RGB (H, W, 3)). A frame may have gaps between its rows and is only valid until
    the next one is requested.

    `num_frames` is the number of frames that decode, if known. If frames before the wanted ones are damaged, their
    number shifts; such a file is recognised by this count and read from the start.

    Raises VideoError naming `path` if it cannot be opened or ends before the last index.
    """
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or len(indices) == 0 or indices[0] < 0 or (np.diff(indices) < 0).any():
        raise ValueError(f"indices must be ascending and not negative, got {indices.tolist()}")
    converter, number, position, size = _Converter(), 0, -1, None
    for frames in _ways_to(path, indices, num_frames):
        try:
            for position, frame in frames:
                if position < indices[number]:
                    continue
                if size is not None and (frame.height, frame.width) != size:
                    raise VideoError(f"{path}: the frame size changes midway")
                size = frame.height, frame.width
                pixels = converter.to_rgb(frame)
                while number < len(indices) and indices[number] == position:
                    yield number, pixels
                    number += 1
                if number == len(indices):
                    return
        except _InexactSeek:
            # The frames yielded so far are correct
            continue
        finally:
            frames.close()
    raise VideoError(
        f"{path}: frame {indices[number]} was requested, but only {position + 1} frames decode; rerun split_data.py to "
        "count them again"
    )


def _ways_to(
    path: str | Path, indices: np.ndarray, num_frames: int | None
) -> Iterator[Iterator[tuple[int, av.VideoFrame]]]:
    """Yield ways to read the indices: first by a seek, if that may be exact, then from the start."""
    if indices[0] >= _MIN_SEEK:
        table = packet_table(path)
        counts = {num_frames, table.num_decoded} - {None}
        if table.is_seekable and counts <= {table.num_frames} and indices[-1] < table.num_frames:
            key = int(np.searchsorted(table.key_stamps[:, 0], table.stamps[indices[0]], side="right")) - 1
            if key > 0:
                yield _frames_after(path, table, key)
    yield _frames_from_start(path)


def frames_from(path: str | Path, start_s: float) -> Iterator[Frame]:
    """Decode the frames that begin at `start_s` or later, to the end of the file, after a seek if that is exact.

    Times are in seconds from the file's first frame. Raises VideoError if the file cannot be opened.
    """
    table, converter = packet_table(path), _Converter()
    edges_s = table.edges_s()
    first = int(np.searchsorted(edges_s[:-1], start_s))
    key = 0
    if table.is_seekable and first < table.num_frames and table.num_decoded in (None, table.num_frames):
        key = int(np.searchsorted(table.key_stamps[:, 0], table.stamps[first], side="right")) - 1
    if key > 0:
        try:
            with closing(_frames_after(path, table, key)) as frames:
                for position, frame in frames:
                    if position >= first:
                        yield Frame(frame, converter, float(edges_s[position]))
                        # Where to continue if this has to be read from the start after all
                        start_s = float(edges_s[position : position + 2].mean())
                    if position == table.num_frames - 1:
                        return
        except _InexactSeek:
            # The frames yielded so far are correct
            pass
    for frame in VideoReader(path):
        if frame.time_s >= start_s:
            yield frame


class _InexactSeek(Exception):
    """After a seek, the frames may differ from those read from the start."""


def _frames_from_start(path: str | Path) -> Iterator[tuple[int, av.VideoFrame]]:
    container, stream = packets.open_file(path)
    with container, closing(VideoReader(path)._decode(container, stream)) as frames:
        yield from enumerate(frames)


def _frames_after(path: str | Path, table: PacketTable, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (position, frame) from a keyframe on. Raises _InexactSeek at the first frame that is not as expected."""
    (container, stream), reader = packets.open_file(path), VideoReader(path)
    with container, closing(reader._decode(container, stream, tuple(table.key_stamps[key].tolist()))) as frames:
        first = int(table.key_stamps[key, 0])
        due = int(np.searchsorted(table.stamps, first))
        for frame in frames:
            stamp = packets.stamp_of(frame, stream)
            # In an open group of pictures, these frames depend on frames before the keyframe and decode wrongly
            if stamp is not None and stamp < first:
                continue
            if due == table.num_frames or stamp != table.stamps[due] or frame.is_corrupt or reader.num_failed:
                raise _InexactSeek
            yield due, frame
            due += 1
        raise _InexactSeek
