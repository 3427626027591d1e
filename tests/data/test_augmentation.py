import numpy as np
import pytest

from video_module.config import ClipConfig
from video_module.data.augmentation import Augmentation

CLIP = ClipConfig(num_frames=4, frame_stride=1, resize=48, crop=40)


@pytest.fixture
def still() -> np.ndarray:
    """Four equal noisy frames: whatever happens to one must happen to all."""
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return np.stack([frame] * 4)


@pytest.mark.parametrize("level", ["light", "strong"])
def test_one_draw_for_all_frames(still, level):
    augmentation = Augmentation(CLIP, level)
    for seed in range(60):  # enough for each operation of `strong`
        clip = augmentation(still, seed=seed)
        assert (clip.dtype, clip.shape) == (np.uint8, CLIP.shape)
        assert all(np.array_equal(clip[0], frame) for frame in clip)


def test_strong_erases_a_box_through_all_frames_of_some_clips():
    """Noise has no two equal neighbours; the erased box is one colour."""
    noise = np.random.default_rng(0).integers(0, 100, (3, 60, 80, 3), dtype=np.uint8)
    augmentation = Augmentation(CLIP, "strong")
    grey = round(255 * sum(CLIP.mean) / 3)
    erased = 0
    for seed in range(80):
        box = (np.abs(augmentation(noise, seed=seed).astype(int) - grey) <= 1).all(axis=-1)
        together = box.all(axis=0)
        erased += together.sum() > 25
        assert together.sum() >= 0.9 * box[0].sum() - 20
    assert 10 <= erased <= 50


@pytest.mark.parametrize("level", ["light", "strong"])
def test_a_clip_that_may_not_flip_is_else_the_same(still, level):
    augmentation = Augmentation(CLIP, level)
    flipped = 0
    for seed in range(20):
        free, held = (augmentation(still, seed=seed, may_flip=may) for may in (True, False))
        flipped += not np.array_equal(free, held)
        assert np.array_equal(free, held) or np.array_equal(free[:, :, ::-1], held)
    assert 4 <= flipped <= 16


@pytest.mark.parametrize("level", ["light", "strong"])
def test_the_seed_decides(still, level):
    augmentation = Augmentation(CLIP, level)
    clips = [augmentation(still, seed=seed) for seed in (1, 2, 1)]
    assert np.array_equal(clips[0], clips[2])
    assert not np.array_equal(clips[0], clips[1])


def test_light_mirrors_about_half(still):
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, None, :, None] * 3, (4, 60, 80, 3)).copy()
    augmentation = Augmentation(CLIP, "light")
    mirrored = sum(
        int(clip[0, 20, 0].sum()) > int(clip[0, 20, -1].sum())
        for clip in (augmentation(ramp, seed=s) for s in range(60))
    )
    assert 18 <= mirrored <= 42


def test_unknown_level(still):
    with pytest.raises(ValueError, match="augment must be one of"):
        Augmentation(CLIP, "wild")
