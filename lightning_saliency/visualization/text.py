"""Words on a picture: the font, lines that fit a width, and lines at their place."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
from PIL import ImageDraw, ImageFont

from lightning_saliency._names import one_line
from lightning_saliency.visualization.theme import Color


@lru_cache
def get_font(size: int, weight: Literal["", "-Bold"] = "") -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which ships inside matplotlib, at a size in pixels."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{weight}.ttf")
    return ImageFont.truetype(str(path), size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """Return the distance from one line to the next, in pixels."""
    return sum(font.getmetrics())


def cut_line(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a line that is wider than `width` pixels, and end it with "…"; line ends within it are spaces."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    return text[: _count_fitting(text, font, width, "…")].rstrip(" ·,;:") + "…"


def cut_label(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut a line like "class · 24%" in its first part, so that the last is seen."""
    text = one_line(text)
    first, dot, last = text.rpartition(" · ")
    rest = width - math.ceil(font.getlength(dot + last))
    return cut_line(first, font, rest) + dot + last if rest > width // 3 else cut_line(text, font, width)


@lru_cache(maxsize=1024)  # the same captions stand on several sheets
def wrap_lines(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> tuple[str, ...]:
    """Break a text into lines no wider than `width` pixels; what is left after the last line is cut with "…"."""
    text = one_line(text)
    if lines < 2 or font.getlength(text) <= width:
        return (cut_line(text, font, width),) if text else ()
    fitting = max(_count_fitting(text, font, width), 1)
    dot, space = text.rfind(" · ", 0, fitting + 3), text.rfind(" ", 0, fitting + 1)
    joint = max(text.rfind(mark, 0, fitting) for mark in "_-/.,") + 1
    semicolon = text.rfind("; ", 0, fitting + 1)
    if semicolon > fitting // 3:
        end, begin = semicolon + 1, semicolon + 2
    elif dot > 2 * fitting // 3 or (dot > 0 and font.getlength(text[dot + 3 :]) <= (lines - 1) * width):
        end, begin = dot, dot + 3
    elif space > fitting // 3:
        end, begin = space, space + 1
    else:  # one long word: at best behind one of its joints
        end = begin = joint if joint > fitting // 3 else fitting
    return (text[:end], *wrap_lines(text[begin:], font, width, lines - 1))


@dataclass(frozen=True)
class TextBlock:
    """A few lines of text and where they stand.

    Attributes:
        lines: From top to bottom.
        x: Their left edge, or their middle if they are centered, in pixels.
        top: The top of the first line, in pixels.
        font: The font.
        color: The color.
        centered: Whether each line is centered on `x`.
    """

    lines: Sequence[str]
    x: int
    top: int
    font: ImageFont.FreeTypeFont
    color: Color
    centered: bool = False

    def write(self, draw: ImageDraw.ImageDraw) -> None:
        """Write the lines on a page."""
        ascent, pitch = self.font.getmetrics()[0], line_height(self.font)
        for index, line in enumerate(self.lines):
            baseline = (self.x, self.top + index * pitch + ascent)
            draw.text(baseline, line, fill=self.color, font=self.font, anchor="ms" if self.centered else "ls")


def _count_fitting(text: str, font: ImageFont.FreeTypeFont, width: int, tail: str = "") -> int:
    """Return how many characters of a text fit a width, with a tail behind them."""
    return bisect_right(
        range(1, len(text) + 1), width, key=lambda count: math.ceil(font.getlength(text[:count].rstrip() + tail))
    )
