"""The only resize, crop and views of evaluation and serving (OpenCV, NumPy). Frames stay uint8 RGB.

Sizes and offsets follow torchvision's video presets. INTER_LINEAR_EXACT comes nearest to their bilinear resize without
antialiasing: it differs in 1 % of the values by one level, INTER_LINEAR in 11 %.
"""

import cv2
import numpy as np

from video_module.config import ClipConfig

# Of ordinary videos, none is as many times as long as it is wide.
_LONGEST = 8


def resized_size(height: int, width: int, resize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) after resizing: the short side brought to `resize`, or both sides to (height, width)."""
    if not isinstance(resize, int):
        return resize
    if height <= width:
        return resize, max(resize, int(resize * width / height))
    return max(resize, int(resize * height / width)), resize


def resize_frame(frame: np.ndarray, clip: ClipConfig, out: np.ndarray | None = None) -> np.ndarray:
    """Resize one (H, W, 3) frame as the model was trained to see it, into `out` if it is given.

    Of a frame that is more than _LONGEST times as long as it is wide, only what cut_crops() takes is left: its two ends
    and its middle, side by side.
    """
    return _resize(_cut_long(frame, clip, num_parts=3), clip, out)


def _resize(frame: np.ndarray, clip: ClipConfig, out: np.ndarray | None = None) -> np.ndarray:
    return resize(frame, resized_size(*frame.shape[:2], clip.resize), out)


def resize(frame: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Resize a frame to `size`, (height, width), into `out` if given. Without it, a frame of that size is returned."""
    if size != frame.shape[:2]:
        return cv2.resize(frame, size[::-1], dst=out, interpolation=cv2.INTER_LINEAR_EXACT)
    if out is None:
        return frame
    out[:] = frame
    return out


def crop_offsets(height: int, width: int, crop: int, num_crops: int) -> list[tuple[int, int]]:
    """(top, left) of the centre crop, or of three crops spread along the longer side."""
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3, got {num_crops}")
    assert min(height, width) >= crop, f"a crop of {crop} does not fit into {height}x{width}"
    # round() takes halves to the even number, as torchvision's CenterCrop does
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    if num_crops == 1:
        return [(top, left)]
    if height <= width:
        return [(top, 0), (top, left), (top, width - crop)]
    return [(0, left), (top, left), (height - crop, left)]


def center_crop(frames: np.ndarray, clip: ClipConfig) -> np.ndarray:
    """Crop resized frames (..., H, W, 3) to (..., crop, crop, 3)."""
    [(top, left)] = crop_offsets(*frames.shape[-3:-1], clip.crop, 1)
    return frames[..., top : top + clip.crop, left : left + clip.crop, :]


def center_view(frame: np.ndarray, clip: ClipConfig) -> np.ndarray:
    """A frame (H, W, 3) of any size as serving sees it: resized, then its centre, (crop, crop, 3)."""
    return center_crop(_resize(_cut_long(frame, clip, num_parts=1), clip), clip)


def _cut_long(frame: np.ndarray, clip: ClipConfig, *, num_parts: int) -> np.ndarray:
    """The squares of a very long frame that crops come from; other frames as they are.

    With its short side brought to 256, a frame of 2 x 4096 pixels would become 400 MB, of which crops need little.
    """
    length, side = max(frame.shape[:2]), min(frame.shape[:2])
    if length <= _LONGEST * side or not isinstance(clip.resize, int):
        return frame
    middle = (length - side) // 2
    begins = [middle] if num_parts == 1 else [0, middle, length - side]
    axis = int(frame.shape[1] == length)
    return np.concatenate([frame.take(range(begin, begin + side), axis) for begin in begins], axis)


def cut_crops(frames: np.ndarray, clip: ClipConfig, num_crops: int) -> list[np.ndarray]:
    """The crops of resized frames (F, H, W, 3): num_crops views of their memory, (F, crop, crop, 3) each."""
    offsets = crop_offsets(*frames.shape[1:3], clip.crop, num_crops)
    return [frames[:, top : top + clip.crop, left : left + clip.crop] for top, left in offsets]
