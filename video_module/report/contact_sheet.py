"""Contact sheets of video frames: a model's worst videos, augmented clips, examples and suggested groups."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from video_module.errors import InputError
from video_module.files import check_output, replacing
from video_module.fonts import load_font, shorten
from video_module.report.style import BLUE, ORANGE

_MARGIN, _GAP = 20, 4
_CAPTION_HEIGHT = 44
_NAMES_WIDTH = 96
_MIN_WIDTH = 640
# Number of videos shown in the picture of a group.
_MOST_IN_GROUP = 24
_INK, _FAINT, _PAPER = "#1b1f24", "#5b6570", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A video with its prediction, for the contact sheet and the report."""

    path: str
    label: str
    prediction: str
    score: float
    """Probability of the prediction."""
    label_score: float
    """Probability of the label."""
    frames: np.ndarray
    """uint8 RGB (num_thumbnails, h, w, 3)."""

    @classmethod
    def from_scores(
        cls, path: str, label: str, scores: np.ndarray, class_names: Sequence[str], *, frames: np.ndarray
    ) -> "Strip":
        """Create a strip from the probabilities of all classes and the video's frames."""
        best = int(scores.argmax())
        score, label_score = scores[best], scores[class_names.index(label)]
        return cls(
            path=path, label=label, prediction=class_names[best], score=score, label_score=label_score, frames=frames
        )

    @property
    def is_right(self) -> bool:
        return self.label == self.prediction

    def picture(self) -> np.ndarray:
        """Return the frames side by side with white gaps between them, uint8 RGB (h, W, 3)."""
        return _join(self.frames, axis=1)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Clips of one video, each shown as a row of frames."""

    title: str
    note: str
    """A smaller line below the title."""
    clips: Sequence[np.ndarray]
    """uint8 RGB (T, H, W, 3) each, of one size."""
    names: Sequence[str]
    """Names of the clips, written beside them; "" for none."""

    def picture(self, *, num_thumbnails: int = 8, height: int = 96) -> np.ndarray:
        """Return a row of frames for each clip, behind its name, scaled to `height`: uint8 RGB (h, w, 3)."""
        rows = []
        for clip, name in zip(self.clips, self.names, strict=True):
            chosen = clip[np.linspace(0, len(clip) - 1, min(num_thumbnails, len(clip))).round().astype(int)]
            size = (round(height * clip.shape[2] / clip.shape[1]), height)
            frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in chosen]
            row = _join(frames, axis=1)
            rows.append(_put_name_before(name, row) if name else row)
        return _join(rows, axis=0)


def worst_videos(video_scores: np.ndarray, labels: np.ndarray, *, count: int = 12) -> list[int]:
    """Return the `count` worst rows of `video_scores` (N, K): wrong ones first, then by probability of the label."""
    label_scores = video_scores[np.arange(len(labels)), labels]
    right = video_scores.argmax(axis=1) == labels
    # lexsort sorts by its last key first.
    return np.lexsort((label_scores, right))[:count].tolist()


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A picture on a sheet, with an optional caption above it and a bar in `color` beside it."""

    picture: np.ndarray
    headline: Sequence[tuple[str, bool]] = ()
    """Parts of a line: (text, whether it is a name). Names are bold."""
    note: str = ""
    color: str = BLUE

    @property
    def caption_height(self) -> int:
        return _CAPTION_HEIGHT if self.headline else 0


def write_contact_sheet(path: Path, strips: Sequence[Strip], *, title: str) -> None:
    """Write the strips below each other as a PNG, each with its label, prediction and scores above the frames."""
    blocks = []
    for strip in strips:
        # The verdict is also written, because the colour of the bar is lost in greyscale.
        headline = [
            (f"{'right' if strip.is_right else 'wrong'}: label ", False),
            (strip.label, True),
            (f" {strip.label_score:.0%}, predicted ", False),
            (strip.prediction, True),
            (f" {strip.score:.0%}", False),
        ]
        color = BLUE if strip.is_right else ORANGE
        blocks.append(_Block(picture=strip.picture(), headline=headline, note=strip.path, color=color))
    _write_sheet(path, blocks, title=title)


