"""Videos that are unusual and still legal: each gives its own frames, upright, in order, and as many as there are."""

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import LEVEL_STEP, frame_numbers
from video_module.config import ClipConfig, TrainConfig
from video_module.data.dataset import EvaluationViews, TrainingClips, Views
from video_module.data.decoding import count_frames, iter_frames, read_frames, read_info
from video_module.data.labels import VIDEO_SUFFIXES
from video_module.data.records import VideoRecord, probe_video
from video_module.errors import VideoError

NUM_FRAMES = 30
CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)


def write(
    path: Path,
    *,
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Iterable[int] | None = None,
    sample_aspect_ratio: Fraction | None = None,
    audio: bool = False,
    num_sounds: int = 1,
    container_format: str | None = None,
    movflags: str = "",
    **options: str,
) -> Path:
    """Frame n has brightness LEVEL_STEP * n; `times` are presentation times in 1/25 s, `size` is (width, height).

    `num_sounds` are seconds of audio, `options` the codec's.
    """
    container_options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", format=container_format, options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 25)
        if codec not in ("libx264", "ffv1"):
            stream.bit_rate = 4_000_000  # else grey levels that near are one
        if pix_fmt == "gray":  # reformat() makes 0..255 of it, where H.264 means 16..235 unless told
            stream.codec_context.color_range = 2
        if sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number, time in zip(range(num_frames), times or range(num_frames), strict=False):
            level = np.full((size[1], size[0], 3), LEVEL_STEP * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for second in range(num_sounds if sound else 0):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 8000, 8000 * second
            container.mux(sound.encode(tone))
        if sound:
            container.mux(sound.encode(None))
    return path


def check(
    path: Path, *, num_frames: int = NUM_FRAMES, size: tuple[int, int] = (64, 48), fps: float | None = 25
) -> None:
    """Every reader, the split's probe and both data sets agree on the frames, and each is what it should be."""
    expected = list(range(num_frames))
    counted, info = count_frames(path)
    assert counted == num_frames
    assert (info.width, info.height) == size
    decoded = np.stack(list(iter_frames(path)))
    assert decoded.shape == (num_frames, size[1], size[0], 3)
    assert frame_numbers(decoded) == expected
    assert frame_numbers(read_frames(path, expected[::2])) == expected[::2]
    probe = probe_video(path)
    assert (probe.num_frames, probe.num_damaged_frames) == (num_frames, 0)
    if fps is not None:
        assert probe.fps == pytest.approx(fps, rel=0.01)
        assert probe.edges_s is None
    video = VideoRecord(path=path.name, label="a", source="s", **probe._asdict())
    clip, _ = TrainingClips(path.parent, [video], ["a"], CLIP, TrainConfig(augment="none"))[0, 0]
    assert tuple(clip.shape) == CLIP.shape
    views = EvaluationViews(path.parent, [video], CLIP, Views(num_clips=1, num_crops=1))
    [view] = views.cut(*views[0])
    assert frame_numbers(view) == [expected[index] for index in views.clip_indices(0)[0]]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path, suffix):
    """Gaps of one to four ticks: the frames there are, each once, none invented to fill a gap."""
    gaps = [1 + number % 4 for number in range(NUM_FRAMES)]
    check(write(tmp_path / f"vfr{suffix}", times=np.cumsum(gaps).tolist()), fps=None)


