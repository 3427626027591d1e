import numpy as np
import pytest

from tests.conftest import frame_numbers
from video_module.data import decoding
from video_module.data.decoding import VideoError


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
    with pytest.raises(VideoError, match=r"video.avi: frame 10 was wanted, but only 10 decode"):
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
    assert (info.height, info.width, info.header_num_frames) == (36, 50, 12)
    assert info.fps == pytest.approx(29.97, abs=0.01)


@pytest.mark.parametrize(
    "name", ["-dash.avi", "with space.avi", "#1!&+.avi", "[x](y).avi", "ёлка.avi", "50%d.avi", "a:b.avi", "a'b\".avi"]
)
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