def write_preview(path: Path, previews: Sequence[Preview], *, title: str) -> None:
    """Write the clips of each video, one video below the other, as PNG or JPEG."""
    blocks = [_Block(picture=video.picture(), headline=[(video.title, True)], note=video.note) for video in previews]
    _write_sheet(path, blocks, title=title)


def check_group_sheets(folder: Path) -> None:
    """Raise InputError if write_group_sheets() would replace anything but its earlier pictures."""
    check_output(folder, folder=True)
    if others := sorted(path.name for path in folder.glob("*") if not path.name.startswith("suggested_")):
        raise InputError(f"{folder}: contains {others[0]} besides earlier pictures; move it, or choose another name")


def write_group_sheets(folder: Path, groups: Mapping[str, Sequence[Callable[[], Preview]]]) -> None:
    """Write a JPEG for each group of at least two videos. Its videos are read when it is drawn."""
    with replacing(folder) as partial:
        partial.mkdir()
        for name, members in groups.items():
            if len(members) > 1:
                shown = f" (first {_MOST_IN_GROUP} shown)" if len(members) > _MOST_IN_GROUP else ""
                previews = [read() for read in members[:_MOST_IN_GROUP]]
                write_preview(partial / f"{name}.jpg", previews, title=f"{name}: {len(members)} videos{shown}")


def write_examples(path: Path, rows: Mapping[str, np.ndarray], *, title: str) -> None:
    """Write a row of frames for each video, uint8 RGB (num_thumbnails, h, w, 3), behind its name."""
    pictures = [_put_name_before(name, _join(frames, axis=1)) for name, frames in rows.items()]
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in pictures]
    _write_sheet(path, [_Block(picture=_join(padded, axis=0))], title=title)


def _join(pictures: Sequence[np.ndarray], *, axis: int) -> np.ndarray:
    """Join pictures (h, w, 3) along `axis` with white gaps between them."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)


def _put_name_before(name: str, row: np.ndarray) -> np.ndarray:
    """Put a name to the left of a row of frames, uint8 RGB (h, w, 3)."""
    head = Image.new("RGB", (_NAMES_WIDTH, len(row)), _PAPER)
    _write(ImageDraw.Draw(head), (0, len(row) / 2 - 8), name, width=_NAMES_WIDTH - 8, size=12)
    return np.concatenate([np.asarray(head), row], axis=1)


def _write(drawing: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *, width, size, bold=False, fill=_INK):
    """Write one line, shortened to `width` pixels. Returns the position of its end."""
    font = load_font(size, bold=bold)
    text = shorten(text, font, width)
    drawing.text(place, text, fill=fill, font=font)
    return place[0] + font.getlength(text)


def _write_sheet(path: Path, blocks: Sequence[_Block], *, title: str) -> None:
    """Write the blocks below each other under a title, as PNG or JPEG by the suffix."""
    room = max([_MIN_WIDTH, *(block.picture.shape[1] for block in blocks)])
    height = sum(block.caption_height + len(block.picture) + _MARGIN for block in blocks)
    sheet = Image.new("RGB", (room + 2 * _MARGIN, height + 4 * _MARGIN), _PAPER)
    drawing = ImageDraw.Draw(sheet)
    _write(drawing, (_MARGIN, _MARGIN), title, width=room, size=16, bold=True)
    top = 3 * _MARGIN
    for block in blocks:
        below = top + block.caption_height
        bottom = below + len(block.picture)
        if block.headline:
            drawing.rectangle((_MARGIN - 12, top + 2, _MARGIN - 8, bottom), fill=block.color)
            # Two names share the line with other words, which take less than 260 pixels.
            name_width = room if len(block.headline) == 1 else room / 2 - 130
            left = _MARGIN
            for text, is_name in block.headline:
                width = name_width if is_name else room
                left = _write(drawing, (left, top), text, width=width, size=14, bold=is_name)
            _write(drawing, (_MARGIN, top + 21), block.note, width=room, size=12, fill=_FAINT)
        sheet.paste(Image.fromarray(block.picture), (_MARGIN, below))
        top = bottom + _MARGIN
    with replacing(path) as partial:
        sheet.save(partial, quality=85)  # for JPEG; ignored for PNG
