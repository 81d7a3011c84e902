"""Boxes of detections and of true objects, drawn on the cells of a sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.visualization.captions import Names
from lightning_saliency.visualization.fonts import Font, get_font
from lightning_saliency.visualization.text import cut_line

BOX_LEGEND = "box: detected, dashed: true"
"""What tells a picture's boxes apart."""

_PREDICTED = (255, 255, 255)
_TRUE = (0, 230, 118)
_EDGE = (0, 0, 0)
_DASH = 6  # in pixels, of the line and of the gap
_LEAST_WIDE = 128  # a cell's larger side from which a box has a dark edge, in pixels
_SMALLEST_FONT, _LARGEST_FONT = 9, 13
_SIDE_OF_AN_EM = 20  # a cell's larger side in ems of its words


@dataclass(frozen=True)
class Box:
    """A box on an image.

    Attributes:
        corners: x1, y1, x2, y2 in parts of the image's width and height.
        words: What stands beside it; empty for nothing.
        is_true: Whether it is a true object's, and drawn dashed; else it is detected.
    """

    corners: tuple[float, float, float, float]
    words: str = ""
    is_true: bool = False

    def without_words(self) -> Box:
        """Return the box alone."""
        return replace(self, words="")


Boxes: TypeAlias = Sequence[Sequence[Box]]
"""Of each sample its boxes."""


def make_boxes(
    corners: Iterable[Sequence[float]],
    classes: Iterable[int],
    size: Sequence[int],
    names: Names,
    *,
    is_true: bool,
    probabilities: Sequence[float] = (),
) -> list[Box]:
    """Return boxes with the names of their classes.

    Args:
        corners: (x1, y1, x2, y2) of each in pixels; what is not a number is left out.
        classes: The class of each.
        size: (H, W) of the image.
        names: The names of the classes.
        is_true: Whether they are true objects'.
        probabilities: How probable each is; none where that is not known.

    Example:
        >>> make_boxes([(0, 5, 10, 10)], [1], (10, 20), Names(["cat", "dog"]), is_true=True)
        [Box(corners=(0.0, 0.5, 0.5, 1.0), words='dog', is_true=True)]
    """
    boxes = []
    for number, (own, index) in enumerate(zip(corners, classes, strict=True)):
        if not np.isfinite(own).all():
            continue
        x1, y1, x2, y2 = (float(value) / size[1 - place % 2] for place, value in enumerate(own))
        words = names.caption(index, *probabilities[number : number + 1]).text
        boxes.append(Box((x1, y1, x2, y2), words if names.has(index) or probabilities else f"class {words}", is_true))
    return boxes


def draw_boxes(cell: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Return a cell with boxes: detected ones a white line, true ones a dashed green one, the words beside them.

    Args:
        cell: `(h, w, 3)`, uint8.
        boxes: The boxes; what lies outside the image is cut.

    Example:
        >>> draw_boxes(torch.zeros(4, 4, 3, dtype=torch.uint8), [Box((0.25, 0.25, 1, 0.75))])[..., 0]
        tensor([[  0,   0,   0,   0],
                [  0, 255, 255, 255],
                [  0, 255, 255, 255],
                [  0,   0,   0,   0]], dtype=torch.uint8)
    """
    if not boxes:
        return cell
    page = Image.fromarray(np.ascontiguousarray(cell.cpu().numpy()))
    draw = ImageDraw.Draw(page)
    edge = int(max(cell.shape[:2]) >= _LEAST_WIDE)  # else it would hide a part of the object
    placed = [(box, _pixels(box, cell.shape[1], cell.shape[0])) for box in boxes]
    for box, pixels in sorted(placed, key=lambda pair: not pair[0].is_true):  # detected ones above
        _draw_line(draw, pixels, edge, is_dashed=box.is_true)
    font = get_font(min(max(max(cell.shape[:2]) // _SIDE_OF_AN_EM, _SMALLEST_FONT), _LARGEST_FONT))
    taken: list[_Pixels] = []
    for box, pixels in placed:
        if box.words:
            taken.append(_write(draw, box, pixels, font, (cell.shape[1], cell.shape[0]), taken))
    return torch.from_numpy(np.array(page))


_Pixels: TypeAlias = tuple[int, int, int, int]


def _pixels(box: Box, width: int, height: int) -> _Pixels:
    """Return the left, top, right and bottom pixels of a box, those within the cell."""
    x1, y1, x2, y2 = (round(value * (height if place % 2 else width)) for place, value in enumerate(box.corners))
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, min(max(x2 - 1, left), width - 1), min(max(y2 - 1, top), height - 1)


def _draw_line(draw: ImageDraw.ImageDraw, pixels: _Pixels, edge: int, *, is_dashed: bool) -> None:
    left, top, right, bottom = pixels
    if not is_dashed:
        if edge:
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_EDGE, width=3)
        draw.rectangle(pixels, outline=_PREDICTED)
        return
    draw.rectangle(pixels, outline=_EDGE, width=1 + edge)
    for begin in range(left, right + 1, 2 * _DASH):
        end = min(begin + _DASH - 1, right)
        draw.rectangle((begin, top, end, top + edge), fill=_TRUE)
        draw.rectangle((begin, bottom - edge, end, bottom), fill=_TRUE)
    for begin in range(top, bottom + 1, 2 * _DASH):
        end = min(begin + _DASH - 1, bottom)
        draw.rectangle((left, begin, left + edge, end), fill=_TRUE)
        draw.rectangle((right - edge, begin, right, end), fill=_TRUE)


def _write(
    draw: ImageDraw.ImageDraw,
    box: Box,
    pixels: _Pixels,
    font: Font,
    size: tuple[int, int],
    taken: Sequence[_Pixels],
) -> _Pixels:
    """Write a box's words on a dark band at one of its corners, where no other's are; return where they stand."""
    left, top, right, bottom = pixels
    line = cut_line(box.words, font, size[0] - 4)
    width, height = round(font.getlength(line)) + 4, font.height
    x1, x2 = (min(max(x, 0), max(size[0] - width, 0)) for x in (left, right - width + 1))
    corners = [(x, y) for y in (top - height, bottom + 1, top, bottom - height + 1) for x in (x1, x2)]
    bands = [(x, y, x + width - 1, y + height - 1) for x, y in corners if 0 <= y <= size[1] - height]
    band = next((band for band in bands if not any(_overlap(band, other) for other in taken)), bands and bands[0])
    band = band or (x1, 0, x1 + width - 1, height - 1)
    draw.rectangle(band, fill=_EDGE)
    font.write(draw, band[0] + 2, band[1] + font.ascent, line, _TRUE if box.is_true else _PREDICTED)
    return band


def _overlap(one: _Pixels, other: _Pixels) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
