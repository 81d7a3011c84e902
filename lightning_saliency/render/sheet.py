"""Overlays of many samples as one labelled sheet: rows, columns, words, and the colour scale."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.render.layout import (
    BAND,
    FRAME,
    ON_BAND,
    PAPER,
    QUIET,
    Caption,
    Sheet,
    Words,
    draw_scale,
    font_of,
    line_height,
    paste,
    plan,
    wrap,
)
from lightning_saliency.render.pixels import check_alpha, check_heatmaps, check_images, overlay

CELL_SIDE = 256  # the most that a cell's larger side has, in pixels
_DIM = 0.5  # the brightness of a blank cell's image
_BAR = 6  # the height of a progress bar


def grid(
    images: Tensor,
    heatmaps: Mapping[str, Tensor],
    *,
    title: str = "",
    captions: Sequence[Caption] | None = None,
    blanks: Mapping[str, Sequence[str | None]] | None = None,
    labels: Mapping[str, Sequence[Caption]] | None = None,
    note: str = "",
    cell_side: int = CELL_SIDE,
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> Tensor:
    """Draw one sheet: a row per sample, its image first, then the image under each of its heatmaps, or other pictures.

    The larger side of a cell is between half of `cell_side` and `cell_side`. Smaller images are enlarged by a whole
    factor, so that each pixel stays a crisp square, while their heatmaps are interpolated; larger images are reduced
    with antialiasing.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them.
        heatmaps: For each column's title a `(N, 1, h, w)` in [0, 1], commonly at the images' size, or pictures that are
            shown as they are, uint8 `(N, 3, h, w)`. Columns stand in the mapping's order.
        title: Stands on top, such as "epoch 12".
        captions: One for each row.
        blanks: For a column's title and each row the reason why that heatmap is blank, or None where it is not. A blank
            cell shows the plain image, dimmed, with the reason written on it.
        labels: For a column's title and each row what stands below that cell, such as the class that it shows; for the
            images under "".
        note: Stands small at the bottom.
        cell_side: The most that the larger side of a cell has, in pixels.
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
    cells = _cells(images.cpu(), heatmaps, blanks, cell_side, colormap, alpha)
    below = [labels.get(name, ()) for name in ("", *heatmaps)]
    sheet, words = plan(cells, title, ("image", *heatmaps), captions or (), below, note)
    reasons = {
        (row, column): reason
        for column, name in enumerate(heatmaps, start=1)
        for row, reason in enumerate(blanks.get(name, ()))
    }
    has_scale = any(_is_heatmap(maps) for maps in heatmaps.values())
    page = _drawn(cells, sheet, words, reasons, colormap if has_scale else None)
    return _tensor(page)


def fitted(images: Tensor, cell_side: int = CELL_SIDE) -> Tensor:
    """Images as large as they are in a cell, which `grid` leaves as they are: once for several sheets.

    Args:
        images: `(N, 3, H, W)`, uint8.
        cell_side: As for `grid`.

    Returns:
        `(N, 3, h, w)`, uint8.
    """
    return _enlarge(images, _cell_size(images.shape[2], images.shape[3], cell_side))


