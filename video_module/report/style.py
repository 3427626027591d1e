"""The style of all charts (matplotlib, without a window). They are readable at README width and in greyscale."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from video_module.files import replacing

STYLE = {
    "font.size": 9,
    "hatch.linewidth": 0.8,
    # matplotlib would take dollar signs in class names for formulas.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.6,
    # At 200 dots per inch, a figure of 8 inches is sharp at README width on high-resolution screens.
    "savefig.dpi": 200,
}
# Blue also differs from the other two in lightness, so adjacent bars are distinct in greyscale.
BLUE, ORANGE, GREY = "#1f5fa8", "#e08a1e", "#9aa3ad"
INK = "#444444"
# With 2,000 bars, a picture would be taller than matplotlib can draw.
MOST_BARS = 400


@contextmanager
def styled(settings: Mapping[str, Any] = STYLE) -> Iterator[None]:
    """Apply the style, as a decorator of a function or as a context manager.

    Use it for both drawing and saving, because matplotlib reads some settings when axes and texts are created and
    others when the figure is saved.
    """
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        # For class names in scripts that DejaVu Sans does not cover, the picture shows boxes. matplotlib would print a
        # warning for every missing letter.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


@styled()
def save(figure: Figure, path: Path) -> None:
    """Write a figure, in the format of the suffix."""
    with replacing(path) as partial:
        figure.savefig(partial)


@styled()
def to_png(figure: Figure, *, transparent: bool = False) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def abbreviate(text: str, length: int) -> str:
    """Shorten a long text in the middle, because names with the same beginning often differ at the end."""
    tail = (length - 1) // 3
    return text if len(text) <= length else f"{text[: length - 1 - tail]}…{text[-tail:]}"


def text_width(texts: Sequence[str], size: float) -> float:
    """Return the width in inches of the longest text in a font of `size` points."""
    font = FontProperties(size=size)
    return max(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts) / 72
