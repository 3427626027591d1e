"""The only reader of video files, on PyAV (FFmpeg): each frame that decodes, in order, upright, with its time.

Frames that nobody asked for are decoded and not converted. A clip that begins late in a file is reached by a seek to
the keyframe before it where that is exact, else by reading forward.
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

# Frames that are decoded rather than looked up.
_MIN_SEEK = 16


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video's size, rate and length, according to its packets and first frame. Only frames that decode count."""

    width: int
    height: int
    """Upright, as iter_frames() gives them."""
    fps: float
    """Frames divided by duration."""
    duration_s: float
    estimated_num_frames: int
    """Packets that should give a frame."""
    has_times: bool
    """Whether the file tells when its frames are shown; else `fps` is assumed."""


class _Converter:
    """Converts decoded frames to upright uint8 RGB (H, W, 3). Use one per file: it keeps what FFmpeg prepared.

    There may be gaps between the rows.
    """

    def __init__(self) -> None:
        self._reformatter, self._deep_reformatter = VideoReformatter(), VideoReformatter()

    def to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        source = frame
        if source.format.components[0].bits > 8:
            # On the straight way FFmpeg dithers, and comes out a level too dark
            source = self._deep_reformatter.reformat(frame, format="rgb48le", interpolation="BICUBIC", threads=1)
        converted = self._reformatter.reformat(source, format="rgb24", threads=1)
        plane = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(converted.height, plane.line_size)
        pixels = rows[:, : 3 * converted.width].reshape(converted.height, converted.width, 3)
        # Not by frame.side_data: the two would then hold each other, and the decoder's memory, until Python looks for
        # cycles.
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
        if matrix is not None:
            pixels = _upright(pixels, np.frombuffer(matrix, np.int32))
        # What was RGB already is still the decoder's
        return pixels.copy() if converted is frame else pixels


def _upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply the linear part (a b, c d) of a display matrix, which takes (x, y) to (ax + cy, bx + dy), as FFmpeg does.

    The eight ways to lay a rectangle are a swap of the axes, or none, and then a mirror along each axis, or none.
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
    """A decoded frame and when it is shown; it is converted to RGB only on request."""

    __slots__ = ("_converter", "_frame", "time_s")

    def __init__(self, frame: av.VideoFrame, converter: _Converter, time_s: float) -> None:
        self._frame, self._converter, self.time_s = frame, converter, time_s

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as coded, before the frame is put upright."""
        return self._frame.height, self._frame.width

    def to_rgb(self) -> np.ndarray:
        """uint8 RGB (H, W, 3), upright, the caller's own."""
        return np.ascontiguousarray(self._converter.to_rgb(self._frame))


class VideoReader:
    """Decodes a video from its first frame on: `for frame in VideoReader(path)`, once.

    Decoding goes on after a packet that fails. What was counted can be read at any time. Raises VideoError, when it
    begins, if the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.times_s: list[float] = []
        """Of the frames so far, ascending from 0."""
        self.num_packets = 0
        """Packets that should have given a frame; once all are read, those that the file has lost are among them."""
        self.num_failed = 0
        """Those of them that failed to decode."""
        self.num_corrupt = 0
        """Frames that the decoder gave and called corrupt."""

    @property
    def num_frames(self) -> int:
        return len(self.times_s)

    @property
    def has_times(self) -> bool:
        """Whether the file tells when its frames are shown; else an even rate is assumed."""
        return packet_table(self.path).has_times

    @property
    def num_damaged(self) -> int:
        """Frames that are lost, and frames that came damaged."""
        return self.num_failed + self.num_corrupt

    @property
    def duration_s(self) -> float:
        """From the first frame to the end of the last, once all are read."""
        return self._end_s

    @property
    def fps(self) -> float:
        """Frames divided by duration."""
        if self._rate and self.edges_s is None:
            return self._rate
        return self.num_frames / self._end_s if self._end_s > 0 else DEFAULT_FPS

    @property
    def edges_s(self) -> np.ndarray | None:
        """Where each frame begins and the last one ends, float64 (num_frames + 1,); None where frame n is at n / fps.

        Once all are read.
        """
        if self._rate and self.times_s[-1] == (self.num_frames - 1) / self._rate:
            return None
        return np.array([*self.times_s, self._end_s])

    def __iter__(self) -> Iterator[Frame]:
        table = packet_table(self.path)
        container, stream = packets.open_file(self.path)
        converter, clock = _Converter(), _Clock(table, stream)
        # Closed in this order: what FFmpeg keeps for packets is lost if the container goes first.
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
        """The error for a file without a decodable frame."""
        container, stream = packets.open_file(self.path)
        with container:
            return VideoError(f"{self.path}: no frame decodes (codec {stream.codec_context.name})")

    def _decode(
        self, container: av.container.InputContainer, stream: av.VideoStream, key: tuple[int, int] | None = None
    ) -> Iterator[av.VideoFrame]:
        context = stream.codec_context
        with closing(packets.read_packets(container, stream, key)) as stream_packets:
            # None asks for the frames that the decoder still holds
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
    """Gives frames their times in seconds, in the order in which they are shown: from 0, never backwards."""

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
            # Of evenly spaced frames the container's rounding is undone, so that every reader counts the same times. A
            # frame that is lost leaves a gap.
            if since_s is not None and since_s > self._number / self.rate + packets.rounding_s(self._stream):
                self._number = round(since_s * self.rate)
            self._time_s = self._number / self.rate
        elif since_s is not None:
            # To the microsecond, as split.json has them
            self._time_s = max(self._time_s, round(since_s, 6))
        elif self._number:
            self._time_s += self._table.step_s()
        return self._time_s

    def end_s(self) -> float:
        """When the last frame ends."""
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
    """Count the frames that decode, by decoding them. Raises VideoError if the file cannot be opened, or none does."""
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
    """Decode the frames at `indices` (ascending, repeats allowed), as wanted_frames() does.

    `per_frame` maps each (H, W, 3) frame as it comes (a resize, say), so that full-size frames need not pile up.
    Returns uint8 RGB (len(indices), H, W, 3).
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
        # Copied at once rather than stacked at the end: the frame is still in the processor's cache
        clip[number] = pixels
    return clip


