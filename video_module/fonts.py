"""Fonts for pictures. DejaVu comes with matplotlib and covers Latin, Greek and Cyrillic."""

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=16)
def load_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans at `size` pixels."""
    return ImageFont.truetype(str(FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Shorten text wider than `width` pixels and add an ellipsis, keeping at least one letter."""
    while font.getlength(text) > width and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    return text