def tiles(
    images: Tensor,
    heatmaps: Tensor,
    *,
    title: str = "",
    labels: Sequence[Caption] | None = None,
    blanks: Sequence[str | None] | None = None,
    note: str = "",
    progress: float | None = None,
    cell_side: int = CELL_SIDE,
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> Tensor:
    """Draw the images under their heatmaps side by side, in few rows: the frame of a film.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them.
        heatmaps: `(N, 1, h, w)` in [0, 1].
        title: Stands on top, such as "epoch 12", cut to one line.
        labels: What stands below each.
        blanks: For each the reason why its heatmap is blank, or None.
        note: Stands small at the bottom.
        progress: A share in [0, 1] that a bar on the upper edge shows; None for no bar.
        cell_side: As for `grid`.
        colormap: The name of a matplotlib colour map.
        alpha: The weight of the colour, in [0, 1].

    Returns:
        `(3, H', W')`, uint8, on the CPU. Its size depends on the images and the note alone, and on whether there is a
        title and labels.

    Raises:
        ValueError: If a shape, a dtype, a range or a length differs from the above, or if no colour map has that name.

    Example:
        >>> images, heatmaps = torch.zeros(8, 3, 64, 64, dtype=torch.uint8), torch.rand(8, 1, 64, 64)
        >>> frame = tiles(images, heatmaps, title="epoch 12", progress=0.4)
        >>> frame.dtype, frame.shape[2] > frame.shape[1]
        (torch.uint8, True)
    """
    _check_grid(images, {"": heatmaps}, labels, {"": blanks or [None] * len(images)}, {})
    check_alpha(alpha)
    count = len(images)
    columns = _fewest_gaps(count)
    rows = -(-count // columns)
    over = _cells(images.cpu(), {"": heatmaps}, {"": blanks or [None] * count}, cell_side, colormap, alpha)[:, 1]
    cells = over.new_full((rows * columns, *over.shape[1:]), PAPER)
    cells[:count] = over
    cells = cells.unflatten(0, (rows, columns))
    below = [*(labels or ()), *[Caption("")] * (rows * columns - count)] if labels else []
    sheet, words = plan(
        cells, title, [""] * columns, (), [below[column::columns] for column in range(columns)], note, 1
    )
    reasons = {divmod(at, columns): reason for at, reason in enumerate(blanks or ())}
    page = _drawn(cells, sheet, words, reasons, colormap if columns > 1 else None)
    draw = ImageDraw.Draw(page)
    for at in range(count, rows * columns):  # no frame around nothing
        top, left = sheet.corner(*divmod(at, columns))
        draw.rectangle((left - 1, top - 1, left + sheet.slot[1], top + sheet.slot[0]), fill=(PAPER,) * 3)
    if progress is not None:
        draw.rectangle((0, 0, sheet.size[1], _BAR - 1), fill=(FRAME,) * 3)
        if progress > 0:
            draw.rectangle((0, 0, round(min(progress, 1.0) * sheet.size[1]), _BAR - 1), fill=QUIET)
    return _tensor(page)


def _drawn(
    cells: Tensor,
    sheet: Sheet,
    words: Sequence[Words],
    reasons: Mapping[tuple[int, int], str | None],
    colormap: str | None,
) -> Image.Image:
    """The page with its cells, words, reasons by row and column, and the scale of colours."""
    page = Image.fromarray(paste(cells, sheet).numpy())
    draw = ImageDraw.Draw(page, "RGBA")  # this mode blends translucent fills
    for piece in words:
        piece.write(draw)
    for (row, column), reason in reasons.items():
        if reason is not None:
            _write_reason(draw, sheet, row, column, reason)
    if colormap is not None:
        draw_scale(page, draw, sheet, colormap)
    return page


def _tensor(page: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)  # as it lies: an encoder wants the rows of pixels again


def _fewest_gaps(count: int) -> int:
    """In how many columns so many tiles stand best: about as many as rows, rather more, and no gaps if it can be."""
    least = math.ceil(math.sqrt(count))
    return min(range(least, 2 * least + 1), key=lambda columns: -count % columns)


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
        if name and name not in heatmaps:
            raise ValueError(f"Expected `labels` to name columns among {list(heatmaps)}, got {name!r}")
        if len(below) != count:
            raise ValueError(f"Expected `labels[{name!r}]` to hold {count} captions, one per image, got {len(below)}")


def _cell_size(height: int, width: int, most: int) -> tuple[int, int]:
    side, least, usual = max(height, width), most // 2, most * 3 // 4
    if side < least:
        factor = max(usual // side, -(-least // side))
        return height * factor, width * factor
    shrink = min(1.0, most / side)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def _cells(
    images: Tensor,
    heatmaps: Mapping[str, Tensor],
    blanks: Mapping[str, Sequence[str | None]],
    cell_side: int,
    colormap: str,
    alpha: float,
) -> Tensor:
    """All cells at their final size, `(N, columns, h, w, 3)`."""
    images = fitted(images, cell_side)
    size = (images.shape[2], images.shape[3])
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
    small = max(images.shape[2:]) < max(size)
    return F.interpolate(images, size=size, mode="nearest") if small else _resize(images, size)


def _write_reason(draw: ImageDraw.ImageDraw, sheet: Sheet, row: int, column: int, reason: str) -> None:
    font, pad = font_of(sheet.em), sheet.em // 2
    pitch = line_height(font)
    lines = wrap(reason or "blank", font, sheet.slot[1] - 2 * pad, lines=(sheet.slot[0] - 2 * pad) // pitch)
    top, left = sheet.corner(row, column)
    middle, half = left + sheet.slot[1] // 2, (len(lines) * pitch) // 2 + pad
    broad = sheet.cell[1] if sheet.cell[1] > sheet.slot[1] // 2 else sheet.slot[1]
    begin = top + sheet.slot[0] // 2 - half
    draw.rectangle((middle - broad // 2, begin, middle - broad // 2 + broad - 1, begin + 2 * half - 1), fill=BAND)
    Words(lines, middle, begin + pad, font, ON_BAND, centred=True).write(draw)
