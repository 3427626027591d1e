from itertools import product

import numpy as np
import pytest

from tests.conftest import frame_numbers
from video_module.config import ClipConfig
from video_module.data import sampling
from video_module.data.encoding import write_video
from video_module.errors import VideoError
from video_module.inference.windows import iter_windows

CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)  # spans 10 frames


def test_streamed_windows_match_sampling(make_video):
    """The stream does not know the length in advance, but has the same last window as sampling."""
    for num_frames, clip_step in product((1, 3, 9, 10, 11, 19, 20, 21, 33), (None, 1, 4, 10, 13)):
        case = f"{num_frames} frames, a window every {clip_step}"
        windows = list(iter_windows(make_video(num_frames), CLIP, clip_step=clip_step))
        starts = sampling.window_starts(num_frames, CLIP, clip_step or CLIP.default_clip_step)
        assert [window.start for window in windows] == starts, case
        for window in windows:
            assert window.frames.shape == CLIP.shape, case
            expected = sampling.clip_indices(window.start, num_frames, CLIP).tolist()
            assert frame_numbers(window.frames) == expected, case
            assert window.end == min(window.start + 10, num_frames), case
        assert windows[-1].end == num_frames, case


def test_target_fps(make_video):
    clip = ClipConfig(num_frames=4, frame_stride=2, target_fps=25, resize=48, crop=40)
    first = next(iter(iter_windows(make_video(40, fps=50), clip, clip_step=5)))
    assert frame_numbers(first.frames) == [0, 4, 8, 12]


def test_a_broken_file_raises_video_error(tmp_path):
    (tmp_path / "x.avi").write_text("text")
    with pytest.raises(VideoError):
        list(iter_windows(tmp_path / "x.avi", CLIP, clip_step=None))


def test_frames_are_centre_crops(tmp_path):
    """The columns of the 64x48 frame differ in brightness; the crop has the middle 40 of 64."""
    frame = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (48, 64, 3))
    write_video(tmp_path / "ramp.mp4", [np.ascontiguousarray(frame)] * 12, fps=25)
    window = next(iter(iter_windows(tmp_path / "ramp.mp4", CLIP, clip_step=1)))
    assert window.frames.dtype == np.uint8
    columns = window.frames.mean(axis=(0, 1, 3)) / 4
    assert columns == pytest.approx(np.arange(12, 52), abs=1)
