"""When frames are shown: by their own times in every container, from the reader to the clips that are cut by time."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import LEVEL_STEP, frame_numbers
from video_module.config import ClipConfig
from video_module.data import decoding, records, sampling
from video_module.data.decoding import VideoReader
from video_module.data.encoding import open_video
from video_module.inference.windows import iter_windows

CODECS = {
    ".avi": "mpeg4",
    ".mp4": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx",
    ".ts": "libx264",
    ".wmv": "wmv2",
    ".flv": "flv",
}


def write_timed(path: Path, times: list[int], *, rate: int = 25, codec: str | None = None, **options: str) -> Path:
    """Frame n has brightness LEVEL_STEP * n (from the start again after 60) and is shown at times[n] / rate seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        if (codec or CODECS[path.suffix]) != "libx264":
            stream.bit_rate = 4_000_000
        for number, time in enumerate(times):
            level = np.full((48, 64, 3), LEVEL_STEP * (number % 60), np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_all(path: Path) -> VideoReader:
    reader = VideoReader(path)
    for _ in reader:
        pass
    return reader


DROPPED = [number for number in range(250) if number % 3 != 1]


@pytest.mark.parametrize("suffix", CODECS)
def test_dropped_frames_do_not_shorten_a_video(tmp_path, suffix):
    reader = read_all(write_timed(tmp_path / f"x{suffix}", DROPPED))
    assert reader.num_frames == len(DROPPED)
    assert reader.times_s == pytest.approx([time / 25 for time in DROPPED], abs=0.002)
    assert reader.duration_s == pytest.approx(10, abs=0.05)
    assert decoding.read_info(tmp_path / f"x{suffix}").duration_s == pytest.approx(reader.duration_s)
    probe = records.probe_video(tmp_path / f"x{suffix}")
    assert probe.fps == pytest.approx(reader.num_frames / reader.duration_s)
    assert len(probe.edges_s) == reader.num_frames + 1


@pytest.mark.parametrize("suffix", CODECS)
def test_what_a_container_rounds_is_still_even(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    reader = read_all(write_timed(path, list(range(60)), rate=30))
    assert reader.edges_s is None
    assert reader.fps == 30
    assert records.probe_video(path).edges_s is None


TWO_RATES = [*range(0, 120, 6), *range(120, 240)]  # in 1/60 s: 20 frames at 10/s, then 120 at 60/s


def test_two_rates(tmp_path):
    reader = read_all(write_timed(tmp_path / "x.mp4", TWO_RATES, rate=60))
    assert reader.times_s[20] == pytest.approx(2.0, abs=1e-6)
    assert reader.times_s[-1] == pytest.approx(239 / 60, abs=1e-5)


@pytest.mark.parametrize(("rate", "num_frames"), [(2000, 400), (Fraction(1, 30), 20)])
def test_unusual_rates_are_taken_as_they_are(tmp_path, rate, num_frames):
    path = tmp_path / "x.mp4"
    with open_video(path, fps=25) as writer:
        for number in range(num_frames):
            times_s = float(number / rate), float((number + 1) / rate)
            writer.write(np.full((48, 64, 3), number % 60 * LEVEL_STEP, np.uint8), times_s)
    info, reader = decoding.read_info(path), read_all(path)
    assert (info.estimated_num_frames, reader.num_frames) == (num_frames, num_frames)
    assert info.fps == pytest.approx(float(rate))
    assert info.duration_s == pytest.approx(float(num_frames / rate))
    assert reader.duration_s == pytest.approx(float(num_frames / rate))


def test_a_file_without_times_says_so(tmp_path):
    path = tmp_path / "raw.h264"
    write_timed(path, list(range(30)), codec="libx264")
    reader = read_all(path)
    assert (reader.num_frames, reader.fps, reader.has_times) == (30, 25.0, False)
    assert not decoding.read_info(path).has_times
    assert not records.probe_video(path).has_times


def test_times_begin_at_zero_and_never_go_back(tmp_path):
    """.ts begins at 1.4 s, and B-frames are stored in another order than they are shown."""
    reader = read_all(write_timed(tmp_path / "x.ts", list(range(40)), bf="3"))
    assert reader.times_s[0] == 0
    assert (np.diff(reader.times_s) > 0).all()


def test_a_written_video_keeps_each_frames_time(tmp_path):
    edges_s = [0.0, 0.04, 0.5, 0.51, 0.9, 2.0, 2.013]
    with open_video(tmp_path / "x.mp4", fps=3) as writer:
        for number, times_s in enumerate(pairwise(edges_s)):
            writer.write(np.full((48, 64, 3), 9 * number, np.uint8), times_s)
    reader = read_all(tmp_path / "x.mp4")
    assert [*reader.times_s, reader.duration_s] == pytest.approx(edges_s, abs=1e-5)


CLIP = ClipConfig(num_frames=4, frame_stride=3, target_fps=15, resize=48, crop=40)  # 0.6 s from first to last


def test_clips_are_picked_by_time():
    edges_s = np.array([*TWO_RATES, 240]) / 60
    indices = sampling.clip_indices(15, 140, CLIP, edges_s=edges_s)
    assert (edges_s[indices] - edges_s[15]).tolist() == pytest.approx([0, 0.2, 0.4, 0.6])
    assert sampling.last_start(140, CLIP, edges_s=edges_s) == np.searchsorted(edges_s, 4 - 0.6 - 1e-9) - 1
    starts = sampling.window_starts(140, CLIP, 15, edges_s=edges_s)
    assert edges_s[starts] == pytest.approx([0, 1, 2, 3, edges_s[starts[-1]]])


def test_even_edges_pick_what_the_rate_picks():
    rng = np.random.default_rng(0)
    for fps in (10, 12.5, 15, 25, 29.97, 30, 60):
        for num_frames in (1, 3, 9, 40, 95):
            edges_s = np.arange(num_frames + 1) / fps
            case = f"{num_frames} frames at {fps} frames/s"
            starts = sampling.window_starts(num_frames, CLIP, 4, fps=fps)
            assert sampling.window_starts(num_frames, CLIP, 4, edges_s=edges_s) == starts, case
            start = int(rng.choice(starts))
            by_rate = sampling.clip_indices(start, num_frames, CLIP, fps=fps)
            assert sampling.clip_indices(start, num_frames, CLIP, edges_s=edges_s).tolist() == by_rate.tolist(), case


@pytest.mark.parametrize("clip_step", [1, 4, 10, 40])
@pytest.mark.parametrize("target_fps", [None, 2, 15, 40])
def test_streaming_cuts_the_same_windows_as_the_record_of_a_split(tmp_path, clip_step, target_fps):
    rng = np.random.default_rng(clip_step)
    for number, num_frames in enumerate((1, 2, 9, 40, 60)):
        times = np.cumsum(rng.choice([1, 2, 3, 30], num_frames, p=[0.6, 0.2, 0.15, 0.05])).tolist()
        path = write_timed(tmp_path / f"{number}.mkv", times)
        clip = ClipConfig(num_frames=4, frame_stride=3, target_fps=target_fps, resize=48, crop=40)
        probe = records.probe_video(path)
        how = {"fps": probe.fps, "edges_s": probe.edges_s}
        windows = list(iter_windows(path, clip, clip_step=clip_step))
        starts = sampling.window_starts(num_frames, clip, clip_step, **how)
        assert [window.start for window in windows] == starts, (num_frames, times)
        for window in windows:
            expected = sampling.clip_indices(window.start, num_frames, clip, **how).tolist()
            assert window.indices.tolist() == expected, (num_frames, times, window.start)
            assert frame_numbers(window.frames) == expected
