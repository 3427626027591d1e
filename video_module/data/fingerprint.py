"""Near-identical videos, found by what they show: a perceptual hash of a few frames of each.

Copies that were renamed, encoded anew or resized differ from their original in few bits; other videos differ in half.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from video_module.data.decoding import read_frames

_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the length
_SIDE, _SCALES = 64, 16  # a frame is shrunk to SIDE x SIDE, and its SCALES x SCALES coarsest cosine waves are kept
NUM_BITS = len(_PLACES) * (_SCALES**2 - 1)

MAX_DISTANCE = 0.10
"""Share of differing bits up to which two videos pass for copies.

Of 30 surveillance clips, all copies came within it that were encoded at a far lower rate (largest 0.04) or at half the
size (0.07), 27 that lost their first 5 %, and 21 that lost 10 %. Of 44,850 pairs of different clips 17 come as near: a
still camera that films one scene twice, which is worth knowing as well.
"""


def fingerprint(path: Path, num_frames: int) -> np.ndarray:
    """The perceptual hash of five frames of a video: bool (NUM_BITS,). Mirrored copies are not alike.

    As in pHash: of each frame, which coarse waves of its cosine transform, without its mean, are above their median.
    Raises VideoError if the video holds fewer than `num_frames`.
    """
    indices = [int(place * num_frames) for place in _PLACES]
    frames = read_frames(path, indices, per_frame=_shrink)
    waves = [cv2.dct(_grey(frame))[:_SCALES, :_SCALES].ravel()[1:] for frame in frames]
    return np.concatenate([wave > np.median(wave) for wave in waves])


def _shrink(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)


def fingerprints(videos: Sequence[tuple[Path, int]], *, num_workers: int, desc: str) -> np.ndarray:
    """The fingerprint() of each (path, num_frames), with a bar: bool (N, NUM_BITS)."""
    with ThreadPoolExecutor(num_workers) as pool:
        bar = tqdm(pool.map(lambda video: fingerprint(*video), videos), total=len(videos), desc=desc, unit="video")
        return np.array(list(bar), dtype=bool).reshape(len(videos), NUM_BITS)


@dataclass(frozen=True)
class NearPair:
    """Two videos by their places in what was compared, and the share of bits in which they differ."""

    first: int
    second: int
    distance: float


def near_pairs(first: np.ndarray, second: np.ndarray | None = None) -> list[NearPair]:
    """All pairs of fingerprints at most MAX_DISTANCE apart, nearest first; within `first` where `second` is None."""
    within = second is None
    signs = [2 * bits.astype(np.float32) - 1 for bits in (first, first if within else second)]
    pairs = []
    block = 1024  # rows at once: 28 MB of distances against HMDB51's 6,766 clips
    for top in range(0, len(first), block):
        distances = (1 - signs[0][top : top + block] @ signs[1].T / first.shape[1]) / 2
        for row, column in zip(*np.nonzero(distances <= MAX_DISTANCE + 1e-6), strict=True):
            if not within or top + row < column:
                pairs.append(NearPair(int(top + row), int(column), round(float(distances[row, column]), 4)))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))
