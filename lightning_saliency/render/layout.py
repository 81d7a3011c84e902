"""Where everything stands on a sheet of pictures, and the words on it."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_saliency.render.pixels import color_table

Colour = tuple[int, int, int]

# The sheet's palette: dark ink on white, like a page. Green and red are Okabe and Ito's bluish green and vermilion,
# darkened until they read well on white; the marks say the same without any colour.
PAPER, FRAME = 255, 218  # greys
INK: Colour = (32, 33, 36)
QUIET: Colour = (104, 108, 114)
VERDICTS: dict[bool | None, tuple[str, Colour]] = {
    True: ("✓ ", (0, 114, 84)),
    False: ("✗ ", (184, 66, 0)),
    None: ("", INK),
}
BAND = (18, 19, 22, 205)
ON_BAND: Colour = (255, 255, 255)

_LEAST_SLOT = (56, 128)  # (height, width) kept free for a cell however thin it is, so that words find room


@dataclass(frozen=True)
class Caption:
    """What stands above a row of a `grid`.

    Args:
        text: The words. What is too long for two lines is cut with "…".
        correct: Whether the prediction is right: the text is green after a ✓ for True, red after a ✗ for False, and
            neutral for None.

    Example:
        >>> Caption("true: cat · predicted: dog 93 %", correct=False)
        Caption(text='true: cat · predicted: dog 93 %', correct=False)
    """

    text: str
    correct: bool | None = None


@lru_cache
def font_of(size: int, weight: Literal["", "-Bold"] = "") -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships inside matplotlib."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{weight}.ttf")
    return ImageFont.truetype(str(path), size)


def line_height(font: ImageFont.FreeTypeFont) -> int:
    """From one line to the next."""
    return sum(font.getmetrics())


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int, tail: str = "") -> int:
    """How many characters of a text fit a width, with a tail behind them."""
    return bisect_right(
        range(1, len(text) + 1), width, key=lambda n: math.ceil(font.getlength(text[:n].rstrip() + tail))
    )


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, font, width, "…")].rstrip(" ·,;:") + "…"


@lru_cache(maxsize=1024)  # the same captions stand on several sheets
def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> tuple[str, ...]:
    """Break a text into lines no wider than `width`; what is left after the last line is cut with "…"."""
    text = " ".join(text.split())
    if lines < 2 or font.getlength(text) <= width:
        return (_cut(text, font, width),) if text else ()
    fitting = max(_fitting(text, font, width), 1)
    dot, space = text.rfind(" · ", 0, fitting + 3), text.rfind(" ", 0, fitting + 1)
    joint = max(text.rfind(mark, 0, fitting) for mark in "_-/.,") + 1
    if dot > 2 * fitting // 3 or (dot > 0 and font.getlength(text[dot + 3 :]) <= (lines - 1) * width):
        end, begin = dot, dot + 3
    elif space > fitting // 3:
        end, begin = space, space + 1
    else:  # one long word: at best behind one of its joints
        end = begin = joint if joint > fitting // 3 else fitting
    return (text[:end], *wrap(text[begin:], font, width, lines - 1))


@dataclass(frozen=True)
class Words:
    """A few lines of text and where they stand: `x` is their left edge, or their middle if they are centred."""

    lines: Sequence[str]
    x: int
    top: int
    font: ImageFont.FreeTypeFont
    colour: Colour
    centred: bool = False

    def write(self, draw: ImageDraw.ImageDraw) -> None:
        """Draw them."""
        ascent, pitch = self.font.getmetrics()[0], line_height(self.font)
        for i, line in enumerate(self.lines):
            at = (self.x, self.top + i * pitch + ascent)
            draw.text(at, line, fill=self.colour, font=self.font, anchor="ms" if self.centred else "ls")


@dataclass(frozen=True)
class Sheet:
    """Where everything stands, in pixels. A slot is the room of a cell, which is centred in it."""

    em: int
    cell: tuple[int, int]
    slot: tuple[int, int]
    rows_top: int
    strip: int
    row_pitch: int
    foot_bottom: int
    size: tuple[int, int]

    @property
    def margin(self) -> int:
        """Around everything."""
        return 2 * self.em

    @property
    def column_pitch(self) -> int:
        """From one column to the next."""
        return self.slot[1] + self.em

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The (top, left) of a slot."""
        return self.rows_top + row * self.row_pitch + self.strip, self.margin + column * self.column_pitch


