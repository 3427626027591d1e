"""Strips of frames below each other: the videos that a model gets most wrong, and what augmentation makes of clips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from video_module.files import replacing
from video_module.lettering import load_font, shorten
from video_module.report.plots import BLUE, ORANGE

_MARGIN, _GAP = 20, 4
_CAPTION_HEIGHT = 44
_NAMES_WIDTH = 96
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
        return _with_gaps(self.frames, axis=1)


def _with_gaps(pictures: Sequence[np.ndarray], *, axis: int) -> np.ndarray:
    """Join pictures (h, w, 3) along `axis`, light gaps between them."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 228, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)


def worst_videos(video_scores: np.ndarray, labels: np.ndarray, *, count: int = 12) -> list[int]:
    """The `count` worst rows of `video_scores` (N, K): wrong ones first, then by the probability of the label."""
    label_scores = video_scores[np.arange(len(labels)), labels]
    right = video_scores.argmax(axis=1) == labels
    return np.lexsort((label_scores, right))[:count].tolist()


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
    font = load_font(size, bold=bold)
    text = shorten(text, font, width)
    drawing.text(place, text, fill=fill, font=font)
    return place[0] + font.getlength(text)


def write_contact_sheet(path: Path, strips: Sequence[Strip], *, title: str) -> None:
    """Write the strips below each other as a PNG: label, prediction and scores above the frames of each."""

    def caption(strip: Strip) -> _Caption:
        def write(drawing: ImageDraw.ImageDraw, top: int, room: int) -> None:
            def write_on(left: float, text: str, *, width: float, bold: bool = False) -> float:
                return _write(drawing, (left, top), text, width=width, size=14, fill=_INK, bold=bold)

            verdict = "right" if strip.is_right else "wrong"  # in words: the bar's colour is lost in grey
            end = write_on(_MARGIN, f"{verdict}: label ", width=room)
            end = write_on(end, strip.label, width=room / 2 - 130, bold=True)
            end = write_on(end, f" {strip.label_score:.0%}, predicted ", width=room)
            end = write_on(end, strip.prediction, width=room + _MARGIN - end - 50, bold=True)
            write_on(end, f" {strip.score:.0%}", width=60)
            _write(drawing, (_MARGIN, top + 21), strip.path, width=room, size=12, fill=_FAINT)

        return write

    rows = [(strip.picture(), BLUE if strip.is_right else ORANGE, caption(strip)) for strip in strips]
    _write_sheet(path, rows, title=title)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Clips of one video, each as a row of frames: first as evaluation sees it, then as training does."""

    path: str
    label: str
    clips: Sequence[np.ndarray]
    """uint8 RGB (T, H, W, 3) each, of one size."""
    names: Sequence[str]
    """Of the clips, written beside them."""

    def picture(self, *, num_thumbnails: int = 8, height: int = 96) -> np.ndarray:
        """Frames spread over each clip, shrunk to `height`, a clip to a row behind its name: uint8 RGB (h, w, 3)."""
        rows = []
        for clip, name in zip(self.clips, self.names, strict=True):
            chosen = clip[np.linspace(0, len(clip) - 1, min(num_thumbnails, len(clip))).round().astype(int)]
            size = (round(height * clip.shape[2] / clip.shape[1]), height)
            frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in chosen]
            rows.append(_named(name, _with_gaps(frames, axis=1)))
        return _with_gaps(rows, axis=0)


def write_preview(path: Path, previews: Sequence[Preview], *, title: str) -> None:
    """Write clips as training sees them below each other as PNG or JPEG, a video to a block."""

    def caption(preview: Preview) -> _Caption:
        def write(drawing: ImageDraw.ImageDraw, top: int, room: int) -> None:
            _write(drawing, (_MARGIN, top), preview.label, width=room, size=14, fill=_INK, bold=True)
            _write(drawing, (_MARGIN, top + 21), preview.path, width=room, size=12, fill=_FAINT)

        return write

    _write_sheet(path, [(preview.picture(), BLUE, caption(preview)) for preview in previews], title=title)


def write_examples(path: Path, rows: Mapping[str, np.ndarray], *, title: str) -> None:
    """Write the frames of each video, uint8 RGB (num_thumbnails, h, w, 3), behind its name, below each other."""
    pictures = [_named(name, _with_gaps(frames, axis=1)) for name, frames in rows.items()]
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in pictures
    ]

    def no_caption(drawing: ImageDraw.ImageDraw, top: int, room: int) -> None: ...

    _write_sheet(path, [(_with_gaps(padded, axis=0), None, no_caption)], title=title, caption_height=0)


def _named(name: str, row: np.ndarray) -> np.ndarray:
    """A row of frames, uint8 RGB (h, w, 3), with its name to the left."""
    head = Image.new("RGB", (_NAMES_WIDTH, len(row)), _PAPER)
    _write(ImageDraw.Draw(head), (0, len(row) / 2 - 8), name, width=_NAMES_WIDTH - 8, size=12, fill=_INK)
    return np.concatenate([np.asarray(head), row], axis=1)


_Caption = Callable[[ImageDraw.ImageDraw, int, int], None]
"""Draws the lines above a picture, given where they begin and how wide they may be."""


def _write_sheet(
    path: Path,
    rows: Sequence[tuple[np.ndarray, str | None, _Caption]],
    *,
    title: str,
    caption_height: int = _CAPTION_HEIGHT,
) -> None:
    """Write (picture, colour of the bar beside it, caption) below each other, as PNG or JPEG by the suffix."""
    width = 2 * _MARGIN + max([_MIN_WIDTH, *(picture.shape[1] for picture, _, _ in rows)])
    height = 3 * _MARGIN + sum(picture.shape[0] + caption_height + _MARGIN for picture, _, _ in rows)
    sheet = Image.new("RGB", (width, height + _MARGIN), _PAPER)
    drawing = ImageDraw.Draw(sheet)
    _write(drawing, (_MARGIN, _MARGIN), title, width=width - 2 * _MARGIN, size=16, fill=_INK, bold=True)
    top = 3 * _MARGIN
    for picture, color, caption in rows:
        below = top + caption_height
        if color:
            drawing.rectangle((_MARGIN - 12, top + 2, _MARGIN - 8, below + picture.shape[0]), fill=color)
        caption(drawing, top, width - 2 * _MARGIN)
        sheet.paste(Image.fromarray(picture), (_MARGIN, below))
        top = below + picture.shape[0] + _MARGIN
    with replacing(path) as partial:
        sheet.save(partial, quality=85)  # .jpg's; a .png has none
