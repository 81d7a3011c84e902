"""Where everything stands on a sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.visualization.captions import Caption
from lightning_saliency.visualization.cells import Drawing, under_heatmaps
from lightning_saliency.visualization.fonts import Font, get_font
from lightning_saliency.visualization.text import TextBlock, cut_line, fit_lines, wrap_lines
from lightning_saliency.visualization.theme import Color, Theme

_BAND = (18, 19, 22, 205)
_ON_BAND: Color = (255, 255, 255)

_LEAST_SLOT = (56, 128)  # (height, width) kept free for a cell however thin it is, so that words find room
_LEAST_EM = 13  # in pixels
_CARD = 350  # the width of TensorBoard's narrow card, in which words have at least
_LEAST_TEXT = 9  # pixels
_LEAST_WORDS = 11  # pixels, of words on a small cell
_WORDS_IN_A_SLOT = 5.5  # the least width of a slot in sizes of its words: about nine characters
_MOST_CELLS_IN_A_ROW = 10  # of several samples, so that each has some 35 pixels in a narrow card
_MOST_NOTE_LINES = 6
_SCALE = 9  # the width of the color scale, in em


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels. A slot is the room for a cell, which is centered in it.

    A sample's cells stand side by side, as a block; one or several blocks stand in a row.

    Attributes:
        em: The size of the usual font, of which margins and gaps are made.
        small: The size of the small font.
        columns: The number of cells of a sample.
        per_row: The number of samples in a row.
        slot_width: The width of each slot.
        slot_heights: The height of each row's slots.
        slot_tops: Where each row's slots begin.
        headings_top: Where the columns' headings begin.
        foot_top: Where the note begins.
        foot_bottom: Where the note and the color scale end.
        size: (height, width) of the sheet.
    """

    em: int
    small: int
    columns: int
    per_row: int
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
        return _margin(self.em)

    @property
    def block_width(self) -> int:
        """The width of a sample's cells."""
        return _block_width(self.em, self.columns, self.slot_width)

    def slot(self, sample: int, column: int) -> tuple[int, int, int]:
        """Return the top, the left and the height of a slot."""
        row, place = divmod(sample, self.per_row)
        left = self.margin + place * (self.block_width + _block_gap(self.em, self.columns))
        return self.slot_tops[row], left + column * (self.slot_width + _gap(self.em)), self.slot_heights[row]


@dataclass(frozen=True)
class Words:
    """What is written on a sheet.

    Attributes:
        headings: Above the columns of each block.
        captions: Above each sample; or none.
        labels: For each column, what stands below its cells; or none.
        title: On top.
        note: Small at the bottom.
        scale: At the ends of the color scale; None for no scale.
        is_fine: Whether the heatmaps are fine, so that the scale is that of fine ones.
        title_lines: The most lines of the title.
        label_lines: How many lines each label has room for; None for as many as the longest takes, two at most.
    """

    headings: Sequence[str]
    captions: Sequence[Caption]
    labels: Sequence[Sequence[Caption]]
    title: str
    note: str
    scale: tuple[str, str] | None
    is_fine: bool = False
    title_lines: int = 2
    label_lines: int | None = None


