"""Random augmentation of training clips, with albumentations.

Kept apart from transforms.py because albumentations imports torch, takes seconds to load, and is not needed to serve.
"""

import zlib
from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np

from video_module.config import AUGMENTATIONS, ClipConfig
from video_module.data.transforms import center_view

# Probability that a clip is mirrored.
_FLIP_SHARE = 0.5


class Augmentation:
    """Augment a clip, with the same random parameters for all its frames: uint8 (T, H, W, 3) -> (T, crop, crop, 3).

    `none` resizes and crops as evaluation does. `light` crops 50 to 100 % of the area, mirrors half of the clips and
    jitters the colours of most. `strong` crops 30 to 100 %, mirrors half of the clips, applies two operations of
    RandAugment (Cubuk et al. 2020), and erases a box from all frames of every fourth clip (Zhong et al. 2020).

    There are two steps, cropper() for each frame and finish() for the clip, so that frames can be cropped while they
    are decoded and are not kept at full size. The same seed gives the same result.
    """

    def __init__(self, clip: ClipConfig, level: str):
        if level not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {AUGMENTATIONS}, got {level!r}")
        self._clip = clip
        self._crop = self._rest = None
        if level != "none":
            smallest = 0.5 if level == "light" else 0.3
            self._crop = A.RandomResizedCrop((clip.crop, clip.crop), scale=(smallest, 1.0), ratio=(3 / 4, 4 / 3))
            self._rest = A.Compose(_light() if level == "light" else _strong(clip))

    def __call__(self, frames: np.ndarray, *, seed: int, may_flip: bool = True) -> np.ndarray:
        """Apply both steps to decoded frames."""
        crop = self.cropper(seed)
        return self.finish(np.stack([crop(frame) for frame in frames]), seed=seed, may_flip=may_flip)

    def cropper(self, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that crops each frame of a clip: (H, W, 3) -> (crop, crop, 3)."""
        if self._crop is None:
            return lambda frame: center_view(frame, self._clip)
        self._crop.set_random_seed(_seed_of("crop", seed))
        box: list[int] = []

        def crop(frame: np.ndarray) -> np.ndarray:
            # Drawn once per clip, when the first frame shows the size
            if not box:
                box.extend(self._crop.get_params_dependent_on_data({"shape": frame.shape}, {})["crop_coords"])
            left, top, right, bottom = box
            return cv2.resize(frame[top:bottom, left:right], (self._clip.crop, self._clip.crop))

        return crop

    def finish(self, clip: np.ndarray, *, seed: int, may_flip: bool = True) -> np.ndarray:
        """Apply everything but the crop to a cropped clip. If `may_flip` is False, it is never mirrored."""
        assert clip.ndim == 4 and clip.shape[3] == 3, clip.shape  # THWC
        if self._rest is None:
            return clip
        self._rest.set_random_seed(_seed_of("rest", seed))
        clip = self._rest(images=clip)["images"]
        if may_flip and np.random.default_rng(_seed_of("flip", seed)).random() < _FLIP_SHARE:
            # albumentations mirrors with a strided copy, which takes 18 times as long. It also does not know the
            # class, and some classes must not be mirrored (--no_flip).
            clip = np.stack([cv2.flip(frame, 1) for frame in clip])
        return clip


def _seed_of(step: str, seed: int) -> int:
    # With one seed for all steps, the crop would determine the colours
    return zlib.crc32(f"{step} {seed}".encode())


# RGB to YIQ (NTSC): perceived brightness and two colour axes. Rotating the colour axes changes the hue, scaling them
# changes the saturation.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class ClipColorJitter(A.ImageOnlyTransform):
    """Change brightness, contrast, saturation and hue of a whole clip with one affine map of its colours.

    The first three are factors between 1 - x and 1 + x. Hue rotates the colour circle by -x to x, where 1 is a full
    turn.

    albumentations' ColorJitter takes 15 times as long, because it changes them one after another. It also computes the
    contrast around each frame's own mean, which makes a clip flicker; here, the middle frame's mean is used.
    """

    def __init__(
        self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0, p: float
    ):
        super().__init__(p=p)
        self.ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, np.ndarray]:
        draw = {name: self.py_random.uniform(-size, size) for name, size in self.ranges.items()}
        frames = data["images"]
        grey = float(_YIQ[0] @ cv2.mean(frames[len(frames) // 2])[:3])
        turn, saturation = 2 * np.pi * draw["hue"], 1 + draw["saturation"]
        colors = np.diag([1.0, saturation, saturation])
        colors[1:, 1:] @= [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        contrast, brightness = 1 + draw["contrast"], 1 + draw["brightness"]
        matrix = brightness * contrast * np.linalg.inv(_YIQ) @ colors @ _YIQ
        offset = brightness * (1 - contrast) * grey
        return {"matrix": np.column_stack([matrix, np.full(3, offset)]).astype(np.float32)}  # (3, 4)

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        # cv2.transform() rounds and clips to 0..255
        return cv2.transform(img, matrix)

    def apply_to_images(self, images: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        clip = np.empty_like(images)
        for frame, changed in zip(images, clip, strict=True):
            cv2.transform(frame, matrix, dst=changed)
        return clip


def _light() -> list[A.BasicTransform]:
    return [ClipColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8)]


def _strong(clip: ClipConfig) -> list[A.BasicTransform | A.BaseCompose]:
    # The mean colour, which is near zero once normalised. It is one number because albumentations' Affine handles a
    # colour wrongly for a clip, and its Erasing would draw a new random colour for each frame.
    grey = 255 * sum(clip.mean) / 3
    return [
        A.SomeOf(_rand_augment(grey), n=2, replace=True, p=1.0),
        A.Erasing(scale=(0.02, 0.25), ratio=(0.3, 3.3), fill=grey, p=0.25),
    ]


def _rand_augment(fill: float) -> list[A.BasicTransform]:
    """Return RandAugment's operations at medium strength.

    AutoContrast and Equalize are left out: they adapt to each frame's histogram, which makes a clip flicker.
    """
    return [
        A.NoOp(p=1.0),
        ClipColorJitter(brightness=0.5, p=1.0),
        ClipColorJitter(contrast=0.5, p=1.0),
        ClipColorJitter(saturation=1.0, p=1.0),
        ClipColorJitter(hue=0.1, p=1.0),
        A.Posterize(num_bits=(4, 7), p=1.0),
        A.Solarize(threshold_range=(0.6, 1.0), p=1.0),
        A.Sharpen(alpha=(0.1, 0.5), p=1.0),
        A.Rotate((-20, 20), fill=fill, p=1.0),
        A.Affine(shear={"x": (-15, 15), "y": (0, 0)}, fill=fill, p=1.0),
        A.Affine(shear={"x": (0, 0), "y": (-15, 15)}, fill=fill, p=1.0),
        A.Affine(translate_percent={"x": (-0.15, 0.15), "y": (-0.15, 0.15)}, fill=fill, p=1.0),
    ]
