"""The videos that a model gets most wrong, as strips of frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from video_module.files import replacing
from video_module.report.plots import BLUE, ORANGE

_MARGIN, _GAP = 20, 4
_CAPTION_HEIGHT = 40
_MIN_WIDTH = 640
_INK, _FAINT, _PAPER = "#1b1f24", "#5b6570", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A video as the contact sheet and the report show it."""

    path: str
    label: str
    prediction: str
    score: float
    """Probability of the prediction."""
    label_score: float
    """Probability of the label."""
    frames: np.ndarray
    """uint8 RGB (num_thumbnails, h, w, 3)."""

    @property
    def is_right(self) -> bool:
        return self.label == self.prediction

    def picture(self) -> np.ndarray:
        """The frames side by side, uint8 RGB (h, W, 3), light gaps between them."""
        height = self.frames.shape[1]
        gap = np.full((height, _GAP, 3), 228, np.uint8)
        parts = [part for frame in self.frames for part in (gap, frame)]
        return np.concatenate(parts[1:], axis=1)


def worst_videos(video_scores: np.ndarray, labels: np.ndarray, *, count: int = 12) -> list[int]:
    """The `count` worst rows of `video_scores` (N, K): wrong ones first, then by the probability of the label."""
    label_scores = video_scores[np.arange(len(labels)), labels]
    right = video_scores.argmax(axis=1) == labels
    return np.lexsort((label_scores, right))[:count].tolist()


@lru_cache(maxsize=4)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"  # comes with matplotlib
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _write(
    drawing: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    *,
    width: float,
    size: int,
    fill: str,
    bold=False,
) -> float:
    """One line, shortened by an ellipsis to `width` pixels; returns where it ends."""
    font = _font(size, bold)
    while font.getlength(text) > width and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    drawing.text(place, text, fill=fill, font=font)
    return place[0] + font.getlength(text)


def write_contact_sheet(path: Path, strips: Sequence[Strip], *, title: str) -> None:
    """Write the strips below each other as a PNG: label, prediction and scores above the frames of each."""
    pictures = [strip.picture() for strip in strips]
    width = 2 * _MARGIN + max([_MIN_WIDTH, *(picture.shape[1] for picture in pictures)])
    height = 3 * _MARGIN + sum(picture.shape[0] + _CAPTION_HEIGHT + _MARGIN for picture in pictures)
    sheet = Image.new("RGB", (width, height + _MARGIN), _PAPER)
    drawing = ImageDraw.Draw(sheet)
    room = width - 2 * _MARGIN
    _write(drawing, (_MARGIN, _MARGIN), title, width=room, size=16, fill=_INK, bold=True)
    top = 3 * _MARGIN
    for strip, picture in zip(strips, pictures, strict=True):
        color = BLUE if strip.is_right else ORANGE
        drawing.rectangle((_MARGIN - 12, top + 2, _MARGIN - 8, top + _CAPTION_HEIGHT + picture.shape[0]), fill=color)
        half = room / 2 - 60
        end = _write(drawing, (_MARGIN, top), strip.label, width=half, size=13, fill=_INK, bold=True)
        end = _write(drawing, (end, top), f" {strip.label_score:.0%}   predicted: ", width=half, size=13, fill=_INK)
        rest = width - _MARGIN - end - 50
        end = _write(drawing, (end, top), strip.prediction, width=rest, size=13, fill=_INK, bold=True)
        _write(drawing, (end, top), f" {strip.score:.0%}", width=60, size=13, fill=_INK)
        _write(drawing, (_MARGIN, top + 20), strip.path, width=room, size=10, fill=_FAINT)
        sheet.paste(Image.fromarray(picture), (_MARGIN, top + _CAPTION_HEIGHT))
        top += _CAPTION_HEIGHT + picture.shape[0] + _MARGIN
    with replacing(path) as partial:
        sheet.save(partial)