def plan(
    cells: Sequence[Sequence[Tensor]], words: Words, theme: Theme, per_row: int | None = None
) -> tuple[Layout, list[TextBlock]]:
    """Break all words into lines, and give each thing its place.

    Args:
        cells: Those of each sample, `(h, w, 3)`.
        words: What is written.
        theme: The colors.
        per_row: The number of samples in a row; None for as many as make the sheet about as high as wide.
    """
    slot_width = max(_LEAST_SLOT[1], *(cell.shape[1] for sample in cells for cell in sample))
    heights = [max(_LEAST_SLOT[0], *(cell.shape[0] for cell in sample)) for sample in cells]
    columns = len(words.headings)
    per_row = per_row or _choose_per_row(len(cells), columns, slot_width, max(heights))
    slot_heights = [max(heights[start : start + per_row]) for start in range(0, len(cells), per_row)]
    em = _size_of_words(per_row, columns, slot_width)
    small_size = max(_small(em), min(em, _least_size(em, per_row, columns, slot_width)))
    block, inner = _block_width(em, columns, slot_width), _inner_width(em, per_row, columns, slot_width)
    large, text, small = get_font(em + em // 4, "-Bold"), get_font(em), get_font(small_size)
    top_lines = wrap_lines(words.title, large, inner, words.title_lines)
    heading_lines = [wrap_lines(heading, text, slot_width, 3) for heading in words.headings]
    caption_lines = [_lines(caption, theme, text, block) for caption in words.captions]
    label_lines = [
        [_lines(label, theme, text, slot_width, words.label_lines or 2) for label in labels] for labels in words.labels
    ]
    note_lines = wrap_lines(words.note, small, inner, lines=_MOST_NOTE_LINES)

    margin, line = _margin(em), text.height
    headings_top = margin + len(top_lines) * large.height + (em if top_lines else 0)
    rows_top = headings_top + max(map(len, heading_lines)) * line + (em if words.captions else em // 2)
    counts = [len(lines) for lines in caption_lines] or [0]
    caption_heights = [max(counts[start : start + per_row]) * line for start in range(0, len(counts), per_row)]
    caption_heights = [height + em // 2 if height else 0 for height in caption_heights]
    caption_heights += [0] * (len(slot_heights) - len(caption_heights))
    counts = [len(lines) for labels in label_lines for lines in labels]
    most_lines = (words.label_lines or max(counts)) if counts else 0
    gap = (most_lines * line + em // 4 if most_lines else 0) + (3 * em // 2 if any(caption_heights) else em)
    gap += small.height if any(label.detail for column in words.labels for label in column) else 0
    bottoms = list(
        accumulate(caption + height + gap for caption, height in zip(caption_heights, slot_heights, strict=True))
    )
    slot_tops = [rows_top + bottom - gap - height for bottom, height in zip(bottoms, slot_heights, strict=True)]
    foot_top = rows_top + bottoms[-1]
    foot = len(note_lines)
    if words.scale and (
        not foot or small.getlength(note_lines[-1]) + 2 * em + _scale_width(em, small, words.scale) > inner
    ):
        foot += 1  # the color scale stands beside the note's last line, or alone
    foot_bottom = foot_top + foot * small.height
    size = (foot_bottom + (3 * em // 2 if foot else em), inner + 2 * margin)
    layout = Layout(
        em, small_size, columns, per_row, slot_width, slot_heights, slot_tops, headings_top, foot_top, foot_bottom, size
    )
    return layout, [
        TextBlock(top_lines, margin, margin, large, theme.ink),
        TextBlock(note_lines, margin, foot_top, small, theme.faint),
        *_place_headings(layout, heading_lines, cells, theme),
        *_place_captions(layout, caption_lines, cells, words, theme),
        *_place_labels(layout, label_lines, words, theme),
    ]


def paste(cells: Sequence[Sequence[Tensor]], layout: Layout, theme: Theme) -> Tensor:
    """Put the cells on an empty sheet `(H', W', 3)`, each in a thin frame in the middle of its slot."""
    canvas = torch.tensor(theme.paper, dtype=torch.uint8).expand(*layout.size, 3).contiguous()
    frame = torch.tensor(theme.frame, dtype=torch.uint8)
    for sample, row_cells in enumerate(cells):
        for column, cell in enumerate(row_cells):
            if not cell.numel():
                continue
            (top, left, slot_height), (height, width) = layout.slot(sample, column), cell.shape[:2]
            top, left = top + (slot_height - height) // 2, left + (layout.slot_width - width) // 2
            canvas[top - 1 : top + height + 1, left - 1 : left + width + 1] = frame
            canvas[top : top + height, left : left + width] = cell
    return canvas


def draw_scale(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: Layout,
    words: tuple[str, str],
    drawing: Drawing,
    *,
    is_fine: bool,
) -> None:
    """Draw the colors at the bottom right as they are in the picture, with what stands at their ends.

    They are laid over mid gray, of fine maps as dark as the images are under them.
    """
    em, font = layout.em, get_font(layout.small)
    left, top = layout.size[1] - layout.margin - _scale_width(em, font, words), layout.foot_bottom - font.height
    begin = left + round(font.getlength(words[0])) + em // 2
    values = torch.linspace(0, 1, _SCALE * em).expand(1, 1, 2 * em // 3, -1)
    gray = torch.full((1, 3, *values.shape[2:]), 128, dtype=torch.uint8)
    colors = under_heatmaps(gray, values, drawing.shading, is_fine=is_fine)
    bar = Image.fromarray(colors[0].permute(1, 2, 0).contiguous().numpy())
    page.paste(bar, (begin, top + (font.height - bar.height) // 2))
    TextBlock([words[0]], left, top, font, drawing.theme.faint).write(draw)
    TextBlock([words[1]], begin + bar.width + em // 2, top, font, drawing.theme.faint).write(draw)


def draw_reason(
    draw: ImageDraw.ImageDraw, layout: Layout, sample: int, column: int, reason: str, cell_width: int
) -> None:
    """Write why a cell is blank on a dark band in its middle."""
    top, left, height = layout.slot(sample, column)
    pad, width = layout.em // 4, min(layout.slot_width, max(cell_width, layout.slot_width // 2))
    brief = reason.partition(":")[0]
    sizes = range(layout.em - 1, _LEAST_WORDS - 1, -1)
    for words, size in [(reason, layout.em), (brief, layout.em), *((brief, size) for size in sizes)]:
        font = get_font(size)
        lines = wrap_lines(words or "blank", font, width - 2 * pad, lines=max(1, (height - 2 * pad) // font.height))
        if not "".join(lines).endswith("…"):
            break
    pitch, band_width = font.height, width
    middle, half = left + layout.slot_width // 2, (len(lines) * pitch) // 2 + pad
    band_left, band_top = middle - band_width // 2, top + height // 2 - half
    draw.rectangle((band_left, band_top, band_left + band_width - 1, band_top + 2 * half - 1), fill=_BAND)
    TextBlock(lines, middle, band_top + pad, font, _ON_BAND, centered=True).write(draw)


def _choose_per_row(count: int, columns: int, width: int, height: int) -> int:
    """Return how many samples stand in a row: as many as make the cells together about as high as wide."""
    most = max(1, min(count, _MOST_CELLS_IN_A_ROW // columns))

    def unevenness(per_row: int) -> float:
        rows = math.ceil(count / per_row)
        return abs(math.log(rows * (height + width // 4) / (per_row * columns * width)))

    return min(range(1, most + 1), key=unevenness)


def _size_of_words(per_row: int, columns: int, slot_width: int) -> int:
    """Return the size of the usual font, in pixels: readable in a narrow card, and small enough for its slot."""
    most = max(_LEAST_EM, int(slot_width / _WORDS_IN_A_SLOT))
    sizes = range(_LEAST_EM, most)
    return next((em for em in sizes if em >= _least_size(em, per_row, columns, slot_width)), most)


def _least_size(em: int, per_row: int, columns: int, slot_width: int) -> int:
    """Return the size of words that can be read in a narrow card, in pixels of a sheet whose usual font is `em`."""
    width = _inner_width(em, per_row, columns, slot_width) + 2 * _margin(em)
    return round(width * _LEAST_TEXT / _CARD)


def _block_width(em: int, columns: int, slot_width: int) -> int:
    """Return the width of a sample's cells."""
    return columns * (slot_width + _gap(em)) - _gap(em)


def _inner_width(em: int, per_row: int, columns: int, slot_width: int) -> int:
    """Return the width of a row of samples."""
    gap = _block_gap(em, columns)
    return per_row * (_block_width(em, columns, slot_width) + gap) - gap


def _lines(caption: Caption, theme: Theme, font: Font, width: int, lines: int = 2) -> tuple[str, ...]:
    return fit_lines(theme.mark(caption.correct)[0] + caption.text, caption.names, font, width, lines)


def _place_headings(
    layout: Layout, headings: Sequence[Sequence[str]], cells: Sequence[Sequence[Tensor]], theme: Theme
) -> Iterator[TextBlock]:
    """Place the columns' headings above the blocks of the first row, where a column has cells below."""
    font = get_font(layout.em)
    bottom = layout.headings_top + max(map(len, headings)) * font.height
    for place in range(layout.per_row):
        for column, lines in enumerate(headings):
            if not any(sample[column].numel() for sample in cells[place :: layout.per_row]):
                continue
            middle = layout.slot(place, column)[1] + layout.slot_width // 2
            yield TextBlock(lines, middle, bottom - len(lines) * font.height, font, theme.faint, centered=True)


def _place_captions(
    layout: Layout, captions: Sequence[Sequence[str]], cells: Sequence[Sequence[Tensor]], words: Words, theme: Theme
) -> Iterator[TextBlock]:
    """Place what stands above each sample, from the left edge of its first cell on."""
    font = get_font(layout.em)
    for sample, (caption, lines) in enumerate(zip(words.captions, captions, strict=True)):
        top, left, _ = layout.slot(sample, 0)
        width = cells[sample][0].shape[1]
        longest = max(map(font.getlength, lines), default=0)  # from further left where there is no room
        left += max(0, min((layout.slot_width - width) // 2, int(layout.block_width - longest)))
        top -= layout.em // 2 + len(lines) * font.height
        yield TextBlock(lines, left, top, font, theme.mark(caption.correct)[1])


def _place_labels(
    layout: Layout, labels: Sequence[Sequence[Sequence[str]]], words: Words, theme: Theme
) -> Iterator[TextBlock]:
    """Place what stands below each cell."""
    font, small = get_font(layout.em), get_font(layout.small)
    for column, column_labels in enumerate(words.labels):
        for sample, (label, lines) in enumerate(zip(column_labels, labels[column], strict=True)):
            top, left, height = layout.slot(sample, column)
            middle, below = left + layout.slot_width // 2, top + height + layout.em // 4
            yield TextBlock(lines, middle, below, font, theme.mark(label.correct)[1], centered=True)
            if label.detail:
                detail, below = cut_line(label.detail, small, layout.slot_width), below + len(lines) * font.height
                yield TextBlock([detail], middle, below, small, theme.faint, centered=True)


def _margin(em: int) -> int:
    return em + em // 2


def _gap(em: int) -> int:
    return em // 2


def _block_gap(em: int, columns: int) -> int:
    return _gap(em) if columns == 1 else 2 * em


def _small(em: int) -> int:
    return em - max(2, em // 8)


def _scale_width(em: int, font: Font, words: tuple[str, str]) -> int:
    return _SCALE * em + em + round(font.getlength(words[0]) + font.getlength(words[1]))
