"""Overlays of many samples as one labelled sheet: rows, columns, words, and the colour scale."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_saliency.render.pixels import check_alpha, check_heatmaps, check_images, color_table, overlay

_Colour = tuple[int, int, int]

# The sheet's palette: dark ink on white, like a page. Green and red are Okabe and Ito's bluish green and vermilion,
# darkened until they read well on white; the marks say the same without any colour.
_PAPER, _FRAME = 255, 218  # greys
_INK: _Colour = (32, 33, 36)
_QUIET: _Colour = (104, 108, 114)
_VERDICTS: dict[bool | None, tuple[str, _Colour]] = {
    True: ("✓ ", (0, 114, 84)),
    False: ("✗ ", (184, 66, 0)),
    None: ("", _INK),
}
_BAND = (18, 19, 22, 205)
_ON_BAND: _Colour = (255, 255, 255)

_LEAST_SIDE, _USUAL_SIDE, _MOST_SIDE = 128, 192, 256  # of a cell, in pixels
_LEAST_SLOT = (56, 128)  # (height, width) kept free for a cell however thin it is, so that words find room
_DIM = 0.5  # the brightness of a blank cell's image


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


def grid(
    images: Tensor,
    heatmaps: Mapping[str, Tensor],
    *,
    title: str = "",
    captions: Sequence[Caption] | None = None,
    blanks: Mapping[str, Sequence[str | None]] | None = None,
    labels: Mapping[str, Sequence[Caption]] | None = None,
    note: str = "",
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> Tensor:
    """Draw one sheet: a row per sample, its image first, then the image under each of its heatmaps, or other pictures.

    The larger side of a cell is between 128 and 256 pixels. Smaller images are enlarged by a whole factor, so that each
    pixel stays a crisp square, while their heatmaps are interpolated; larger images are reduced with antialiasing.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them.
        heatmaps: For each column's title a `(N, 1, h, w)` in [0, 1], commonly at the images' size, or pictures that are
            shown as they are, uint8 `(N, 3, h, w)`. Columns stand in the mapping's order.
        title: Stands on top, such as "epoch 12".
        captions: One for each row.
        blanks: For a column's title and each row the reason why that heatmap is blank, or None where it is not. A blank
            cell shows the plain image, dimmed, with the reason written on it.
        labels: For a column's title and each row what stands below that cell, such as the class that it shows.
        note: Stands small at the bottom.
        colormap: The name of a matplotlib colour map. A strip at the bottom shows its colours from low to high.
        alpha: The weight of the colour, in [0, 1].

    Returns:
        `(3, H', W')`, uint8, on the CPU.

    Raises:
        ValueError: If a shape, a dtype, a range or a length differs from the above, if `blanks` or `labels` name a
            column that `heatmaps` lacks, or if no colour map has that name.

    Example:
        >>> images, heatmaps = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.rand(2, 1, 64, 64)
        >>> sheet = grid(images, {"Grad-CAM": heatmaps}, title="epoch 12")
        >>> sheet.dtype, sheet.ndim
        (torch.uint8, 3)
    """
    blanks, labels = blanks or {}, labels or {}
    _check_grid(images, heatmaps, captions, blanks, labels)
    check_alpha(alpha)
    cells = _cells(images.cpu(), heatmaps, blanks, colormap, alpha)
    below = [labels.get(name, ()) for name in ("", *heatmaps)]
    sheet, words = _plan(cells, title, ("image", *heatmaps), captions or (), below, note)
    page = Image.fromarray(_paste(cells, sheet).numpy())
    draw = ImageDraw.Draw(page, "RGBA")  # this mode blends translucent fills
    for piece in words:
        piece.write(draw)
    for column, name in enumerate(heatmaps, start=1):
        for row, reason in enumerate(blanks.get(name, ())):
            if reason is not None:
                _write_reason(draw, sheet, row, column, reason)
    if any(_is_heatmap(maps) for maps in heatmaps.values()):
        _draw_scale(page, draw, sheet, colormap)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1).contiguous()


def _check_grid(
    images: Tensor,
    heatmaps: Mapping[str, Tensor],
    captions: Sequence[Caption] | None,
    blanks: Mapping[str, Sequence[str | None]],
    labels: Mapping[str, Sequence[Caption]],
) -> None:
    check_images(images)
    count = len(images)
    for name, maps in heatmaps.items():
        if _is_heatmap(maps):
            check_heatmaps(f"heatmaps[{name!r}]", maps)
        else:
            check_images(maps)
        if len(maps) != count:
            raise ValueError(f"Expected `heatmaps[{name!r}]` to hold {count} maps, one per image, got {len(maps)}")
    if captions is not None and len(captions) != count:
        raise ValueError(f"Expected `captions` to hold {count} captions, one per image, got {len(captions)}")
    for name, reasons in blanks.items():
        if name not in heatmaps:
            raise ValueError(f"Expected `blanks` to name columns among {list(heatmaps)}, got {name!r}")
        if isinstance(reasons, str) or len(reasons) != count:
            raise ValueError(f"Expected `blanks[{name!r}]` to hold {count} reasons or None, got {reasons!r}")
    for name, below in labels.items():
        if name not in heatmaps:
            raise ValueError(f"Expected `labels` to name columns among {list(heatmaps)}, got {name!r}")
        if len(below) != count:
            raise ValueError(f"Expected `labels[{name!r}]` to hold {count} captions, one per image, got {len(below)}")


def _cell_size(height: int, width: int) -> tuple[int, int]:
    side = max(height, width)
    if side < _LEAST_SIDE:
        factor = max(_USUAL_SIDE // side, -(-_LEAST_SIDE // side))
        return height * factor, width * factor
    shrink = min(1.0, _MOST_SIDE / side)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def _cells(
    images: Tensor,
    heatmaps: Mapping[str, Tensor],
    blanks: Mapping[str, Sequence[str | None]],
    colormap: str,
    alpha: float,
) -> Tensor:
    """All cells at their final size, `(N, columns, h, w, 3)`."""
    size = _cell_size(*images.shape[2:])
    images = _enlarge(images, size)
    columns = [images]
    for name, maps in heatmaps.items():
        if not _is_heatmap(maps):
            columns.append(_enlarge(maps.cpu(), size))
            continue
        over = overlay(images, _resize(maps.detach().float().cpu(), size).clamp_(0, 1), colormap, alpha)
        blank = torch.tensor([reason is not None for reason in blanks.get(name, [None] * len(images))])
        over[blank] = (images[blank] * _DIM).round().to(torch.uint8)
        columns.append(over)
    return torch.stack(columns, dim=1).permute(0, 1, 3, 4, 2)


def _is_heatmap(maps: Tensor) -> bool:
    return maps.dtype != torch.uint8


def _enlarge(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Small images with crisp pixels, larger ones reduced with antialiasing."""
    small = max(images.shape[2:]) < _LEAST_SIDE
    return F.interpolate(images, size=size, mode="nearest") if small else _resize(images, size)


