"""The cells of a sheet: an image, its parts, or its heatmap over it, at the size at which it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.visualization.colors import Shading, darkened, overlay
from lightning_saliency.visualization.theme import THEMES, Theme
from lightning_saliency.visualization.views import Cut

CELL_SIDE = 256  # the most that a cell's larger side has, in pixels
DIMMED = 0.5  # the brightness of a blank cell's image
WIDE = 1.5  # of a usual cell's side, that of a cell in which parts stand side by side
_GAP = 4  # between the parts of a cell, in pixels
_LEAST_SIDE = 12  # of a part, in pixels, however thin it is
_CROSS_ALPHA = 0.6
_CROSS_GAP = 6  # from the marked point to the lines on its sides, in pixels


@dataclass(frozen=True)
class Drawing:
    """How cells are drawn.

    Attributes:
        cell_side: The most that the larger side of a cell has, in pixels.
        shading: How heatmaps become colors.
        theme: The colors of paper and ink.
    """

    cell_side: int = CELL_SIDE
    shading: Shading = field(default_factory=Shading)
    theme: Theme = THEMES["light"]


def under_heatmaps(images: Tensor, heatmaps: Tensor, shading: Shading, *, is_fine: bool) -> Tensor:
    """Draw images `(N, 3, h, w)` under their heatmaps `(N, 1, h, w)`; under fine ones they are dark and gray.

    Around the single pixels of a fine map, no contour is drawn.
    """
    if is_fine:
        images, shading = darkened(images), replace(shading, contour=None)
    return overlay(images, heatmaps.clamp(0, 1), shading)


def fit(images: Tensor, cell_side: int) -> Tensor:
    """Resize images `(N, 3, H, W)` to their cells."""
    height, width = images.shape[2:]
    scale = _cell_scale(max(height, width), cell_side)
    fitted = resize_image(images, (max(1, round(height * scale)), max(1, round(width * scale))))
    return fitted.contiguous(memory_format=torch.channels_last)  # as colors lie in their table, and pixels on a page


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize heatmaps `(N, 1, h, w)` or images by interpolation, with antialiasing where they are reduced."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def resize_image(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge small images with crisp pixels, and reduce larger ones with antialiasing."""
    small = max(images.shape[2:]) < max(size)
    return F.interpolate(images, size=size, mode="nearest") if small else resize(images, size)


def draw_cut(image: Cut, above: Cut | None, drawing: Drawing, *, is_blank: bool, is_fine: bool) -> Tensor:
    """Draw the parts of an image in one cell, under those of its heatmap.

    Args:
        image: The parts of the image.
        above: Those of the heatmap, or of a picture that is shown in place of the image's; None for the image alone.
        drawing: How.
        is_blank: Whether the image is dimmed and shown without the heatmap.
        is_fine: Whether the heatmap's single pixels are to be seen.

    Returns:
        uint8 `(h, w, 3)`.
    """
    view = image.view
    rows, columns = _tracks(image, round(drawing.cell_side * (WIDE if view.is_wide else 1)))
    paper = torch.tensor(drawing.theme.paper, dtype=torch.uint8)[:, None, None]
    cell = paper.repeat(1, rows[max(rows)].end, columns[max(columns)].end)
    for number, (panel, part) in enumerate(zip(view.panels, image.parts, strict=True)):
        down, across = rows[panel.place[0]], columns[panel.place[1]]
        size = down.pixels(part.shape[1]), across.pixels(part.shape[2])
        pixels = resize_image(_rgb(part)[None], size)
        if is_blank:
            pixels = (pixels * DIMMED).round().to(torch.uint8)
        elif above is not None:
            pixels = _above(pixels, above.parts[number][None], drawing.shading, is_fine)
        place = cell[:, down.begin : down.begin + size[0], across.begin : across.begin + size[1]]
        place.copy_(pixels[0])
        if panel.cross is not None:
            _draw_cross(place, down.pixels(panel.cross[0] + 0.5), across.pixels(panel.cross[1] + 0.5))
    return cell.permute(1, 2, 0)


@dataclass(frozen=True)
class _Track:
    """Where a row or a column of parts begins and ends in its cell, in pixels, and the scale along it."""

    begin: int
    end: int
    scale: float

    def pixels(self, length: float) -> int:
        return max(1, int(length * self.scale + 1e-6))


def _above(pixels: Tensor, above: Tensor, shading: Shading, is_fine: bool) -> Tensor:
    size = (pixels.shape[2], pixels.shape[3])
    if above.dtype == torch.uint8:
        return resize_image(_rgb(above), size)
    return under_heatmaps(pixels, resize(above.float(), size), shading, is_fine=is_fine)


def _rgb(pixels: Tensor) -> Tensor:
    """Return gray or colored pixels `(…, C, h, w)` as RGB."""
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def _cell_scale(side: int, most: int) -> float:
    """Return by what to multiply the larger side of an image, by a whole number where it is small."""
    least, usual = most // 2, most * 3 // 4
    return max(usual // side, -(-least // side)) if side < least else min(1.0, most / side)


def _tracks(image: Cut, most: int) -> tuple[dict[int, _Track], dict[int, _Track]]:
    """Return the rows and the columns of the parts, by their numbers."""
    heights: dict[int, int] = {}
    widths: dict[int, int] = {}
    for panel, part in zip(image.view.panels, image.parts, strict=True):
        row, column = panel.place
        heights[row] = max(heights.get(row, 0), part.shape[1])
        widths[column] = max(widths.get(column, 0), part.shape[2])
    side = max(sum(heights.values()), sum(widths.values()))
    scale = most // side if side <= most else most / side

    def tracks(lengths: dict[int, int]) -> dict[int, _Track]:
        begin, placed = 0, {}
        for number, length in sorted(lengths.items()):
            pixels = max(_LEAST_SIDE, round(length * scale))
            placed[number] = _Track(begin, begin + pixels, pixels / length)
            begin += pixels + _GAP
        return placed

    return tracks(heights), tracks(widths)


def _draw_cross(pixels: Tensor, y: int, x: int) -> None:
    """Draw thin lines through a point of `(3, h, w)`, which leave the point itself free."""
    for line, at in ((pixels[:, y], x), (pixels[:, :, x], y)):
        for side in (line[:, : max(at - _CROSS_GAP, 0)], line[:, at + _CROSS_GAP + 1 :]):
            side.copy_((side * (1 - _CROSS_ALPHA) + 255 * _CROSS_ALPHA).round())
