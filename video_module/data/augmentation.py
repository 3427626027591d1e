"""Random changes to training clips (albumentations), ending in the shapes of transforms.py.

A module of its own because albumentations imports torch and takes seconds; nothing that serves needs it.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version at import

import albumentations as A
import cv2
import numpy as np

from video_module.config import AUGMENTATIONS, ClipConfig
from video_module.data.transforms import center_crop, resize_frame

_FLIP_SHARE = 0.5


class Augmentation:
    """One random draw for all frames of a clip: uint8 (T, H, W, 3) -> uint8 (T, crop, crop, 3).

    `none` resizes and crops as evaluation does. `light` takes a random part of 50 to 100 % of the area, mirrors half of
    the clips and jitters the colours of most. `strong` takes parts from 30 %, mirrors, applies two operations of
    RandAugment (Cubuk et al. 2020), and erases a box through all frames of every fourth clip (Zhong et al. 2020).
    """

    def __init__(self, clip: ClipConfig, level: str):
        if level not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {AUGMENTATIONS}, got {level!r}")
        self._clip = clip
        self._compose = None
        if level != "none":
            self._compose = A.Compose(_light(clip) if level == "light" else _strong(clip))

    def __call__(self, frames: np.ndarray, *, seed: int, may_flip: bool = True) -> np.ndarray:
        """The same seed makes the same change. Without `may_flip`, the others stay and no clip is mirrored."""
        if self._compose is None:
            return center_crop(np.stack([resize_frame(frame, self._clip) for frame in frames]), self._clip)
        self._compose.set_random_seed(seed)
        clip = self._compose(images=frames)["images"]
        if may_flip and np.random.default_rng(seed).random() < _FLIP_SHARE:
            # albumentations mirrors a clip by a strided copy that takes 18 times as long, and cannot know the class
            clip = np.stack([cv2.flip(frame, 1) for frame in clip])
        return clip


def _light(clip: ClipConfig) -> list[A.BasicTransform]:
    return [
        A.RandomResizedCrop((clip.crop, clip.crop), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3)),
        A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8),
    ]


def _strong(clip: ClipConfig) -> list[A.BasicTransform | A.BaseCompose]:
    # near zero once normalised; one number, since a colour is spread wrongly over a clip's frames by albumentations'
    # Affine, and a random one drawn anew for each frame by its Erasing
    grey = 255 * sum(clip.mean) / 3
    return [
        A.RandomResizedCrop((clip.crop, clip.crop), scale=(0.3, 1.0), ratio=(3 / 4, 4 / 3)),
        A.SomeOf(_rand_augment(grey), n=2, replace=True, p=1.0),
        A.Erasing(scale=(0.02, 0.25), ratio=(0.3, 3.3), fill=grey, p=0.25),
    ]


def _rand_augment(fill: float) -> list[A.BasicTransform]:
    """RandAugment's operations at a middling strength.

    AutoContrast and Equalize are left out: they stretch every frame by its own histogram, so that a clip flickers.
    """
    still = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0), "p": 1.0}
    return [
        A.NoOp(p=1.0),
        A.ColorJitter(**still | {"brightness": (0.5, 1.5)}),
        A.ColorJitter(**still | {"contrast": (0.5, 1.5)}),
        A.ColorJitter(**still | {"saturation": (0.0, 2.0)}),
        A.ColorJitter(**still | {"hue": (-0.1, 0.1)}),
        A.Posterize(num_bits=(4, 7), p=1.0),
        A.Solarize(threshold_range=(0.6, 1.0), p=1.0),
        A.Sharpen(alpha=(0.1, 0.5), p=1.0),
        A.Rotate((-20, 20), fill=fill, p=1.0),
        A.Affine(shear={"x": (-15, 15), "y": (0, 0)}, fill=fill, p=1.0),
        A.Affine(shear={"x": (0, 0), "y": (-15, 15)}, fill=fill, p=1.0),
        A.Affine(translate_percent={"x": (-0.15, 0.15), "y": (-0.15, 0.15)}, fill=fill, p=1.0),
    ]