def wanted_frames(
    path: str | Path, indices: Sequence[int] | np.ndarray, *, num_frames: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at `indices` (ascending, repeats allowed) in one pass, from the keyframe before the first.

    Yields (place among the indices, uint8 RGB (H, W, 3)); a frame may have gaps between its rows, and is to be used
    before the next one is asked for. `num_frames`, where it is known, is how many decode: frames of a damaged file can
    only be counted from its start, and that it is damaged is seen here no earlier than in the part that is read.
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
            # What was given until now was exact
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
    """Ways to read on to the indices: by a seek, where that may be exact; and from the start."""
    # A nearer frame is as soon decoded as a table is made
    if indices[0] >= _MIN_SEEK:
        table = packet_table(path)
        counts = {num_frames, table.num_decoded} - {None}
        if table.is_seekable and counts <= {table.num_frames} and indices[-1] < table.num_frames:
            key = int(np.searchsorted(table.key_stamps[:, 0], table.stamps[indices[0]], side="right")) - 1
            if key > 0:
                yield _frames_after(path, table, key)
    yield _frames_from_start(path)


def frames_from(path: str | Path, start_s: float) -> Iterator[Frame]:
    """Decode the frames that begin at `start_s` or later, to the end of the file, reached as in wanted_frames().

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
                        # Where the way from the start would go on
                        start_s = float(edges_s[position : position + 2].mean())
                    if position == table.num_frames - 1:
                        return
        except _InexactSeek:
            # What was given until now was exact
            pass
    for frame in VideoReader(path):
        if frame.time_s >= start_s:
            yield frame


class _InexactSeek(Exception):
    """The frames after a seek are not surely those of reading forward."""


def _frames_from_start(path: str | Path) -> Iterator[tuple[int, av.VideoFrame]]:
    container, stream = packets.open_file(path)
    with container, closing(VideoReader(path)._decode(container, stream)) as frames:
        yield from enumerate(frames)


def _frames_after(path: str | Path, table: PacketTable, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(position, frame) from a keyframe on. Raises _InexactSeek as soon as a frame is not the one that is due."""
    (container, stream), reader = packets.open_file(path), VideoReader(path)
    with container, closing(reader._decode(container, stream, tuple(table.key_stamps[key].tolist()))) as frames:
        first = int(table.key_stamps[key, 0])
        due = int(np.searchsorted(table.stamps, first))
        for frame in frames:
            stamp = packets.stamp_of(frame, stream)
            # An open group of pictures: they lean on frames before the keyframe, and come broken
            if stamp is not None and stamp < first:
                continue
            if due == table.num_frames or stamp != table.stamps[due] or frame.is_corrupt or reader.num_failed:
                raise _InexactSeek
            yield due, frame
            due += 1
        raise _InexactSeek
