"""The one drawing engine: images under their heatmaps, in labeled rows and columns or side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.visualization.boxes import Boxes, draw_boxes
from lightning_saliency.visualization.captions import Caption
from lightning_saliency.visualization.cells import (
    CELL_SIDE,
    DIMMED,
    Drawing,
    draw_cut,
    fit,
    resize,
    resize_image,
    under_heatmaps,
)
from lightning_saliency.visualization.colors import check_heatmaps
from lightning_saliency.visualization.curves import draw_curves
from lightning_saliency.visualization.images import Images, check_picture
from lightning_saliency.visualization.layout import Layout, Words, draw_reason, draw_scale, paste, plan
from lightning_saliency.visualization.scaling import scale_words
from lightning_saliency.visualization.text import TextBlock
from lightning_saliency.visualization.theme import Theme
from lightning_saliency.visualization.views import Cut, Shown, cut_images, make_views

NO_CELL = ""
"""In place of a reason: there is no cell."""

_BAR_HEIGHT = 6


def grid(
    images: Shown,
    columns: Mapping[str, Shown],
    *,
    title: str = "",
    captions: Sequence[Caption] | None = None,
    blanks: Mapping[str, Sequence[str | None]] | None = None,
    labels: Mapping[str, Sequence[Caption]] | None = None,
    fine: Collection[str] = (),
    boxes: Mapping[str, Boxes] | None = None,
    note: str = "",
    scale: tuple[str, str] = scale_words("max", ()),
    per_row: int | None = None,
    drawing: Drawing = Drawing(),
) -> Tensor:
    """Draw one sheet: of each sample its image, then the image under each of its heatmaps, or other pictures.

    The larger side of a cell is between half of `drawing.cell_side` and all of it. Smaller images are enlarged by a
    whole factor, so that each pixel stays a crisp square, while their heatmaps are interpolated; larger images are
    reduced with antialiasing. Images of several sizes share a sheet: each keeps its own aspect, in the middle of its
    place. The words are of a size that can be read where the sheet is 350 pixels wide.

    Of a volume a cell shows three slices, of a video a few frames, of a very long image its pieces (see `make_views`),
    and which these are stands below the image. Of a signal it shows the curves of its channels.

    Args:
        images: `(N, 3, H, W)`, uint8, as `to_rgb` returns them; or of several sizes a list of N images `(3, H, W)`. Or
            volumes in gray or in color, `(N, 1, D, H, W)` or `(N, 3, D, H, W)`; or what `cut_images` returns; or
            signals `(N, C, T)`, of which each channel goes from 0 to 255.
        columns: For each column's title heatmaps, `(N, 1, h, w)` in [0, 1], or pictures that are shown as they are,
            uint8 `(N, 3, h, w)`; or a list of N of them. Columns stand in the mapping's order.
        title: Stands on top, such as "epoch 12".
        captions: One for each sample, above its cells.
        blanks: For a column's title and each sample the reason why that cell is blank, or None where it is not. A blank
            cell shows the plain image, dimmed, with the reason written on it; with an empty reason there is no cell.
        labels: For a column's title and each sample what stands below that cell, such as the class that it shows; for
            the images under "".
        fine: The titles of columns of heatmaps whose single pixels are to be seen: over the image in dark gray.
        boxes: For a column's title and each sample the boxes that are drawn on whole images; for the images under "".
        note: Stands small at the bottom.
        scale: What stands at the two ends of the color scale at the bottom.
        per_row: The number of samples side by side; None for as many as make the sheet about as high as wide.
        drawing: The colors, and the size of a cell.

    Returns:
        `(3, H', W')`, uint8, on the CPU.

    Raises:
        ValueError: A shape, a dtype, a range or a length differs from the above, or `blanks`, `labels` or `fine` name a
            column that `columns` lacks.

    Example:
        >>> images, heatmaps = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.rand(2, 1, 64, 64)
        >>> sheet = grid(images, {"Grad-CAM": heatmaps}, title="epoch 12")
        >>> sheet.dtype, sheet.ndim
        (torch.uint8, 3)
    """
    blanks, labels = blanks or {}, labels or {}
    _check_grid(images, columns, captions, blanks, labels, fine)
    images, columns = _cut_volumes(images, columns)
    cells = _draw_cells(images, columns, blanks, fine, drawing)
    _draw_boxes(cells, images, [(boxes or {}).get(name, ()) for name in ("", *columns)])
    below = [_with_words(images, labels.get("", ())), *(labels.get(name, ()) for name in columns)]
    heatmaps = [name for name, maps in columns.items() if _is_heatmap(maps)]
    headings, all_fine = (_name(images[0]), *columns), {*heatmaps} <= {*fine}
    words = Words(headings, captions or (), below, title, note, scale if heatmaps else None, all_fine)
    reasons = {
        (row, column): reason
        for column, name in enumerate(columns, start=1)
        for row, reason in enumerate(blanks.get(name, ()))
    }
    layout, blocks = plan(cells, words, drawing.theme, per_row)
    return _to_tensor(_draw_page(cells, layout, blocks, reasons, words, drawing))


def tiles(
    images: Shown,
    heatmaps: Shown,
    *,
    title: str = "",
    labels: Sequence[Caption] | None = None,
    blanks: Sequence[str | None] | None = None,
    is_fine: bool = False,
    boxes: Boxes = (),
    note: str = "",
    scale: tuple[str, str] = scale_words("max", ()),
    progress: float | None = None,
    drawing: Drawing = Drawing(),
) -> Tensor:
    """Draw the images under their heatmaps side by side, in few rows: the frame of an animation.

    Args:
        images: As for `grid`.
        heatmaps: `(N, 1, h, w)` in [0, 1], or a list of N heatmaps `(1, h, w)`.
        title: Stands on top, such as "epoch 12", cut to one line.
        labels: What stands below each, cut to one line.
        blanks: For each the reason why its heatmap is blank, or None.
        is_fine: Whether the heatmaps' single pixels are to be seen; see `grid`.
        boxes: For each the boxes that are drawn on it.
        note: Stands small at the bottom.
        scale: As for `grid`; with a single image there is none.
        progress: A number in [0, 1] that a bar on the upper edge shows; None for no bar.
        drawing: As for `grid`.

    Returns:
        `(3, H', W')`, uint8, on the CPU. Its size depends on the images and the note alone, and on whether there is a
        title and labels.

    Raises:
        ValueError: As `grid`.

    Example:
        >>> images, heatmaps = torch.zeros(8, 3, 64, 64, dtype=torch.uint8), torch.rand(8, 1, 64, 64)
        >>> frame = tiles(images, heatmaps, title="epoch 12", progress=0.4)
        >>> frame.dtype, frame.shape[2] > frame.shape[1]
        (torch.uint8, True)
    """
    reasons = list(blanks or [None] * len(images))
    _check_grid(images, {"": heatmaps}, labels, {"": reasons}, {}, ())
    images, shown = _cut_volumes(images, {"": heatmaps})
    drawn = _draw_cells(images, shown, {"": reasons}, [""] if is_fine else [], drawing)
    _draw_boxes(drawn, images, [(), boxes])
    cells = [row[1:] for row in drawn]
    below = [_with_words(images, labels or ())]
    words = Words(
        [""],
        (),
        below,
        title,
        note,
        scale if len(images) > 1 and _is_heatmap(heatmaps) else None,
        is_fine,
        1,
        label_lines=1,
    )
    layout, blocks = plan(cells, words, drawing.theme, _count_columns(len(images)))
    placed = {(index, 0): reason for index, reason in enumerate(reasons)}
    page = _draw_page(cells, layout, blocks, placed, words, drawing)
    if progress is not None:
        _draw_progress(ImageDraw.Draw(page), layout.size[1], progress, drawing.theme)
    return _to_tensor(page)


def fit_images(images: Shown, cell_side: int = CELL_SIDE) -> Shown:
    """Resize images to their cells, once for several sheets: `grid` leaves these as they are.

    Args:
        images: As for `grid`.
        cell_side: As for `grid`.

    Returns:
        `(N, 3, h, w)`, uint8, or a list of N images `(3, h, w)`; volumes, signals and what is cut as they are.
    """
    if isinstance(images, Tensor):
        return fit(images, cell_side) if images.dim() == 4 else images
    return [image if isinstance(image, Cut) else fit_image(image, cell_side) for image in images]


def fit_image(image: Tensor, cell_side: int) -> Tensor:
    """Resize an image `(3, H, W)` to its cell; see `fit_images`."""
    return fit(image[None], cell_side)[0] if _is_whole_image(image) else image


def _is_whole_image(image: Tensor | Cut) -> bool:
    return isinstance(image, Tensor) and image.dim() == 3


def _cut_volumes(images: Shown, columns: Mapping[str, Shown]) -> tuple[Shown, Mapping[str, Shown]]:
    """Return images and columns with the volumes cut that nobody has cut yet."""
    if isinstance(images[0], Cut) or images[0].dim() != 4:
        return images, columns
    volumes, maps = cast(Images, images), cast(Mapping[str, Images], columns)
    views = make_views(volumes, [heatmaps for heatmaps in maps.values() if _is_heatmap(heatmaps)])
    return cut_images(volumes, views), {name: cut_images(values, views) for name, values in maps.items()}


def _name(image: Tensor | Cut) -> str:
    """Return what an image is called above its column."""
    if isinstance(image, Cut):
        return image.view.name
    return "image" if image.dim() == 3 else "signal"


def _with_words(images: Shown, labels: Sequence[Caption]) -> Sequence[Caption]:
    """Return what stands below the images, with the words of their views."""
    words = [image.view.words if isinstance(image, Cut) else "" for image in images]
    if not any(words):
        return labels
    if not labels:
        return [Caption(word) for word in words]
    return [replace(label, detail=word) for label, word in zip(labels, words, strict=True)]


def _draw_cells(
    images: Shown,
    columns: Mapping[str, Shown],
    blanks: Mapping[str, Sequence[str | None]],
    fine: Collection[str],
    drawing: Drawing,
) -> list[list[Tensor]]:
    """Draw the cells of each sample, `(h, w, 3)`: the image and its columns, together for all of one size."""
    cells: list[list[Tensor]] = [[] for _ in images]
    whole = [row for row, image in enumerate(images) if _is_whole_image(image)]
    for row in set(range(len(images))) - set(whole):
        cells[row].append(_draw_cell(images[row], None, drawing))
        for name, maps in columns.items():
            is_blank = name in blanks and blanks[name][row] is not None
            cells[row].append(_draw_cell(images[row], maps[row], drawing, is_blank=is_blank, is_fine=name in fine))
    for rows in _rows_by_size(images, columns, whole):
        fitted = fit(_select(images, rows).cpu(), drawing.cell_side)
        size = (fitted.shape[2], fitted.shape[3])
        pictures = [fitted]
        for name, maps in columns.items():
            pixels = _select(maps, rows).detach().cpu()
            if _is_heatmap(pixels):
                heatmaps = resize(pixels.float(), size)
                picture = under_heatmaps(fitted, heatmaps, drawing.shading, is_fine=name in fine)
            else:
                picture = resize_image(pixels, size)
            blank = [index for index, row in enumerate(rows) if name in blanks and blanks[name][row]]
            if blank:
                picture = picture.clone()  # it may be the caller's
                picture[blank] = (fitted[blank] * DIMMED).round().to(torch.uint8)
            pictures.append(picture)
        for index, row in enumerate(rows):
            cells[row] = [picture[index].permute(1, 2, 0) for picture in pictures]
    for column, name in enumerate(columns, start=1):
        for row in range(len(images)):
            if name in blanks and blanks[name][row] == NO_CELL:
                cells[row][column] = torch.empty(0, 0, 3, dtype=torch.uint8)
    return cells


def _draw_boxes(cells: list[list[Tensor]], images: Shown, columns: Sequence[Boxes]) -> None:
    """Draw the boxes of each column on the cells of those rows that show a whole image."""
    for column, boxes in enumerate(columns):
        for row, own in enumerate(boxes):
            if _is_whole_image(images[row]):
                cells[row][column] = draw_boxes(cells[row][column], own)


def _draw_cell(
    image: Tensor | Cut,
    above: Tensor | Cut | None,
    drawing: Drawing,
    *,
    is_blank: bool = False,
    is_fine: bool = False,
) -> Tensor:
    """Draw what is no whole image, under its heatmap: the parts of one, or a signal."""
    if isinstance(image, Cut):
        parts = above if isinstance(above, Cut) else None
        return draw_cut(image, parts, drawing, is_blank=is_blank, is_fine=is_fine)
    heatmap = above.detach().cpu() if isinstance(above, Tensor) else None
    return draw_curves(image.cpu(), heatmap, drawing, is_blank=is_blank)


def _rows_by_size(images: Shown, columns: Mapping[str, Shown], rows: Sequence[int]) -> list[Sequence[int]]:
    """Group the rows whose images, and whose maps, have one size, so that they are drawn together."""
    if all(isinstance(values, Tensor) for values in (images, *columns.values())):
        return [rows] if rows else []
    groups: dict[tuple[torch.Size, ...], list[int]] = defaultdict(list)
    for row in rows:
        groups[tuple(_tensor(values[row]).shape for values in (images, *columns.values()))].append(row)
    return list(groups.values())


def _select(values: Shown, rows: Sequence[int]) -> Tensor:
    """Return these rows as one batch."""
    if isinstance(values, Tensor) and len(rows) == len(values):
        return values
    return torch.stack([_tensor(values[row]) for row in rows])


def _tensor(value: Tensor | Cut) -> Tensor:
    assert isinstance(value, Tensor)  # where an image is whole, so are its heatmaps
    return value


def _draw_page(
    cells: Sequence[Sequence[Tensor]],
    layout: Layout,
    blocks: Sequence[TextBlock],
    reasons: Mapping[tuple[int, int], str | None],
    words: Words,
    drawing: Drawing,
) -> Image.Image:
    """Put the cells, the words, the reasons by sample and column, and the color scale on a page."""
    page = Image.fromarray(paste(cells, layout, drawing.theme).numpy())
    draw = ImageDraw.Draw(page, "RGBA")  # this mode blends translucent fills
    for block in blocks:
        block.write(draw)
    for (row, column), reason in reasons.items():
        if reason is not None and reason != NO_CELL:
            draw_reason(draw, layout, row, column, reason, cells[row][column].shape[1])
    if words.scale is not None:
        draw_scale(page, draw, layout, words.scale, drawing, is_fine=words.is_fine)
    return page


def _draw_progress(draw: ImageDraw.ImageDraw, width: int, progress: float, theme: Theme) -> None:
    draw.rectangle((0, 0, width, _BAR_HEIGHT - 1), fill=theme.frame)
    if progress > 0:
        draw.rectangle((0, 0, round(min(progress, 1.0) * width), _BAR_HEIGHT - 1), fill=theme.faint)


def _to_tensor(page: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)  # as it lies: an encoder wants the rows of pixels again


def _count_columns(count: int) -> int:
    """Return in how many columns so many tiles stand best: about as many as rows, rather more, without gaps."""
    least = math.ceil(math.sqrt(count))
    return min(range(least, 2 * least + 1), key=lambda columns: -count % columns)


def _is_heatmap(maps: Shown) -> bool:
    first = maps[0]
    return (first.parts[0] if isinstance(first, Cut) else first).dtype != torch.uint8


def _check_grid(
    images: Shown,
    columns: Mapping[str, Shown],
    captions: Sequence[Caption] | None,
    blanks: Mapping[str, Sequence[str | None]],
    labels: Mapping[str, Sequence[Caption]],
    fine: Collection[str],
) -> None:
    named: list[tuple[str, Collection[str], list[str]]] = [("blanks", blanks, [*columns]), ("fine", fine, [*columns])]
    named.append(("labels", labels, ["", *columns]))
    for option, by_column, known in named:
        for name in by_column:
            if name not in known:
                raise ValueError(f"Expected `{option}` to name columns among {known}, got {name!r}.")
    pictures = {"images": images, **{f"columns[{name!r}]": maps for name, maps in columns.items()}}
    words: dict[str, Sequence[object]] = {"captions": captions} if captions is not None else {}
    words |= {f"blanks[{name!r}]": reasons for name, reasons in blanks.items()}
    words |= {f"labels[{name!r}]": below for name, below in labels.items()}
    for name, values in (pictures | words).items():
        if isinstance(values, str) or len(values) != len(images) or not len(values):
            count = f"{len(images)} entries, one per image" if len(images) else "at least one image"
            raise ValueError(f"Expected `{name}` to hold {count}, got {type(values).__name__} of {len(values)}.")
    for name, batch in pictures.items():
        check = check_heatmaps if name != "images" and _is_heatmap(batch) else check_picture
        for values in [batch] if isinstance(batch, Tensor) else [one[None] for one in batch if isinstance(one, Tensor)]:
            check(name, values)
