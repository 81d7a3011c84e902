"""`Font`: DejaVu Sans, and for what it has no shapes of a font of this system that has them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from lightning_saliency.visualization.theme import Color

Weight: TypeAlias = Literal["", "-Bold"]

_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_FROM_THE_RIGHT = re.compile(rf"({_LETTER}(?:[\s\-'_.]*{_LETTER})*)")
"""Words of Hebrew, Arabic and other scripts that are written from the right to the left."""


@dataclass(frozen=True)
class Font:
    """A font of a size in pixels, which writes any script that a font of this system has.

    DejaVu Sans, which ships inside matplotlib, has Latin, Greek, Cyrillic, Arabic and more, but neither Chinese,
    Japanese, Korean nor most scripts of India.

    Attributes:
        size: In pixels.
        weight: Empty, or `-Bold`.

    Example:
        >>> Font(16).getlength("cat") > Font(8).getlength("cat")
        True
    """

    size: int
    weight: Weight = ""
    primary: ImageFont.FreeTypeFont = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "primary", _load(_dejavu(self.weight), self.size))

    @property
    def ascent(self) -> int:
        """The height above the baseline, in pixels."""
        return int(self.primary.getmetrics()[0])

    @property
    def height(self) -> int:
        """The distance from one line to the next, in pixels."""
        return sum(self.primary.getmetrics())

    def getlength(self, text: str) -> float:
        """Return the width of a line, in pixels."""
        if text.isascii():
            return self.primary.getlength(text)
        return sum(font.getlength(run) for run, font in self._runs(text))

    def write(self, draw: ImageDraw.ImageDraw, x: float, baseline: float, text: str, color: Color) -> None:
        """Write a line from its left end on."""
        for run, font in self._runs(text):
            draw.text((x, baseline), run, fill=color, font=font, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """Yield the parts of a text, each with a font that has its characters, and of one direction of writing."""
        own = _characters(_dejavu(self.weight))
        for part in filter(None, _FROM_THE_RIGHT.split(text)):  # else the numbers beside a name would go around it
            for path, run in groupby(part, key=lambda one: "" if ord(one) in own else _fallback(one)):
                yield "".join(run), _load(path, self.size) if path else self.primary


@lru_cache
def get_font(size: int, weight: Weight = "") -> Font:
    """Return the font at a size in pixels."""
    return Font(size, weight)


def _dejavu(weight: Weight) -> str:
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{weight}.ttf"))


@lru_cache(maxsize=256)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache
def _characters(path: str) -> frozenset[int]:
    """Return the characters that a font has shapes of."""
    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=4096)
def _fallback(character: str) -> str:
    """Return the file of a font of this system that has a character; empty, and said once, where there is none."""
    path = next((path for path in _system_fonts() if ord(character) in _characters(path)), "")
    if not path:
        _warn_once()
    return path


@lru_cache
def _warn_once() -> None:
    warnings.warn(
        "No font of this system has all characters of the class names, so that pictures show empty boxes in their "
        "place. Install one for their script, such as Noto Sans.",
        stacklevel=2,
    )


@lru_cache
def _system_fonts() -> tuple[str, ...]:
    """Return the fonts of this system that can be read, upright ones of usual weight first."""
    paths = sorted(findSystemFonts(), key=lambda path: ("Regular" not in Path(path).stem, len(Path(path).stem), path))
    return tuple(path for path in paths if _is_readable(path))


def _is_readable(path: str) -> bool:
    try:
        _characters(path)
    except (OSError, RuntimeError):  # a damaged file, or one of bitmaps, in somebody's folder
        return False
    return True
