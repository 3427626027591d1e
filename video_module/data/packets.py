"""Read the packets of a video file without decoding: the stream, the times of frames, and the keyframes.

The headers' frame counts and durations are not used. Edit lists hide frames, .avi files contain empty chunks, a longer
audio track extends the duration, and files recorded in browsers state neither.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock

import av
import av.logging
import numpy as np

from video_module.errors import VideoError

# FFmpeg also reads playlists that name other files, images, and text files. Only these video containers are opened,
# recognised by their content and not by the file name.
_FORMATS = (
    "avi,mov,mp4,matroska,webm,mpeg,mpegvideo,mpegts,asf,flv,ogg,mxf,rm,nut,dv,wtv,gxf,h264,hevc,vvc,m4v,h263,vc1,"
    "ivf,obu,av1"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_NOT_FILMS = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
# For files that store no times, such as raw .h264.
DEFAULT_FPS = 25.0
# Containers round times. Frames count as evenly spaced if none is further than this from its exact time.
_MAX_ROUNDING_S = 0.0015


def open_file(path: str | Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a video file and choose its stream: the default one, else the first that is not a cover picture.

    Raises VideoError if the file cannot be read, contains no video, or needs a decoder that is not available.
    """
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise VideoError(f"{str(path)!a}: the name is not valid UTF-8; rename the file") from None
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: permission denied")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() in _PICTURE_SUFFIXES:
        raise VideoError(f"{path}: is an image, not a video")
    try:
        # In an absolute path, no part of a name can be taken for a protocol ("a:b.avi") or an option ("-x.avi"). Errors
        # in titles are ignored, because some are not UTF-8, as in HMDB51.
        container = av.open(str(path.absolute()), options=dict(_OPTIONS), metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError):
        raise VideoError(f"{path}: not a video, or too damaged to read") from None
    try:
        return container, _choose_stream(container, path)
    except BaseException:
        container.close()
        raise


def _choose_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    films = [stream for stream in container.streams.video if not stream.disposition & _NOT_FILMS]
    if not films:
        raise VideoError(f"{path}: contains no video stream")
    stream = next((film for film in films if film.disposition & av.stream.Disposition.default), films[0])
    context = stream.codec_context
    if context is None:
        raise VideoError(
            f"{path}: no decoder for codec {_codec_name(container, stream)}; convert the file, for example with ffmpeg "
            f"-i {path.name} -c:v libx264 {path.stem}_h264.mp4"
        )
    # Loaders run many readers in parallel. One decoder thread each is twice as fast as FFmpeg's default.
    context.thread_count, context.thread_type = 1, "NONE"
    return stream


def _codec_name(container: av.container.InputContainer, stream: av.VideoStream) -> str:
    """Return the name of a codec that has no decoder. It is only found in FFmpeg's summary of the file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        summary = container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*Video: (?:none \()?(\w+)", summary)
    return found[1] if found else "unknown"


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream, key: tuple[int, int] | None = None
) -> Iterator[av.Packet]:
    """Yield a stream's packets as far as they can be read, except the empty ones that .avi has for dropped frames.

    If `key`, a row of PacketTable.key_stamps, is given, they begin with that keyframe. Yields none if it is not found.
    """
    if key is None:
        yield from _packets_on(container, stream)
        return
    # Some containers seek by presentation time, others by decoding time, and .ts files may end up slightly too late
    # with either
    for target in (key[0], key[1], key[1] - int(2 / stream.time_base)):
        try:
            container.seek(target, stream=stream)
        except av.error.FFmpegError:
            continue
        is_there = False
        with closing(_packets_on(container, stream)) as packets:
            for packet in packets:
                if not is_there and packet.is_keyframe:
                    here = _key_of(packet, stream)
                    is_there = here == key
                    if here is not None and here[1] > key[1]:
                        break
                if is_there:
                    yield packet
        if is_there:
            return


def _packets_on(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    with closing(container.demux(stream)) as packets:
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                # FFmpeg's own programs also stop here.
                return
            if packet is None:
                return
            if packet.size:
                yield packet


def stamp_of(item: av.Packet | av.VideoFrame, stream: av.VideoStream) -> int | None:
    """Return the presentation time of a packet or frame in units of stream.time_base, or None if unknown."""
    # .avi stores only the decoding order. FFmpeg guesses presentation times from it, and in HMDB51 these jump back and
    # forth. Decoders return frames in display order, so the chunk's number (dts) is the better time.
    if stream.container.format.name == "avi":
        return item.dts
    return item.dts if item.pts is None else item.pts


def _key_of(packet: av.Packet, stream: av.VideoStream) -> tuple[int, int] | None:
    """Return a keyframe's row of PacketTable.key_stamps, or None if it has no time."""
    stamp = stamp_of(packet, stream)
    return None if stamp is None else (stamp, stamp if packet.dts is None else packet.dts)