@lru_cache
def _font(size: int, weight: Literal["", "-Bold"] = "") -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{weight}.ttf")
    return ImageFont.truetype(str(path), size)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
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


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 2) -> list[str]:
    """Break a text into lines no wider than `width`; what is left after the last line is cut with "…"."""
    text = " ".join(text.split())
    if lines < 2 or font.getlength(text) <= width:
        return [_cut(text, font, width)] if text else []
    fitting = max(_fitting(text, font, width), 1)
    dot, space = text.rfind(" · ", 0, fitting + 3), text.rfind(" ", 0, fitting + 1)
    joint = max(text.rfind(mark, 0, fitting) for mark in "_-/.,") + 1
    if dot > 2 * fitting // 3 or (dot > 0 and font.getlength(text[dot + 3 :]) <= (lines - 1) * width):
        end, begin = dot, dot + 3
    elif space > fitting // 3:
        end, begin = space, space + 1
    else:  # one long word: at best behind one of its joints
        end = begin = joint if joint > fitting // 3 else fitting
    return [text[:end], *_wrap(text[begin:], font, width, lines - 1)]


@dataclass(frozen=True)
class _Words:
    """A few lines of text and where they stand: `x` is their left edge, or their middle if they are centred."""

    lines: Sequence[str]
    x: int
    top: int
    font: ImageFont.FreeTypeFont
    colour: _Colour
    centred: bool = False

    def write(self, draw: ImageDraw.ImageDraw) -> None:
        ascent, pitch = self.font.getmetrics()[0], _line_height(self.font)
        for i, line in enumerate(self.lines):
            at = (self.x, self.top + i * pitch + ascent)
            draw.text(at, line, fill=self.colour, font=self.font, anchor="ms" if self.centred else "ls")


