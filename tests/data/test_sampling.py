from itertools import product

import numpy as np
import pytest

from video_module.config import ClipConfig
from video_module.data import sampling
from video_module.errors import InputError

CLIP = ClipConfig(num_frames=8, frame_stride=3)  # spans 22 frames


@pytest.mark.parametrize(
    ("num_video_frames", "expected"),
    [
        (22, [0, 3, 6, 9, 12, 15, 18, 21]),
        (40, [0, 3, 6, 9, 12, 15, 18, 21]),
        (21, [0, 2, 5, 8, 11, 14, 17, 20]),  # one short: the stride shrinks
        (9, [0, 1, 2, 3, 4, 5, 6, 8]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, [0, 1, 2, 3, 4, 5, 6, 6]),  # then the last frame repeats
        (1, [0] * 8),
    ],
)
def test_clip_indices_from_the_start(num_video_frames, expected):
    assert sampling.clip_indices(0, num_video_frames, CLIP).tolist() == expected


def test_clips_stay_inside_and_ascend():
    for num_video_frames, fps in product(range(1, 60), (None, 12.5, 30, 59.94)):
        clip = ClipConfig(num_frames=8, frame_stride=3, target_fps=None if fps is None else 25)
        for start in sampling.window_starts(num_video_frames, clip, 5, fps=fps):
            indices = sampling.clip_indices(start, num_video_frames, clip, fps=fps)
            case = f"{num_video_frames} frames at {fps} frames/s, from frame {start}: {indices}"
            assert len(indices) == 8, case
            assert indices[0] == start, case
            assert indices[-1] < num_video_frames, case
            assert (np.diff(indices) >= 0).all(), case


def test_windows_cover_every_frame():
    span = sampling.clip_span(CLIP, None)
    for num_video_frames, clip_step in product(range(1, 90), (1, 7, 22)):
        covered = set()
        for start in sampling.window_starts(num_video_frames, CLIP, clip_step):
            covered |= set(range(start, min(start + span, num_video_frames)))
        assert covered == set(range(num_video_frames)), f"{num_video_frames} frames, a window every {clip_step}"


@pytest.mark.parametrize(
    ("num_video_frames", "num_clips", "expected"),
    [(22, 4, [0]), (5, 4, [0]), (23, 4, [0, 0, 1, 1]), (52, 4, [0, 10, 20, 30]), (52, 1, [15]), (52, 2, [0, 30])],
)
def test_uniform_starts(num_video_frames, num_clips, expected):
    assert sampling.uniform_starts(num_video_frames, CLIP, num_clips) == expected


def test_random_starts_reach_both_ends_and_nothing_else():
    rng = np.random.default_rng(0)
    drawn = {sampling.random_start(25, CLIP, rng) for _ in range(300)}
    assert drawn == {0, 1, 2, 3}
    assert {sampling.random_start(5, CLIP, rng) for _ in range(10)} == {0}


def test_target_fps_takes_equal_times_of_unequal_files():
    clip = ClipConfig(num_frames=8, frame_stride=2, target_fps=25)
    slow = sampling.clip_indices(0, 400, clip, fps=25) / 25
    fast = sampling.clip_indices(0, 400, clip, fps=60) / 60
    assert np.abs(slow - fast).max() <= 1 / 60
    with pytest.raises(InputError, match="frame rate is unknown"):
        sampling.clip_indices(0, 400, clip, fps=None)


@pytest.mark.parametrize("start", [-1, 10])
def test_start_outside_the_video_is_refused(start):
    with pytest.raises(ValueError, match="start must be in"):
        sampling.clip_indices(start, 10, CLIP)
