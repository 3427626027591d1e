"""The right frames of a recording, at their own times, in files that train fast."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import brightness_frames, frame_numbers
from tests.data.test_times import write_timed
from video_module.data import decoding, records
from video_module.data.cutting import write_clips
from video_module.data.encoding import write_video
from video_module.data.segments import Segment


def segment(file: Path, start_s: float | None = None, end_s: float | None = None, label: str = "a") -> Segment:
    return Segment(file=file, name=file.name, label=label, start_s=start_s, end_s=end_s, source=file.name)


def cut(target: Path, part: Segment, short_side: int = 256) -> int:
    [(path, num_lost)] = write_clips({target: part}, short_side=short_side)
    assert path == target
    return num_lost


def shown(path: Path) -> list[int]:
    # What was encoded twice is up to a level too dark
    return frame_numbers(np.stack(list(decoding.iter_frames(path))) + 0.6)


def nth(count: int) -> list[int]:
    """Brightness that starts again after 60 frames."""
    return [number % 60 for number in range(count)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".ts"])
@pytest.mark.parametrize(("start", "end"), [(0, 40), (7, 8), (30, 110), (101, 250), (0, 250)])
def test_a_segment_is_its_frames(tmp_path, suffix, start, end):
    original = write_timed(tmp_path / f"x{suffix}", list(range(250)), g="50")
    target = tmp_path / "clip.mp4"
    num_lost = cut(target, segment(original, round(start / 25, 3), round(end / 25, 3)))
    assert shown(target) == nth(250)[start:end]
    assert num_lost == 0
    probe = records.probe_video(target)
    assert (probe.num_frames, probe.fps, probe.edges_s) == (end - start, pytest.approx(25), None)


def test_frames_keep_their_own_times(tmp_path):
    times = [number + number // 2 for number in range(120)]
    original = write_timed(tmp_path / "x.mp4", times, g="20")
    cut(tmp_path / "clip.mp4", segment(original, times[30] / 25, times[90] / 25))
    edges_s = records.probe_video(tmp_path / "clip.mp4").edges_s
    assert edges_s == pytest.approx([(time - times[30]) / 25 for time in times[30:91]], abs=1e-4)
    assert shown(tmp_path / "clip.mp4") == nth(120)[30:90]


@pytest.mark.parametrize("fps", [12.5, 24000 / 1001, 30000 / 1001, 50, 60000 / 1001, 120, 240])
def test_an_even_rate_stays_even(tmp_path, fps):
    write_video(tmp_path / "x.mp4", brightness_frames(60), fps=fps, keyframe_interval=10)
    cut(tmp_path / "clip.mp4", segment(tmp_path / "x.mp4", round(20 / fps, 3), round(50 / fps, 3)))
    probe = records.probe_video(tmp_path / "clip.mp4")
    assert (probe.num_frames, probe.fps, probe.edges_s) == (30, pytest.approx(fps), None)
    assert shown(tmp_path / "clip.mp4") == list(range(20, 50))


def test_a_frame_that_stands_still_ends_with_the_segment(tmp_path):
    original = write_timed(tmp_path / "x.mp4", [*range(50), *range(200, 250)])  # nothing new for six seconds
    cut(tmp_path / "clip.mp4", segment(original, 1.0, 3.0))
    probe = records.probe_video(tmp_path / "clip.mp4")
    assert probe.num_frames == 25
    assert probe.edges_s[-1] == pytest.approx(2.0)


def test_a_clip_is_h264_with_close_keyframes_and_nothing_else(tmp_path):
    original = write_timed(tmp_path / "x.mp4", list(range(100)), g="250", bf="2")
    cut(tmp_path / "clip.mp4", segment(original))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        [stream] = container.streams
        assert stream.codec_context.name == "h264"
        packets = [packet for packet in container.demux(stream) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert max(np.diff([*keys, 100])) <= 16
    assert all(packet.pts == packet.dts for packet in packets)  # no frame is reordered


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((120, 214), 60, (60, 108)),
        ((214, 120), 60, (108, 60)),
        ((48, 64), 60, (48, 64)),
        ((60, 80), 60, (60, 80)),
        ((101, 151), 60, (60, 90)),
    ],
)
def test_the_short_side_shrinks_and_never_grows(tmp_path, size, short_side, expected):
    write_video(tmp_path / "x.mp4", brightness_frames(12, height=size[0], width=size[1]), fps=25)
    cut(tmp_path / "clip.mp4", segment(tmp_path / "x.mp4", 0, 0.4), short_side)
    info = decoding.read_info(tmp_path / "clip.mp4")
    assert (info.height, info.width) == expected
    assert shown(tmp_path / "clip.mp4") == list(range(10))