CONTAINERS = {  # suffix: the format by FFmpeg's name, and a codec that it is met with
    ".avi": ("avi", "mpeg4"),
    ".divx": ("avi", "mpeg4"),
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "mpeg4"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx"),
    ".ogv": ("ogg", "libvpx"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".mpeg": ("mpeg", "mpeg2video"),
    ".mpe": ("mpeg", "mpeg1video"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".vob": ("vob", "mpeg2video"),
    ".ts": ("mpegts", "libx264"),
    ".mts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "mpeg2video"),
    ".wmv": ("asf", "wmv2"),
    ".asf": ("asf", "wmv2"),
    ".flv": ("flv", "flv"),
    ".f4v": ("f4v", "libx264"),
    ".3gp": ("3gp", "mpeg4"),
    ".3g2": ("3g2", "mpeg4"),
    ".mxf": ("mxf", "mpeg2video"),
}


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_each_container_that_counts_as_a_video(tmp_path, suffix):
    container_format, codec = CONTAINERS[suffix]
    check(write(tmp_path / f"x{suffix}", codec=codec, container_format=container_format))


def test_one_frame(tmp_path):
    check(write(tmp_path / "one.mp4", num_frames=1), num_frames=1)


def test_odd_sizes(tmp_path):
    check(write(tmp_path / "odd.mkv", size=(65, 49), codec="ffv1", pix_fmt="bgr0"), size=(65, 49))


def test_pixels_that_are_not_square(tmp_path):
    """Frames come as they are stored, as in Kinetics' and HMDB51's practice: the aspect of a pixel is not applied."""
    check(write(tmp_path / "sar.mp4", sample_aspect_ratio=Fraction(12, 11)))


@pytest.mark.parametrize(
    ("pix_fmt", "codec"), [("gray", "ffv1"), ("gray", "libx264"), ("yuv420p10le", "ffv1"), ("yuv444p", "libx264")]
)
def test_grey_ten_bit_and_full_colour(tmp_path, pix_fmt, codec):
    check(write(tmp_path / "x.mkv", pix_fmt=pix_fmt, codec=codec))


def test_an_audio_track(tmp_path):
    check(write(tmp_path / "loud.mp4", audio=True))


@pytest.mark.slow
def test_4k(tmp_path):
    check(write(tmp_path / "4k.mp4", size=(3840, 2160), num_frames=14), num_frames=14, size=(3840, 2160))


# How a phone may lie: the matrix (a, b, c, d) that takes a stored pixel (x, y) to (ax + cy, bx + dy), and the same done
# to an array.
TURNS = {
    "upright": ((1, 0, 0, 1), lambda frame: frame),
    "turned right": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "upside down": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "turned left": ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
    "mirrored left to right": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "mirrored top to bottom": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "mirrored and turned right": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "mirrored and turned left": ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_come_upright(tmp_path, turn):
    """A phone stores its frames as they come and notes how to turn them; both header and frames come upright."""
    matrix, turned = TURNS[turn]
    path = tmp_path / "phone.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16], stored[:16, 48:] = 255, 128  # the corners at the top
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    set_matrix(path, *matrix)
    upright = turned(stored)
    info = read_info(path)
    assert (info.height, info.width) == upright.shape[:2]
    for frame in (next(iter_frames(path)), read_frames(path, [3])[0]):
        assert frame.shape == upright.shape
        assert np.abs(frame.astype(int) - upright).mean() < 10


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a matrix into the track header of an .mp4 (ISO/IEC 14496-12, `tkhd`)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of version, times, ids, layer and volume
    struct.pack_into(">9i", data, matrix, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "libx265"])
def test_newer_codecs(tmp_path, codec):
    check(write(tmp_path / "x.mp4", codec=codec, size=(128, 96)), size=(128, 96))


def test_webm_under_the_name_of_mp4(tmp_path):
    times = [number + number // 2 for number in range(NUM_FRAMES)]
    check(write(tmp_path / "x.mp4", codec="libvpx", container_format="webm", times=times), fps=None)


def test_longer_audio_in_a_fragmented_file(tmp_path):
    path = write(tmp_path / "x.mp4", audio=True, num_sounds=10, movflags="frag_keyframe+empty_moov")
    check(path, fps=None)
    assert read_info(path).duration_s == pytest.approx(NUM_FRAMES / 25, abs=0.06)


def test_empty_chunks_stand_for_dropped_frames(tmp_path):
    times = [number + number // 2 for number in range(NUM_FRAMES)]
    path = write(tmp_path / "x.avi", codec="mpeg4", times=times)
    check(path, fps=None)
    assert read_info(path).duration_s == pytest.approx((times[-1] + 1) / 25)


def test_a_hole_costs_the_frames_in_it(tmp_path):
    """Some packets in the middle are overwritten: decoding goes on behind them."""
    path = write(tmp_path / "x.mp4", size=(128, 96), bf="0", g="1")
    hole = range(12, 14)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for entry in list(container.streams.video[0].index_entries)[hole.start : hole.stop]:
            data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    path.write_bytes(data)
    left = [number for number in range(NUM_FRAMES) if number not in hole]
    probe = probe_video(path)
    assert (probe.num_frames, probe.num_damaged_frames) == (len(left), len(hole))
    assert frame_numbers(np.stack(list(iter_frames(path)))) == left
    # The others keep their times
    assert probe.edges_s == pytest.approx([number / 25 for number in [*left, NUM_FRAMES]])


def test_more_than_a_tenth_damaged_is_set_aside(tmp_path):
    path = write(tmp_path / "x.mp4", size=(128, 96), bf="0", g="1")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]
    for number in range(NUM_FRAMES // 10 + 1):
        begin, size = places[3 * number + 1]
        data[begin : begin + size] = bytes(size)
        path.write_bytes(data)
        if number < NUM_FRAMES // 10:
            assert probe_video(path).num_damaged_frames == number + 1
    with pytest.raises(VideoError, match=f"only {NUM_FRAMES - number - 1} of {NUM_FRAMES} frames decode"):
        probe_video(path)


def test_an_index_that_promises_more_than_the_file_holds(tmp_path):
    path = write(tmp_path / "x.mp4", size=(128, 96), movflags="faststart", g="1", bf="0")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(VideoError, match=f"of {NUM_FRAMES} frames decode"):
        probe_video(path)
