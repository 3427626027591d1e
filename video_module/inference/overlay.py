"""Labels and score bars drawn on frames, and the annotated video."""

import colorsys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from video_module.data.decoding import iter_frames
from video_module.data.encoding import open_video
from video_module.errors import InputError
from video_module.inference.predictor import VideoPrediction
from video_module.inference.timeline import Segment, find_segments

_PANEL_ALPHA = 0.62
_BAR_BACK = (90, 90, 90)


def class_colors(class_names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """A bright RGB colour for each class: evenly spaced hues for a few, steps of the golden ratio for many."""
    step = 1 / len(class_names) if len(class_names) <= 12 else 0.618034
    colors = [colorsys.hsv_to_rgb((0.57 + index * step) % 1.0, 0.62, 0.97) for index in range(len(class_names))]
    return {name: tuple(round(c * 255) for c in color) for name, color in zip(class_names, colors, strict=True)}


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # DejaVu comes with matplotlib and holds Latin, Greek and Cyrillic; OpenCV's own fonts are ASCII before version 5
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


@lru_cache(maxsize=256)
def _text_mask(text: str, size: int, max_width: int) -> np.ndarray:
    """Coverage of the drawn text, float32 (H, W, 1) in 0..1, shortened by an ellipsis to fit max_width."""
    font = _font(size)
    while font.getlength(text) > max_width and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(1, int(np.ceil(font.getlength(text)))), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image, np.float32)[..., None] / 255


def put_text(frame: np.ndarray, text: str, *, left: int, top: int, size: int, right: int) -> None:
    """White text into frame, cut at `right`."""
    mask = _text_mask(text, size, max(1, right - left))
    part = frame[top : top + mask.shape[0], left : max(left, min(left + mask.shape[1], right))]
    mask = mask[: part.shape[0], : part.shape[1]]
    part[:] = (part + (255.0 - part) * mask).astype(np.uint8)


def _label_layout(height: int, width: int) -> tuple[int, int]:
    """Size of the text and of the space around it."""
    size = int(np.clip(min(height, width) * 0.075, 9, 64))
    return size, max(2, size // 3)


def label_height(height: int, width: int) -> int:
    """How far down draw_label() reaches."""
    size, pad = _label_layout(height, width)
    return min(height, size + 4 * pad)


def draw_label(frame: np.ndarray, label: str, score: float, *, color: tuple[int, int, int]) -> None:
    """Draw a panel with the label and a bar as long as the score into the top of frame, uint8 RGB (H, W, 3)."""
    height, width = frame.shape[:2]
    size, pad = _label_layout(height, width)
    panel = frame[: label_height(height, width)]
    panel[:] = (panel * (1 - _PANEL_ALPHA)).astype(np.uint8)
    percent = f"{score:.0%}"
    percent_width = _text_mask(percent, size, width).shape[1]
    put_text(frame, label, left=pad, top=pad // 2, size=size, right=width - percent_width - 2 * pad)
    put_text(frame, percent, left=max(0, width - percent_width - pad), top=pad // 2, size=size, right=width)
    top, bottom = size + 2 * pad, size + 3 * pad
    cv2.rectangle(frame, (pad, top), (width - pad - 1, bottom), _BAR_BACK, -1)
    cv2.rectangle(frame, (pad, top), (pad + round((width - 2 * pad - 1) * score), bottom), color, -1)


def draw_strip(
    frame: np.ndarray, segments: list[Segment], colors: dict[str, tuple[int, int, int]], *, position: int
) -> None:
    """Draw the video's segments as a coloured strip along the bottom, with a mark at frame number `position`."""
    height, width = frame.shape[:2]
    thick = max(3, height // 45)
    num_frames = segments[-1].end
    for segment in segments:
        left, right = (round(edge * width / num_frames) for edge in (segment.start, segment.end))
        frame[height - thick :, left:right] = colors[segment.label]
    mark = round(position * (width - 1) / max(1, num_frames - 1))
    frame[height - 2 * thick :, max(0, mark - 1) : mark + 2] = 255


def annotated_frames(prediction: VideoPrediction) -> Iterator[np.ndarray]:
    """Yield the video's frames, uint8 RGB, with the current segment's label, its score bar and the strip drawn in."""
    segments = find_segments(prediction)
    colors = class_colors(prediction.class_names)
    remaining = iter(segments)
    segment = next(remaining)
    for position, frame in enumerate(iter_frames(prediction.path)):
        if position >= segment.end:
            segment = next(remaining)
        draw_label(frame, segment.label, segment.score, color=colors[segment.label])
        draw_strip(frame, segments, colors, position=position)
        yield frame


def write_annotated(
    path: Path, prediction: VideoPrediction, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write annotated_frames() as an .mp4. Frame rate, frame count and size are those of the source.

    (Odd sizes grow by one pixel, which H.264 needs.)
    """
    with open_video(path, fps=prediction.fps) as writer:
        for done, frame in enumerate(annotated_frames(prediction), start=1):
            writer.write(frame)
            on_progress(done, prediction.num_frames)


def show_annotated(prediction: VideoPrediction) -> None:
    """Play annotated_frames() in a window until the end, or until q. Raises InputError where there is no display."""
    title = prediction.path.name
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)
    except cv2.error:
        raise InputError("--show: no display to open a window on; use --save_video") from None
    for frame in annotated_frames(prediction):
        cv2.imshow(title, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(max(1, round(1000 / prediction.fps))) & 0xFF == ord("q"):
            break
    cv2.destroyWindow(title)
