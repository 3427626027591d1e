"""Read small frames of a video for reports."""

from pathlib import Path

import cv2
import numpy as np

from video_module.data.decoding import read_frames


def read_thumbnails(
    path: str | Path, *, num_video_frames: int, num_thumbnails: int = 5, box: tuple[int, int] = (144, 192)
) -> np.ndarray:
    """Read the middle frames of `num_thumbnails` equal parts of a video, scaled to fit into `box` (H, W).

    Returns uint8 RGB (num_thumbnails, h, w, 3). Raises VideoError naming `path` if fewer than `num_video_frames`
    decode.
    """
    assert num_video_frames > 0, f"{path}: no frames to show"
    middles = (2 * np.arange(num_thumbnails) + 1) * num_video_frames // (2 * num_thumbnails)

    def fit(frame: np.ndarray) -> np.ndarray:
        scale = min(box[0] / frame.shape[0], box[1] / frame.shape[1])
        height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)

    return read_frames(path, middles, per_frame=fit, num_frames=num_video_frames)
