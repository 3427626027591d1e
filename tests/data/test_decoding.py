import io
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import frame_numbers
from video_module.data import decoding
from video_module.errors import VideoError


@pytest.mark.parametrize("name", ["a.avi", "b.mp4"])
@pytest.mark.parametrize("indices", [[0], [39], [0, 1, 2], [3, 3, 17, 39, 39], list(range(40))])
def test_reads_exactly_the_wanted_frames(make_video, name, indices):
    frames = decoding.read_frames(make_video(40, name=name), indices)
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), 48, 64, 3)
    assert frame_numbers(frames) == indices


def test_colours_are_rgb(tmp_path):
    from video_module.data.encoding import write_video

    write_video(tmp_path / "red.mp4", [np.full((32, 32, 3), (200, 30, 90), np.uint8)] * 3, fps=25)
    assert np.abs(decoding.read_frames(tmp_path / "red.mp4", [1])[0, 8, 8].astype(int) - (200, 30, 90)).max() <= 6


def test_past_the_end_names_the_file_and_the_count(make_video):
    path = make_video(10)
    with pytest.raises(VideoError, match=r"video.avi: frame 10 was requested, but only 10 frames decode"):
        decoding.read_frames(path, [2, 10])


@pytest.mark.parametrize("indices", [[], [3, 2], [-1, 0]])
def test_indices_must_ascend(make_video, indices):
    with pytest.raises(ValueError, match="ascending"):
        decoding.read_frames(make_video(5), indices)


def test_iterates_over_all_frames(make_video):
    path = make_video(13)
    assert frame_numbers(np.stack(list(decoding.iter_frames(path)))) == list(range(13))
    assert decoding.count_frames(path)[0] == 13


def test_header(make_video):
    info = decoding.read_info(make_video(12, fps=29.97, height=36, width=50))
    assert (info.height, info.width, info.estimated_num_frames) == (36, 50, 12)
    assert info.fps == pytest.approx(29.97, abs=0.01)


NAMES = ["-dash.avi", "with space.avi", "#1!&+.avi", "[x](y).avi", "ёлка.avi", "50%d.avi", "a'b.avi"]


@pytest.mark.parametrize("name", [*NAMES, *(["a:b.avi", 'a"b.avi'] if sys.platform != "win32" else [])])
def test_any_legal_name(make_video, name):
    assert frame_numbers(decoding.read_frames(make_video(3, name=name), [0, 2])) == [0, 2]


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"no video at all\n" * 99, "not a video")])
@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_broken_files(tmp_path, content, reason, suffix, capfd):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    for read in (decoding.read_info, decoding.count_frames, lambda p: list(decoding.iter_frames(p))):
        with pytest.raises(VideoError, match=reason):
            read(path)
    assert capfd.readouterr().err == ""  # FFmpeg's own remarks stay out of the user's way


def test_missing_file(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        decoding.read_info(tmp_path / "none.avi")


def test_truncated_file_gives_no_invented_frames(make_video):
    path = make_video(40)
    content = path.read_bytes()
    start = content.index(b"movi")
    path.write_bytes(content[: start + (len(content) - start) // 2])
    count, _ = decoding.count_frames(path)
    assert 0 < count < 40
    assert frame_numbers(np.stack(list(decoding.iter_frames(path))))[: count - 1] == list(range(count - 1))


def write_uneven(path: Path, times_ms: list[int]) -> Path:
    """A .webm as browsers record it: frames at times of their own, neither duration nor rate in its header."""
    pipe = io.BytesIO()
    pipe.seekable = lambda: False  # the muxer then cannot go back to fill in the duration
    with av.open(pipe, "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(pipe.getvalue())
    return path


def test_the_rate_of_a_browsers_recording_is_that_of_its_frames(tmp_path):
    # the first two are close together, as when a camera starts
    path = write_uneven(tmp_path / "recording.webm", [0, 20, 220, 400, 610, 800, 1000, 1205, 1400, 1600, 1800])
    info = decoding.read_info(path)
    assert info.fps == pytest.approx(11 / 1.8, rel=0.01)
    assert info.estimated_num_frames == 11
    assert decoding.count_frames(path) == (11, info)
