"""Random changes to training clips (albumentations), ending in the shapes of transforms.py.

A module of its own because albumentations imports torch and takes seconds; nothing that serves needs it.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version at import

import albumentations as A
import numpy as np

from video_module.config import ClipConfig
from video_module.data.transforms import center_crop, resize_frame

LEVELS = ("none", "light")


class Augmentation:
    """One random draw for all frames of a clip: uint8 (T, H, W, 3) -> uint8 (T, crop, crop, 3).

    `none` resizes and crops as evaluation does. `light` takes a random part of 50 to 100 % of the area, mirrors half of
    the clips and jitters the colours of most.
    """

    def __init__(self, clip: ClipConfig, level: str):
        if level not in LEVELS:
            raise ValueError(f"augment must be one of {LEVELS}, got {level!r}")
        self._clip = clip
        self._compose = None
        if level == "light":
            self._compose = A.Compose(
                [
                    A.RandomResizedCrop((clip.crop, clip.crop), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3)),
                    A.HorizontalFlip(p=0.5),
                    A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8),
                ]
            )

    def __call__(self, frames: np.ndarray, *, seed: int) -> np.ndarray:
        """The same seed makes the same change."""
        if self._compose is None:
            return center_crop(np.stack([resize_frame(frame, self._clip) for frame in frames]), self._clip)
        self._compose.set_random_seed(seed)
        return self._compose(images=frames)["images"]
