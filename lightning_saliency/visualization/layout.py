"""Where everything stands on a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.visualization.captions import Caption
from lightning_saliency.visualization.cells import FRAME, PAPER
from lightning_saliency.visualization.colors import color_table
from lightning_saliency.visualization.text import (
    FAINT_INK,
    INK,
    Color,
    TextBlock,
    cut_label,
    cut_line,
    get_font,
    line_height,
    wrap_lines,
)

# Green and red are Okabe and Ito's bluish green and vermilion, darkened until they read well on white; the marks say
# the same without any color.
_MARKS: dict[bool | None, tuple[str, Color]] = {
    True: ("✓ ", (0, 114, 84)),
    False: ("✗ ", (184, 66, 0)),
    None: ("", INK),
}
_BAND = (18, 19, 22, 205)
_ON_BAND: Color = (255, 255, 255)

_LEAST_SLOT = (56, 128)  # (height, width) kept free for a cell however thin it is, so that words find room


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels. A slot is the room for a cell, which is centered in it.

    Attributes:
        em: The size of the usual font, of which margins and gaps are made.
        slot_width: The width of each slot.
        slot_heights: The height of each row's slots.
        slot_tops: Where each row's slots begin.
        headings_top: Where the columns' headings begin.
        foot_top: Where the note begins.
        foot_bottom: Where the note and the color scale end.
        size: (height, width) of the sheet.
    """

    em: int
    slot_width: int
    slot_heights: Sequence[int]
    slot_tops: Sequence[int]
    headings_top: int
    foot_top: int
    foot_bottom: int
    size: tuple[int, int]

    @property
    def margin(self) -> int:
        """Around everything."""
        return 2 * self.em

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return the (top, left) of a slot."""
        return self.slot_tops[row], self.margin + column * (self.slot_width + self.em)


def plan(
    cells: Sequence[Sequence[Tensor]],
    headings: Sequence[str],
    captions: Sequence[Caption],
    labels: Sequence[Sequence[Caption]],
    title: str,
    note: str,
    title_lines: int = 2,
) -> tuple[Layout, list[TextBlock]]:
    """Break all words into lines, and give each thing its place.

    `cells` are those of each row, `(h, w, 3)`; `headings` stand above the columns, `captions` above the rows, and
    `labels`, for each column, below its cells.
    """
    slot_width = max(_LEAST_SLOT[1], *(cell.shape[1] for row in cells for cell in row))
    slot_heights = [max(_LEAST_SLOT[0], *(cell.shape[0] for cell in row)) for row in cells]
    em = min(15, max(13, slot_width // 14))
    inner = len(headings) * (slot_width + em) - em
    large, text, small = get_font(em + 4, "-Bold"), get_font(em), get_font(em - 2)
    top_lines = wrap_lines(title, large, inner, title_lines)
    heading_lines = [wrap_lines(heading, text, slot_width) for heading in headings]
    caption_lines = [wrap_lines(_MARKS[caption.correct][0] + caption.text, text, inner) for caption in captions]
    note_lines = wrap_lines(note, small, inner, lines=3)

    margin, line = 2 * em, line_height(text)
    headings_top = margin + len(top_lines) * line_height(large) + (em if top_lines else 0)
    rows_top = headings_top + max(map(len, heading_lines)) * line + (em if captions else em // 2)
    caption_height = max(map(len, caption_lines), default=0) * line
    caption_height += em // 2 if caption_height else 0
    gap = (line + em // 4 if any(labels) else 0) + (3 * em // 2 if caption_height else em)
    gap += line_height(small) if any(label.detail for column in labels for label in column) else 0
    bottoms = list(accumulate(caption_height + height + gap for height in slot_heights))
    slot_tops = [rows_top + bottom - gap - height for bottom, height in zip(bottoms, slot_heights, strict=True)]
    foot_top = rows_top + bottoms[-1]
    foot = len(note_lines)
    if len(headings) > 1 and (not foot or small.getlength(note_lines[-1]) + 2 * em + _scale_width(em) > inner):
        foot += 1  # the color scale stands beside the note's last line, or alone
    foot_bottom = foot_top + foot * line_height(small)
    size = (foot_bottom + (3 * em // 2 if foot else em), inner + 2 * margin)
    layout = Layout(em, slot_width, slot_heights, slot_tops, headings_top, foot_top, foot_bottom, size)
    return layout, [
        TextBlock(top_lines, margin, margin, large),
        TextBlock(note_lines, margin, foot_top, small, FAINT_INK),
        *_place_words(layout, heading_lines, captions, caption_lines, labels),
    ]


def paste(cells: Sequence[Sequence[Tensor]], layout: Layout) -> Tensor:
    """Put the cells on an empty sheet `(H', W', 3)`, each in a thin frame in the middle of its slot."""
    canvas = torch.full((*layout.size, 3), PAPER, dtype=torch.uint8)
    for row, row_cells in enumerate(cells):
        for column, cell in enumerate(row_cells):
            (top, left), (height, width) = layout.corner(row, column), cell.shape[:2]
            top, left = top + (layout.slot_heights[row] - height) // 2, left + (layout.slot_width - width) // 2
            canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = FRAME
            canvas[top : top + height, left : left + width] = cell
    return canvas


def draw_scale(page: Image.Image, draw: ImageDraw.ImageDraw, layout: Layout, colormap: str) -> None:
    """Draw the color map as a strip at the bottom right, from low to high."""
    em, font = layout.em, get_font(layout.em - 2)
    left, top = layout.size[1] - layout.margin - _scale_width(em), layout.foot_bottom - line_height(font)
    begin = left + round(font.getlength("low")) + em // 2
    colors = color_table(colormap)[torch.linspace(0, 255, 6 * em).long()]
    bar = Image.fromarray(colors.repeat(2 * em // 3, 1, 1).numpy())
    page.paste(bar, (begin, top + (line_height(font) - bar.height) // 2))
    TextBlock(["low"], left, top, font, FAINT_INK).write(draw)
    TextBlock(["high"], begin + bar.width + em // 2, top, font, FAINT_INK).write(draw)


def draw_reason(draw: ImageDraw.ImageDraw, layout: Layout, row: int, column: int, reason: str, cell_width: int) -> None:
    """Write why a cell is blank on a dark band in its middle."""
    font, pad, height, width = get_font(layout.em), layout.em // 2, layout.slot_heights[row], layout.slot_width
    pitch = line_height(font)
    lines = wrap_lines(reason or "blank", font, width - 2 * pad, lines=(height - 2 * pad) // pitch)
    top, left = layout.corner(row, column)
    middle, half = left + width // 2, (len(lines) * pitch) // 2 + pad
    band_width = cell_width if cell_width > width // 2 else width
    band_left, band_top = middle - band_width // 2, top + height // 2 - half
    draw.rectangle((band_left, band_top, band_left + band_width - 1, band_top + 2 * half - 1), fill=_BAND)
    TextBlock(lines, middle, band_top + pad, font, _ON_BAND, centered=True).write(draw)


def _place_words(
    layout: Layout,
    headings: Sequence[Sequence[str]],
    captions: Sequence[Caption],
    caption_lines: Sequence[Sequence[str]],
    labels: Sequence[Sequence[Caption]],
) -> Iterator[TextBlock]:
    em, font, small, half = layout.em, get_font(layout.em), get_font(layout.em - 2), layout.slot_width // 2
    headings_bottom = layout.headings_top + max(map(len, headings)) * line_height(font)
    for column, lines in enumerate(headings):
        top = headings_bottom - len(lines) * line_height(font)
        yield TextBlock(lines, layout.corner(0, column)[1] + half, top, font, FAINT_INK, centered=True)
    for row, (caption, lines) in enumerate(zip(captions, caption_lines, strict=True)):
        top = layout.corner(row, 0)[0] - em // 2 - len(lines) * line_height(font)
        yield TextBlock(lines, layout.margin, top, font, _MARKS[caption.correct][1])
    for column, column_labels in enumerate(labels):
        for row, label in enumerate(column_labels):
            mark, color = _MARKS[label.correct]
            top, left = layout.corner(row, column)
            line = cut_label(mark + label.text, font, layout.slot_width)
            below = top + layout.slot_heights[row] + em // 4
            yield TextBlock([line], left + half, below, font, color, centered=True)
            if label.detail:
                detail, below = cut_line(label.detail, small, layout.slot_width), below + line_height(font)
                yield TextBlock([detail], left + half, below, small, FAINT_INK, centered=True)


def _scale_width(em: int) -> int:
    font = get_font(em - 2)
    return 6 * em + em + round(font.getlength("low") + font.getlength("high"))
