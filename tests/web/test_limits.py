import dataclasses

import pytest

from video_module.web import limits
from video_module.web.limits import Limits, Refused, check_header, check_length, check_size

LIMITS = Limits(max_seconds=4)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
def test_limits_must_be_positive(field):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})


@pytest.mark.parametrize(("max_disk_mb", "each_mb"), [(4000, 1000), (400, 200), (200, 200)])
def test_one_address_gets_a_quarter_of_the_disk_space_or_one_upload(max_disk_mb, each_mb):
    assert Limits(max_file_mb=200, max_disk_mb=max_disk_mb).max_bytes_each == each_mb * 1_000_000


@pytest.mark.parametrize(
    ("num_frames", "duration_s", "key"),
    [
        (100, 4.0, None),
        (101, 4.04, None),  # one extra frame is tolerated
        (102, 4.08, "too_long"),
        (5, 600.0, "too_long"),
        (240, 4.0, None),
        (241, 0.2, "too_many_frames"),  # at an absurd frame rate, any number of frames would be short
        (0, 0.0, None),
    ],
)
def test_length_is_limited_in_seconds_and_in_frames(num_frames, duration_s, key):
    if key is None:
        check_length(num_frames, duration_s, LIMITS)
    else:
        with pytest.raises(Refused, match=key):
            check_length(num_frames, duration_s, LIMITS)


def test_frames_may_be_portrait_or_landscape():
    check_size(limits.MAX_HEIGHT, limits.MAX_WIDTH)
    check_size(limits.MAX_WIDTH, limits.MAX_HEIGHT)
    for size in ((limits.MAX_HEIGHT + 1, limits.MAX_WIDTH), (100, limits.MAX_WIDTH + 1)):
        with pytest.raises(Refused, match="too_large_frames"):
            check_size(*size)


def test_length_in_the_header_is_checked(make_video):
    with pytest.raises(Refused, match="too_long"):
        check_header(make_video(53, fps=10), LIMITS)


@pytest.mark.parametrize(("content", "key"), [(b"", "bad_video"), (b"no video", "bad_video"), (None, "gone")])
def test_files_that_are_not_videos_are_refused(tmp_path, content, key):
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refused, match=key):
        check_header(path, LIMITS)


def test_number_of_pixels_in_the_header_is_checked(make_video):
    path = make_video(20, fps=10, height=96, width=128)  # 245,760 pixels
    check_header(path, Limits(max_gigapixels=246e-6))
    with pytest.raises(Refused, match="too_many_pixels"):
        check_header(path, Limits(max_gigapixels=245e-6))
