import cv2
import numpy as np
import pytest

from video_module.config import ClipConfig
from video_module.data import transforms

CLIP = ClipConfig(num_frames=2, resize=72, crop=64)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((240, 320), 256, (256, 341)),
        ((320, 240), 256, (341, 256)),
        ((240, 432), 256, (256, 460)),
        ((240, 320), (128, 171), (128, 171)),
        ((100, 100), 64, (64, 64)),
    ],
)
def test_resized_size_is_torchvisions(size, resize, expected):
    assert transforms.resized_size(*size, resize) == expected


def test_centre_crop_is_the_single_view():
    frames = np.random.default_rng(0).integers(0, 256, (2, 72, 96, 3), dtype=np.uint8)
    one = transforms.cut_crops(frames, CLIP, 1)
    assert (one[0] == transforms.center_crop(frames, CLIP)).all()
    assert (one[0] == frames[:, 4:68, 16:80]).all()


@pytest.mark.parametrize("size", [(72, 96), (96, 72), (72, 72)])
def test_three_crops_span_the_longer_side(size):
    marked = np.zeros((2, *size, 3), np.uint8)
    marked[:, :, :, 0], marked[:, :, :, 1] = np.arange(size[0])[:, None], np.arange(size[1])
    crops = np.stack(transforms.cut_crops(marked, CLIP, 3))
    assert crops.shape == (3, 2, 64, 64, 3)
    longer = 0 if size[0] > size[1] else 1
    assert [int(crop[0, 0, 0, longer]) for crop in crops] == [0, round((size[longer] - 64) / 2), size[longer] - 64]
    assert int(crops[-1, 0, -1, -1, longer]) == size[longer] - 1


def test_resize_keeps_flat_colour_and_dtype():
    frame = np.full((240, 320, 3), (10, 120, 250), np.uint8)
    resized = transforms.resize_frame(frame, CLIP)
    assert resized.shape == (72, 96, 3)
    assert resized.dtype == np.uint8
    assert (resized == (10, 120, 250)).all()


def test_two_crops_are_refused():
    with pytest.raises(ValueError, match="num_crops"):
        transforms.cut_crops(np.zeros((2, 72, 96, 3), np.uint8), CLIP, 2)


def test_a_very_long_frame_costs_no_more_than_a_square_of_its_area():
    clip = ClipConfig(resize=256, crop=224)
    for shape in ((2, 4096), (4096, 2), (2, 65500), (65500, 2), (31, 249)):
        frame = np.zeros((*shape, 3), np.uint8)
        square = 256 * 256 * 3
        assert transforms.resize_frame(frame, clip).nbytes <= 3 * square, shape
        view = transforms.center_view(frame, clip)
        assert view.shape == (224, 224, 3), shape
        assert (view if view.base is None else view.base).nbytes <= square, shape


def test_the_crops_of_a_very_long_frame_are_its_ends_and_its_middle():
    clip = ClipConfig(resize=40, crop=32)
    ramp = np.broadcast_to(np.linspace(0, 255, 1000).astype(np.uint8)[None, :, None], (20, 1000, 3))
    for frame, name in ((ramp, "wide"), (ramp.transpose(1, 0, 2), "tall")):
        resized = transforms.resize_frame(np.ascontiguousarray(frame), clip)
        crops = transforms.cut_crops(resized[None], clip, 3)
        assert [float(crop.mean()) for crop in crops] == pytest.approx([2, 127, 253], abs=2), name
        assert transforms.center_view(frame, clip).mean() == pytest.approx(127, abs=2), name


@pytest.mark.parametrize("shape", [(240, 320), (240, 1920), (1920, 240), (31, 248)])
def test_frames_of_ordinary_shapes_are_resized_whole(shape):
    clip = ClipConfig(resize=64, crop=56)
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    height, width = transforms.resized_size(*shape, 64)
    whole = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    assert np.array_equal(transforms.resize_frame(frame, clip), whole)
    assert np.array_equal(transforms.center_view(frame, clip), transforms.center_crop(whole, clip))
