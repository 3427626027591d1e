import cv2
import numpy as np
import pytest

from video_module.data import drawing
from video_module.errors import InputError


@pytest.mark.parametrize("pair", drawing.REVERSED_PAIRS + drawing.FURTHER_REVERSED_PAIRS)
def test_pairs_are_one_motion_in_both_directions(pair):
    scene = drawing.make_scene(0, 0)
    still = drawing.Scene(**{**vars(scene), "noise": np.zeros_like(scene.noise), "shake": 0.0})
    forward, backward = (
        np.stack(list(drawing.draw_frames(action, still, num_frames=31, rng=np.random.default_rng(1))))
        for action in pair
    )
    assert np.array_equal(forward[0], backward[-1])  # it ends where the other begins
    assert np.array_equal(forward[-1], backward[0])
    assert not np.array_equal(forward[0], forward[-1])
    # no frame of the one is missing in the other's run: what tells them apart is the order
    for frame in forward:
        assert min(np.abs(frame.astype(int) - other).mean() for other in backward) < 2.5


def test_scenes_differ_and_repeat():
    first, again, other = drawing.make_scene(3, 1), drawing.make_scene(3, 1), drawing.make_scene(3, 2)
    assert np.array_equal(first.background, again.background)
    assert not np.array_equal(first.background, other.background)


@pytest.mark.parametrize("action", drawing.ACTIONS + drawing.FURTHER_ACTIONS)
def test_every_action_moves(action):
    frames = list(drawing.draw_frames(action, drawing.make_scene(0, 4), num_frames=30, rng=np.random.default_rng(0)))
    assert {frame.shape for frame in frames} == {(drawing.HEIGHT, drawing.WIDTH, 3)}
    assert np.abs(frames[0].astype(int) - frames[15]).max() > 60


def test_dataset_has_hmdb51_names(drawn_clips):
    from video_module.data.hmdb51 import parse_name

    clips = sorted(drawn_clips.rglob("*.avi"))
    assert len(clips) == 36
    assert {parse_name(clip.name, clip.parent.name).source for clip in clips} == {
        f"Drawn_Film_{n:03d}" for n in range(6)
    }


def test_drawing_leaves_the_threads_of_opencv_as_they_were(tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        drawing.draw_dataset(tmp_path, num_sources=1, clips_per_source=1)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_unknown_action():
    with pytest.raises(InputError, match="no drawing of 'fly'"):
        next(drawing.draw_frames("fly", drawing.make_scene(0, 0), num_frames=3, rng=np.random.default_rng(0)))
