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


@pytest.mark.parametrize("seed", range(8))
def test_one_draw_for_all_frames(still, seed):
    clip = Augmentation(CLIP, "light")(still, seed=seed)
    assert (clip.dtype, clip.shape) == (np.uint8, CLIP.shape)
    assert all(np.array_equal(clip[0], frame) for frame in clip)


def test_the_seed_decides(still):
    augmentation = Augmentation(CLIP, "light")
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