@dataclass(frozen=True)
class _Sheet:
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
        return 2 * self.em

    @property
    def column_pitch(self) -> int:
        return self.slot[1] + self.em

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The (top, left) of a slot."""
        return self.rows_top + row * self.row_pitch + self.strip, self.margin + column * self.column_pitch


def _plan(
    cells: Tensor,
    title: str,
    heads: Sequence[str],
    captions: Sequence[Caption],
    labels: Sequence[Sequence[Caption]],
    note: str,
) -> tuple[_Sheet, list[_Words]]:
    """Break all words into lines, and give each thing its place."""
    rows, columns, *cell = cells.shape[:4]
    slot = (max(cell[0], _LEAST_SLOT[0]), max(cell[1], _LEAST_SLOT[1]))
    em = min(15, max(13, slot[1] // 14))
    inner = columns * (slot[1] + em) - em
    large, text, small = _font(em + 4, "-Bold"), _font(em), _font(em - 2)
    title_lines = _wrap(title, large, inner)
    head_lines = [_wrap(name, text, slot[1]) for name in heads]
    strips = [_wrap(_VERDICTS[caption.correct][0] + caption.text, text, inner) for caption in captions]
    note_lines = _wrap(note, small, inner, lines=3)

    margin, line = 2 * em, _line_height(text)
    heads_top = margin + len(title_lines) * _line_height(large) + (em if title_lines else 0)
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
    foot_bottom = foot_top + foot * _line_height(small)
    size = (foot_bottom + (3 * em // 2 if foot else em), inner + 2 * margin)
    sheet = _Sheet(em, (cell[0], cell[1]), slot, rows_top, strip, row_pitch, foot_bottom, size)

    words = [_Words(title_lines, margin, margin, large, _INK), _Words(note_lines, margin, foot_top, small, _QUIET)]
    for column, lines in enumerate(head_lines):
        middle = sheet.corner(0, column)[1] + slot[1] // 2
        words.append(_Words(lines, middle, heads_top + (tallest - len(lines)) * line, text, _QUIET, centred=True))
    for row, (caption, lines) in enumerate(zip(captions, strips, strict=True)):
        top = sheet.corner(row, 0)[0] - em // 2 - len(lines) * line
        words.append(_Words(lines, margin, top, text, _VERDICTS[caption.correct][1]))
    for column, column_labels in enumerate(labels):
        for row, label in enumerate(column_labels):
            mark, colour = _VERDICTS[label.correct]
            top, left = sheet.corner(row, column)
            words.append(
                _Words(
                    [_cut(mark + label.text, text, slot[1])],
                    left + slot[1] // 2,
                    top + slot[0] + em // 4,
                    text,
                    colour,
                    centred=True,
                )
            )
    return sheet, words


def _paste(cells: Tensor, sheet: _Sheet) -> Tensor:
    """All cells on the sheet at once, each in a thin frame: `(H', W', 3)`."""
    rows, columns, height, width = cells.shape[:4]
    canvas = torch.full((*sheet.size, 3), _PAPER, dtype=torch.uint8)
    # one pixel further up and left than the slots, since that is where the frames begin
    body = canvas[sheet.rows_top - 1 :, sheet.margin - 1 :][: rows * sheet.row_pitch, : columns * sheet.column_pitch]
    top, left = sheet.strip + (sheet.slot[0] - height) // 2, (sheet.slot[1] - width) // 2
    slots = body.view(rows, sheet.row_pitch, columns, sheet.column_pitch, 3).transpose(1, 2)
    slots[:, :, top : top + height + 2, left : left + width + 2] = _FRAME
    slots[:, :, top + 1 : top + 1 + height, left + 1 : left + 1 + width] = cells
    return canvas


def _write_reason(draw: ImageDraw.ImageDraw, sheet: _Sheet, row: int, column: int, reason: str) -> None:
    font, pad = _font(sheet.em), sheet.em // 2
    pitch = _line_height(font)
    lines = _wrap(reason or "blank", font, sheet.slot[1] - 2 * pad, lines=(sheet.slot[0] - 2 * pad) // pitch)
    top, left = sheet.corner(row, column)
    middle, half = left + sheet.slot[1] // 2, (len(lines) * pitch) // 2 + pad
    broad = sheet.cell[1] if sheet.cell[1] > sheet.slot[1] // 2 else sheet.slot[1]
    begin = top + sheet.slot[0] // 2 - half
    draw.rectangle((middle - broad // 2, begin, middle - broad // 2 + broad - 1, begin + 2 * half - 1), fill=_BAND)
    _Words(lines, middle, begin + pad, font, _ON_BAND, centred=True).write(draw)


def _scale_width(em: int) -> int:
    font = _font(em - 2)
    return 6 * em + em + round(font.getlength("low") + font.getlength("high"))


def _draw_scale(page: Image.Image, draw: ImageDraw.ImageDraw, sheet: _Sheet, colormap: str) -> None:
    """The colour map as a strip at the bottom right, from low to high."""
    em, font = sheet.em, _font(sheet.em - 2)
    left, top = sheet.size[1] - sheet.margin - _scale_width(em), sheet.foot_bottom - _line_height(font)
    begin = left + round(font.getlength("low")) + em // 2
    colours = color_table(colormap)[torch.linspace(0, 255, 6 * em).long()]
    bar = Image.fromarray(colours.repeat(2 * em // 3, 1, 1).numpy())
    page.paste(bar, (begin, top + (_line_height(font) - bar.height) // 2))
    _Words(["low"], left, top, font, _QUIET).write(draw)
    _Words(["high"], begin + bar.width + em // 2, top, font, _QUIET).write(draw)
