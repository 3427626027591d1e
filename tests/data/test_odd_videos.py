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
    container_format: str | None = None,
) -> Path:
    """Frame n has brightness LEVEL_STEP * n; `times` are presentation times in 1/25 s, `size` is (width, height)."""
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=25)
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
        if sound:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            tone.sample_rate, tone.pts = 8000, 0
            container.mux(sound.encode(tone))
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


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_once(tmp_path, degrees):
    """A phone stores its frames lying and notes how to turn them; both header and frames come upright."""
    path = tmp_path / "phone.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :16] = 255  # the corner at the top left
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    set_rotation(path, degrees)
    upright = np.rot90(stored, -degrees // 90)
    info = read_info(path)
    assert (info.height, info.width) == upright.shape[:2]
    for frame in (next(iter_frames(path)), read_frames(path, [3])[0]):
        assert frame.shape == upright.shape
        assert np.abs(frame.astype(int) - upright).mean() < 10


def set_rotation(path: Path, degrees: int) -> None:
    """Write a turn to the right into the track header of an .mp4 (ISO/IEC 14496-12: the matrix of `tkhd`)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of version, times, ids, layer and volume
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    struct.pack_into(">9i", data, matrix, a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
