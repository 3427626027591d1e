"""Which stream is read, what is refused, and clips that are reached by a seek."""

import gc
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import frame_numbers
from tests.data.test_times import write_timed
from video_module.data import decoding, packets, records
from video_module.data.decoding import VideoReader, count_frames, iter_frames, read_frames, read_info
from video_module.errors import VideoError


def texture(number: int) -> np.ndarray:
    """A frame like no other: uint8 RGB (96, 128, 3)."""
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)


def write_textures(path: Path, num_frames: int, *, codec: str, step: int = 1, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "25", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(texture(number), format="rgb24")
            frame.pts, frame.time_base = number + (number // 3 if step > 1 else 0), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, path: Path, *, shift: int = 0) -> Path:
    """As `ffmpeg -c copy` does: packets whose time comes before 0 are hidden by an edit list."""
    with av.open(str(source)) as container, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                copy.mux(packet)
    return path


OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=25:min-keyint=25:scenecut=0"}
SEEKS = {
    "plain.mp4": ("libx264", {"bf": "0"}),
    "reordered.mp4": ("libx264", {"bf": "3"}),
    "open.mp4": ("libx264", OPEN_GOP),
    "reordered.mkv": ("libx264", {"bf": "3"}),
    "reordered.ts": ("libx264", {"bf": "3"}),
    "open.ts": ("mpeg2video", {"bf": "2"}),
    "plain.avi": ("mpeg4", {}),
    "x.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "12"}),
    "x.flv": ("flv", {}),
    "x.wmv": ("wmv2", {}),
}


@pytest.fixture
def num_decoded(monkeypatch) -> list[int]:
    """How many frames each reading has decoded."""
    counts: list[int] = []
    decode = VideoReader._decode

    def counting(*args):
        counts.append(0)
        for frame in decode(*args):
            counts[-1] += 1
            yield frame

    monkeypatch.setattr(VideoReader, "_decode", counting)
    return counts


def check_seeks(path: Path, num_decoded: list[int], *, most: int = 60) -> None:
    whole = list(iter_frames(path))
    packets._tables.clear()
    for start in (0, 24, 25, 26, len(whole) // 2, len(whole) - 12):
        indices = np.arange(start, start + 12, 3)
        num_decoded.clear()
        frames = read_frames(path, indices)
        assert all(np.array_equal(frame, whole[index]) for frame, index in zip(frames, indices, strict=True)), start
        assert sum(num_decoded) <= most, f"from frame {start}"


@pytest.mark.parametrize("name", SEEKS)
def test_a_late_clip_costs_what_an_early_one_does(tmp_path, num_decoded, name):
    codec, options = SEEKS[name]
    check_seeks(write_textures(tmp_path / name, 200, codec=codec, **options), num_decoded)


def test_seeks_with_a_variable_rate(tmp_path, num_decoded):
    check_seeks(write_textures(tmp_path / "x.mkv", 200, codec="libx264", step=3, bf="3"), num_decoded)


def test_seeks_behind_an_edit_list(tmp_path, num_decoded):
    whole = write_textures(tmp_path / "whole.mp4", 250, codec="libx264", bf="3")
    with av.open(str(whole)) as container:
        shift = int(Fraction(40, 25) / container.streams.video[0].time_base)
    path = copy_packets(whole, tmp_path / "cut.mp4", shift=shift)
    assert count_frames(path)[0] == 210
    assert records.probe_video(path).num_damaged_frames == 0
    expected = list(iter_frames(whole))[40:]
    assert all(map(np.array_equal, iter_frames(path), expected))
    check_seeks(path, num_decoded)


def test_frames_without_times_of_their_own_are_counted_from_the_start(tmp_path, num_decoded):
    check_seeks(write_textures(tmp_path / "x.avi", 100, codec="mpeg4", bf="2"), num_decoded, most=100)


def test_frames_of_a_damaged_file_are_counted_from_the_start(tmp_path):
    path = write_textures(tmp_path / "x.mp4", 200, codec="libx264", bf="0")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[30]
        data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    path.write_bytes(data)
    reader = VideoReader(path)
    whole = [frame.to_rgb() for frame in reader]
    assert len(whole) < 200
    assert reader.num_failed == 200 - len(whole)
    packets._tables.clear()
    known = read_frames(path, [150], num_frames=len(whole))  # as split.json knows it
    assert np.array_equal(known[0], whole[150])


def test_the_table_of_a_file_that_changes_is_read_anew(tmp_path):
    path = write_textures(tmp_path / "x.mp4", 60, codec="libx264")
    assert read_info(path).estimated_num_frames == 60
    write_textures(path, 50, codec="libx264")
    assert read_info(path).estimated_num_frames == 50


def test_few_long_tables_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(packets, "_MAX_STAMPS", 300)
    for number in range(5):
        packets.packet_table(write_timed(tmp_path / f"{number}.avi", list(range(20))))
    assert len(packets._tables) == 2


def test_the_default_stream_is_read(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, disposition in zip(streams, ("original", "default"), strict=True):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = av.stream.Disposition[disposition]
        for stream, level in zip(streams, (40, 200), strict=True):
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert np.mean(next(iter_frames(path))) == pytest.approx(200, abs=3)


def with_cover_first(path: Path) -> Path:
    """A film with a cover picture as music shops and phones write it, in front of the track."""
    film = write_timed(path.with_name("film.mp4"), list(range(20)))
    picture = av.CodecContext.create("mjpeg", "w")
    picture.width, picture.height, picture.pix_fmt, picture.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    [packet] = picture.encode(av.VideoFrame(32, 32, "yuvj420p"))
    data = film.read_bytes()

    def atom(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + name + content

    image = atom(b"covr", atom(b"data", struct.pack(">II", 13, 0) + bytes(packet)))
    handler = atom(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    udta = atom(b"udta", atom(b"meta", bytes(4) + handler + atom(b"ilst", image)))
    start = data.index(b"moov") - 4
    assert data.index(b"mdat") < start, "the frames' places must not move"
    header_end = start + 8 + struct.unpack_from(">I", data, start + 8)[0]
    moov = data[start + 8 : header_end] + udta + data[header_end:]
    path.write_bytes(data[:start] + atom(b"moov", moov))
    return path


def test_a_cover_picture_is_not_the_video(tmp_path):
    path = with_cover_first(tmp_path / "covered.mp4")
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
    assert (read_info(path).width, count_frames(path)[0]) == (64, 20)
    assert frame_numbers(np.stack(list(iter_frames(path)))) == list(range(20))


def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = write_timed(tmp_path / "x.avi", list(range(5)))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(VideoError, match=r"no decoder for codec ZZZZ; convert the file"):
        read_info(path)


ANSI = "\x1b[31mfirst line\r\n" * 200
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{film}\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
TEXTS = {"ansi": ANSI, "playlist": PLAYLIST, "concat": "ffconcat version 1.0\nfile {film}\n", "sdp": SDP}


@pytest.mark.parametrize("suffix", [".txt", ".mp4", ".m3u8"])
@pytest.mark.parametrize("kind", TEXTS)
def test_what_names_other_files_or_is_text_is_no_video(tmp_path, kind, suffix):
    film = write_timed(tmp_path / "film.mp4", list(range(20)))
    path = tmp_path / f"x{suffix}"
    path.write_text(TEXTS[kind].format(film=film))
    for read in (read_info, count_frames, lambda path: next(iter_frames(path)), lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match="not a video, or too damaged to read"):
            read(path)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_picture_under_another_name_is_no_video(tmp_path, suffix):
    from PIL import Image

    Image.fromarray(texture(0)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / f"x{suffix}")
    with pytest.raises(VideoError, match="not a video, or too damaged to read"):
        read_info(tmp_path / f"x{suffix}")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    path = write_textures(tmp_path / "x.mp4", 60, codec="libx264")
    (tmp_path / "text.mp4").write_text("no video")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(30):
        read_frames(path, [2, 50])
        next(iter_frames(path))  # left midway
        decoding.count_frames(path)
        with pytest.raises(VideoError):
            read_info(tmp_path / "text.mp4")
        with pytest.raises(VideoError):
            read_frames(path, [60])
    # Not more; files of earlier tests may be closed meanwhile.
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_no_frame_outlives_its_reading(tmp_path):
    """Each holds some of the decoder's memory; thousands of readings would fill it before Python looks for cycles."""
    path = write_textures(tmp_path / "x.mp4", 60, codec="libx264")
    gc.collect()
    gc.disable()
    try:
        read_frames(path, [2, 50])
        assert sum(1 for _ in iter_frames(path)) == 60
        assert not [kept for kept in gc.get_objects() if type(kept).__name__ in ("VideoFrame", "SideDataContainer")]
    finally:
        gc.enable()