def plan(
    cells: Tensor,
    title: str,
    heads: Sequence[str],
    captions: Sequence[Caption],
    labels: Sequence[Sequence[Caption]],
    note: str,
    title_lines: int = 2,
) -> tuple[Sheet, list[Words]]:
    """Break all words into lines, and give each thing its place."""
    rows, columns, *cell = cells.shape[:4]
    slot = (max(cell[0], _LEAST_SLOT[0]), max(cell[1], _LEAST_SLOT[1]))
    em = min(15, max(13, slot[1] // 14))
    inner = columns * (slot[1] + em) - em
    large, text, small = font_of(em + 4, "-Bold"), font_of(em), font_of(em - 2)
    top_lines = wrap(title, large, inner, title_lines)
    head_lines = [wrap(name, text, slot[1]) for name in heads]
    strips = [wrap(VERDICTS[caption.correct][0] + caption.text, text, inner) for caption in captions]
    note_lines = wrap(note, small, inner, lines=3)

    margin, line = 2 * em, line_height(text)
    heads_top = margin + len(top_lines) * line_height(large) + (em if top_lines else 0)
    tallest = max(map(len, head_lines))
    rows_top = heads_top + tallest * line + (em if captions else em // 2)
    strip = max(map(len, strips), default=0) * line
    strip += em // 2 if strip else 0
    below = line + em // 4 if any(labels) else 0
    row_pitch = strip + slot[0] + below + (3 * em // 2 if strip else em)
    foot_top = rows_top + rows * row_pitch
    foot = len(note_lines)
    if columns > 1 and (not foot or small.getlength(note_lines[-1]) + 2 * em + _scale_width(em) > inner):
        foot += 1  # the scale of colours stands beside the note's last line, or alone
    foot_bottom = foot_top + foot * line_height(small)
    size = (foot_bottom + (3 * em // 2 if foot else em), inner + 2 * margin)
    sheet = Sheet(em, (cell[0], cell[1]), slot, rows_top, strip, row_pitch, foot_bottom, size)

    words = [Words(top_lines, margin, margin, large, INK), Words(note_lines, margin, foot_top, small, QUIET)]
    for column, lines in enumerate(head_lines):
        middle = sheet.corner(0, column)[1] + slot[1] // 2
        words.append(Words(lines, middle, heads_top + (tallest - len(lines)) * line, text, QUIET, centred=True))
    for row, (caption, lines) in enumerate(zip(captions, strips, strict=True)):
        top = sheet.corner(row, 0)[0] - em // 2 - len(lines) * line
        words.append(Words(lines, margin, top, text, VERDICTS[caption.correct][1]))
    for column, column_labels in enumerate(labels):
        for row, label in enumerate(column_labels):
            mark, colour = VERDICTS[label.correct]
            top, left = sheet.corner(row, column)
            words.append(
                Words(
                    [_cut(mark + label.text, text, slot[1])],
                    left + slot[1] // 2,
                    top + slot[0] + em // 4,
                    text,
                    colour,
                    centred=True,
                )
            )
    return sheet, words


def paste(cells: Tensor, sheet: Sheet) -> Tensor:
    """All cells on the sheet at once, each in a thin frame: `(H', W', 3)`."""
    rows, columns, height, width = cells.shape[:4]
    canvas = torch.full((*sheet.size, 3), PAPER, dtype=torch.uint8)
    # one pixel further up and left than the slots, since that is where the frames begin
    body = canvas[sheet.rows_top - 1 :, sheet.margin - 1 :][: rows * sheet.row_pitch, : columns * sheet.column_pitch]
    top, left = sheet.strip + (sheet.slot[0] - height) // 2, (sheet.slot[1] - width) // 2
    slots = body.view(rows, sheet.row_pitch, columns, sheet.column_pitch, 3).transpose(1, 2)
    slots[:, :, top : top + height + 2, left : left + width + 2] = FRAME
    slots[:, :, top + 1 : top + 1 + height, left + 1 : left + 1 + width] = cells
    return canvas


def _scale_width(em: int) -> int:
    font = font_of(em - 2)
    return 6 * em + em + round(font.getlength("low") + font.getlength("high"))


def draw_scale(page: Image.Image, draw: ImageDraw.ImageDraw, sheet: Sheet, colormap: str) -> None:
    """The colour map as a strip at the bottom right, from low to high."""
    em, font = sheet.em, font_of(sheet.em - 2)
    left, top = sheet.size[1] - sheet.margin - _scale_width(em), sheet.foot_bottom - line_height(font)
    begin = left + round(font.getlength("low")) + em // 2
    colours = color_table(colormap)[torch.linspace(0, 255, 6 * em).long()]
    bar = Image.fromarray(colours.repeat(2 * em // 3, 1, 1).numpy())
    page.paste(bar, (begin, top + (line_height(font) - bar.height) // 2))
    Words(["low"], left, top, font, QUIET).write(draw)
    Words(["high"], begin + bar.width + em // 2, top, font, QUIET).write(draw)