def is_hidden(packet: av.Packet, stream: av.VideoStream) -> bool:
    """Return whether a packet shows no frame, because an edit list hides it or it only serves to predict others."""
    # VP8's frame header (RFC 6386, 9.1): bit 4 of the first byte is show_frame.
    return packet.is_discard or (stream.codec_context.codec.id == _VP8 and not memoryview(packet)[0] & 0x10)


_VP8 = av.Codec("vp8", "r").id


@dataclass(kw_only=True)
class PacketTable:
    """The frames that a file has according to its packets, including those that fail to decode."""

    stamps: np.ndarray
    """Presentation times, int64, in display order; empty if the file stores no times."""
    num_frames: int
    num_missing: int
    """Packets in the container's index that lie beyond the end of the file. Not included in num_frames."""
    time_base: Fraction
    end_s: float
    """Seconds from the first frame to the end of the last."""
    rate: Fraction | None
    """Frames per second, if frames are evenly spaced apart from rounding."""
    has_times: bool
    key_stamps: np.ndarray
    """Presentation and decoding time (pts, dts) of each keyframe, int64 (num_keyframes, 2)."""
    is_seekable: bool
    """Whether the n-th time is that of the n-th frame whichever keyframe decoding starts from, if all frames decode."""
    num_decoded: int | None = None
    """Number of frames that decode, once the whole file has been read."""

    def step_s(self) -> float:
        """Return the mean time between frames in seconds."""
        return self.end_s / self.num_frames

    def edges_s(self) -> np.ndarray:
        """Return the start of each frame and the end of the last in seconds, from 0: float64 (num_frames + 1,)."""
        if self.rate or not self.has_times:
            return np.arange(self.num_frames + 1) / self.fps
        times_s = (self.stamps - self.stamps[0]) * float(self.time_base)
        return np.append(times_s.round(6), self.end_s)

    @property
    def fps(self) -> float:
        """Frames divided by duration."""
        if self.rate:
            return float(self.rate)
        return self.num_frames / self.end_s if self.end_s > 0 else DEFAULT_FPS


# Number of times kept in memory: 64 MB, or 80 hours of video at 30 frames/s.
_MAX_STAMPS = 2**23
# Further memory of a table, in numbers of times.
_MIN_STAMPS = 100
_tables: OrderedDict[tuple, PacketTable] = OrderedDict()
_tables_lock = Lock()


