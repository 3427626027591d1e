import pytest

from tests.conftest import frame_numbers
from video_module.data.thumbnails import read_thumbnails
from video_module.errors import VideoError


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(50, [5, 15, 25, 35, 45]), (5, [0, 1, 2, 3, 4]), (1, [0] * 5), (2, [0, 0, 1, 1, 1])]
)
def test_frames_are_the_middles_of_equal_parts(make_video, num_frames, expected):
    thumbnails = read_thumbnails(make_video(num_frames), num_video_frames=num_frames)
    assert frame_numbers(thumbnails) == expected


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (30, 300), (240, 426)])
def test_frames_fill_the_box_and_keep_their_shape(make_video, height, width):
    video = make_video(3, height=height, width=width)
    _, h, w, _ = read_thumbnails(video, num_video_frames=3, box=(100, 150)).shape
    assert (h == 100 and w <= 150) or (w == 150 and h <= 100)
    assert w / h == pytest.approx(width / height, rel=0.05)


def test_a_video_shorter_than_recorded_is_named(make_video):
    with pytest.raises(VideoError, match=r"short\.avi"):
        read_thumbnails(make_video(3, name="short.avi"), num_video_frames=30)
