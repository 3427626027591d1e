import albumentations as A
import numpy as np
import pytest

from video_module.config import ClipConfig
from video_module.data.augmentation import Augmentation, ClipColorJitter

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


@pytest.mark.parametrize("level", ["none", "light", "strong"])
def test_frames_cropped_as_they_come_make_the_same_clip(still, level):
    augmentation = Augmentation(CLIP, level)
    crop = augmentation.cropper(7)
    frames = np.stack([crop(frame) for frame in still])
    assert frames.shape == CLIP.shape
    assert np.array_equal(augmentation.finish(frames, seed=7), augmentation(still, seed=7))


@pytest.mark.parametrize(("level", "smallest"), [("light", 0.5), ("strong", 0.3)])
def test_crops_take_the_share_of_the_area_that_they_should(level, smallest):
    """Columns and rows are numbered by red and green: the corners of a crop tell its size."""
    frame = np.zeros((200, 250, 3), np.uint8)
    frame[..., 0], frame[..., 1] = np.arange(250), np.arange(200)[:, None]
    shares = []
    for seed in range(150):
        crop = Augmentation(CLIP, level).cropper(seed)(frame).astype(int)
        width, height = crop[20, -1, 0] - crop[20, 0, 0], crop[-1, 20, 1] - crop[0, 20, 1]
        shares.append(width * height / (200 * 250) * (40 / 39) ** 2)
    assert smallest - 0.06 < min(shares) < smallest + 0.12
    assert 0.85 < max(shares) < 1.05


def test_crop_colours_and_mirror_are_drawn_apart():
    """No draw tells another: over many seeds, crop size, brightness and mirror do not go together."""
    numbered = np.zeros((200, 250, 3), np.uint8)
    numbered[..., 0] = np.arange(250)
    ramp = np.broadcast_to(np.linspace(90, 110, 40).astype(np.uint8)[:, None], (4, 40, 40, 3)).copy()
    augmentation = Augmentation(CLIP, "light")
    draws = []
    for seed in range(400):
        crop = augmentation.cropper(seed)(numbered).astype(int)
        clip = augmentation.finish(ramp, seed=seed).astype(int)
        width = crop[0, -1, 0] - crop[0, 0, 0]
        draws.append(
            (width, crop[0, 0, 0] - (250 - width) / 2, clip.mean(), clip[0, 0, -1].sum() > clip[0, 0, 0].sum())
        )
    correlation = np.corrcoef(np.array(draws, float).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.2  # four deviations of chance


def jittered(frames, *, seed=0, **ranges):
    compose = A.Compose([ClipColorJitter(**ranges, p=1.0)])
    compose.set_random_seed(seed)
    return compose(images=frames)["images"].astype(int)


def test_no_jitter_changes_nothing(still):
    assert np.array_equal(jittered(still), still)


@pytest.mark.parametrize("seed", range(5))
def test_each_jitter_does_what_its_name_says(seed):
    frames = np.random.default_rng(seed).integers(90, 160, (3, 20, 30, 3), dtype=np.uint8)  # so that nothing is cut off
    luma = np.array([0.299, 0.587, 0.114])
    ratio = jittered(frames, seed=seed, brightness=0.3) / frames
    assert np.ptp(ratio) < 0.012
    assert 0.69 < ratio.mean() < 1.31
    contrasted = jittered(frames, seed=seed, contrast=0.3)
    grey = (frames[1] @ luma).mean()
    slope = (contrasted - grey).std() / (frames - grey).std()
    assert np.abs(contrasted - (grey + slope * (frames - grey))).max() <= 1.01
    for ranges in ({"saturation": 0.5}, {"hue": 0.1}):
        changed = jittered(frames, seed=seed, **ranges)
        assert np.abs(changed @ luma - frames @ luma).max() < 1  # as bright as before
        assert np.abs(changed - frames).max() > 3


def test_contrast_keeps_the_light_of_a_flash():
    """Frames of one clip are mapped alike: a dark frame among bright ones stays as much darker."""
    frames = np.full((5, 8, 8, 3), 140, np.uint8)
    frames[1] = 100
    changed = jittered(frames, seed=3, contrast=0.3)
    slope = (changed[0, 0, 0, 0] - changed[1, 0, 0, 0]) / 40
    assert 0.7 <= slope <= 1.3
    assert abs(slope - 1) > 0.02


def test_unknown_level(still):
    with pytest.raises(ValueError, match="augment must be one of"):
        Augmentation(CLIP, "wild")