def packet_table(path: str | Path) -> PacketTable:
    """Return the packet table of a file. Tables are cached in memory until the file changes.

    Nothing is written to disk, so each process reads the packets of a file once. Raises VideoError as open_file() does.
    """
    status = Path(path).stat() if Path(path).is_file() else None
    key = status and (os.path.abspath(path), status.st_size, status.st_mtime_ns)  # noqa: PTH100
    with _tables_lock:
        if key in _tables:
            _tables.move_to_end(key)
            return _tables[key]
    container, stream = open_file(path)
    with container:
        table = _read_table(container, stream)
    with _tables_lock:
        _tables[key] = table
        # Assume that the other tables are as long as this one
        while len(_tables) > max(1, _MAX_STAMPS // (_MIN_STAMPS + len(table.stamps))):
            _tables.popitem(last=False)
    return table


def _read_table(container: av.container.InputContainer, stream: av.VideoStream) -> PacketTable:
    stamps: list[int | None] = []
    keys, last, num_read, first_key = [], None, 0, None
    for packet in read_packets(container, stream):
        stamp, num_read = stamp_of(packet, stream), num_read + 1
        if num_read == 1 and packet.is_keyframe:
            first_key = stamp
        if is_hidden(packet, stream):
            continue
        stamps.append(stamp)
        if packet.is_keyframe and (key := _key_of(packet, stream)):
            keys.append(key)
        if stamp is not None and (last is None or stamp >= last[0]):
            last = stamp, packet.duration or 0
    has_times = bool(stamps) and None not in stamps
    in_order = np.array(sorted(stamps) if has_times else [], np.int64)
    edges_s, rate = _edges(in_order, stream, last_duration=last[1] if last else 0)
    if not has_times:
        rate = stream.average_rate or stream.guessed_rate or Fraction(DEFAULT_FPS)
        edges_s = np.array([0.0, len(stamps) / rate])
    # Not seekable: frames shown before the first keyframe, which some decoders drop; two frames with the same time;
    # reordered frames in .avi, whose times are a guess.
    is_seekable = (
        has_times
        and first_key is not None
        and first_key <= in_order[0]
        and bool((np.diff(in_order) > 0).all())
        and not (container.format.name == "avi" and stream.codec_context.has_b_frames)
    )
    return PacketTable(
        stamps=in_order,
        num_frames=len(stamps),
        num_missing=_count_missing(container, stream, num_read),
        time_base=stream.time_base,
        end_s=float(edges_s[-1]),
        rate=rate,
        has_times=has_times,
        key_stamps=np.array(sorted(keys), np.int64).reshape(-1, 2),
        is_seekable=is_seekable,
    )


def rounding_s(stream: av.VideoStream) -> float:
    """Return how far rounding by the container may have moved a frame, in seconds."""
    if stream.container.format.name == "mpeg" and stream.average_rate:
        # A program stream stores times for some frames only, and FFmpeg may place the others one frame too late
        return 1.01 / float(stream.average_rate)
    return min(1.5 * float(stream.time_base), _MAX_ROUNDING_S)


def _edges(stamps: np.ndarray, stream: av.VideoStream, *, last_duration: int) -> tuple[np.ndarray, Fraction | None]:
    """Return the start of each frame and the end of the last in seconds, and the frame rate if it is constant."""
    if len(stamps) == 0:
        return np.zeros(1), None
    tick = float(stream.time_base)
    nominal = stream.average_rate or stream.guessed_rate
    if last_duration <= 0:
        gap = stamps[-1] - stamps[-2] if len(stamps) > 1 else 0
        last_duration = gap if gap > 0 else (1 / (nominal or Fraction(DEFAULT_FPS))) / stream.time_base
    edges_s = (np.append(stamps, stamps[-1] + float(last_duration)) - stamps[0]) * tick
    tolerance_s = rounding_s(stream)
    fitted = Fraction(len(stamps) / edges_s[-1]) if edges_s[-1] > 0 else None
    for rate in (nominal, stream.guessed_rate, fitted):
        if rate and np.abs(edges_s - np.arange(len(edges_s)) / float(rate)).max() <= tolerance_s:
            return np.array([0.0, len(stamps) / float(rate)]), rate
    return edges_s, None


def _count_missing(container: av.container.InputContainer, stream: av.VideoStream, num_read: int) -> int:
    """Count the packets in the index of a truncated .mp4 or .mov file whose bytes are missing."""
    if not container.format.name.startswith("mov") or num_read >= len(stream.index_entries):
        return 0
    return sum(not entry.is_discard and entry.pos >= container.size for entry in stream.index_entries)
