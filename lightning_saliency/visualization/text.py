"""Words on a picture: lines that fit a width, and lines at their place."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageDraw

from lightning_saliency._names import one_line
from lightning_saliency.visualization.fonts import Font
from lightning_saliency.visualization.theme import Color

_NAME_LENGTHS = (40, 32, 26, 20, 16, 12, 9)
"""To how many characters names are shortened, until the words fit."""

_JOINT = re.compile(r"[_\-/.,]|[a-z](?=[A-Z])")
"""Where a long word is broken best: behind a mark, or before a capital letter inside it."""


def cut_line(text: str, font: Font, width: int) -> str:
    """Cut a line that is wider than `width` pixels, and end it with "…"; line ends within it are spaces."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    return text[: _count_fitting(text, font, width, "…")].rstrip(" ·,;:") + "…"


def shorten(name: str, length: int) -> str:
    """Shorten a name in its middle to so many characters.

    Example:
        >>> shorten("soft-coated wheaten terrier", 16)
        'soft-coa…terrier'
    """
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head].rstrip()}…{name[len(name) - (length - head - 1) :].lstrip()}"


@lru_cache(maxsize=1024)  # the same captions stand on several sheets
def fit_lines(text: str, names: tuple[str, ...], font: Font, width: int, lines: int = 2) -> tuple[str, ...]:
    """Break a text into lines; where it is too long, its names are shortened in the middle, so that all else is seen.

    Args:
        text: What is written.
        names: The names in it.
        font: The font.
        width: The most pixels of a line.
        lines: The most lines; what is too long even with short names is cut.
    """
    text, names = one_line(text), tuple(map(one_line, names))
    for length in (max(map(len, names), default=0), *_NAME_LENGTHS):
        shortened = text
        for name in sorted(set(names), key=len, reverse=True):
            shortened = shortened.replace(name, shorten(name, length))
        broken = wrap_lines(shortened, font, width, lines)
        if not broken or not broken[-1].endswith("…") or shortened.endswith("…"):
            return broken
    return broken


@lru_cache(maxsize=1024)
def wrap_lines(text: str, font: Font, width: int, lines: int = 2) -> tuple[str, ...]:
    """Break a text into lines no wider than `width` pixels; what is left after the last line is cut with "…"."""
    text = one_line(text)
    if lines < 2 or font.getlength(text) <= width:
        return (cut_line(text, font, width),) if text else ()
    fitting = max(_count_fitting(text, font, width), 1)
    dot, space = text.rfind(" · ", 0, fitting + 3), text.rfind(" ", 0, fitting + 1)
    joint = max((match.end() for match in _JOINT.finditer(text) if match.end() <= fitting), default=0)
    semicolon = text.rfind("; ", 0, fitting + 1)
    word = text[space + 1 :].partition(" ")[0]  # what a break at the space brings to the next line
    if semicolon > fitting // 3:
        end, begin = semicolon + 1, semicolon + 2
    elif dot > 2 * fitting // 3 or (dot > 0 and font.getlength(text[dot + 3 :]) <= (lines - 1) * width):
        end, begin = dot, dot + 3
    elif space > fitting // 3 or (space > 0 and font.getlength(word) <= width):
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
    font: Font
    color: Color
    centered: bool = False

    def write(self, draw: ImageDraw.ImageDraw) -> None:
        """Write the lines on a page."""
        for index, line in enumerate(self.lines):
            left = self.x - self.font.getlength(line) / 2 if self.centered else self.x
            self.font.write(draw, left, self.top + index * self.font.height + self.font.ascent, line, self.color)


def _count_fitting(text: str, font: Font, width: int, tail: str = "") -> int:
    """Return how many characters of a text fit a width, with a tail behind them."""
    return bisect_right(
        range(1, len(text) + 1), width, key=lambda count: math.ceil(font.getlength(text[:count].rstrip() + tail))
    )
