"""Fonts for pictures: DejaVu, which comes with matplotlib and covers Latin, Greek and Cyrillic."""

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=16)
def load_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of `size` pixels."""
    return ImageFont.truetype(str(FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut text that is wider than `width` pixels and add an ellipsis; at least one letter remains."""
    while font.getlength(text) > width and len(text) > 1:
        text = text.removesuffix("…")[:-1] + "…"
    return text
