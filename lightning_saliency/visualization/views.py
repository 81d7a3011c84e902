"""What a cell shows of a sample that is not simply one image: slices of a volume, frames of a video, pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.visualization.images import Images

Volumes: TypeAlias = Literal["auto", "slices", "frames"]
"""How volumes `(N, C, D, H, W)` are shown: slices through a point, or frames; `auto`: frames where they have colors."""

_NUM_FRAMES = 3
_MOST_ASPECT = 8
"""The longer side of an image in its shorter ones, from which it is cut into pieces."""
_MOST_PIECES = 12


@dataclass(frozen=True)
class Panel:
    """A two-dimensional part of a sample.

    Attributes:
        index: Of each spatial axis the position, or the slice, that is shown.
        place: Row and column in the cell.
        is_turned: Whether the second of the two axes runs downward.
        cross: The point that is marked, (y, x) in pixels of the part, or None.
    """

    index: tuple[int | slice, ...]
    place: tuple[int, int]
    is_turned: bool = False
    cross: tuple[int, int] | None = None


@dataclass(frozen=True)
class View:
    """The parts of a sample that its cell shows.

    Attributes:
        panels: The parts, each at its place.
        words: Which they are, for a label.
        name: What the sample is.
        is_wide: Whether they stand side by side, in a cell that is wider than others.

    Example:
        >>> view = slices_view((32, 64, 64), (11, 40, 20))
        >>> view.words, [tuple(part.shape) for part in view.cut(torch.zeros(1, 32, 64, 64)).parts]
        ('slice 12 of 32', [(1, 64, 64), (1, 32, 64), (1, 64, 32)])
    """

    panels: tuple[Panel, ...]
    words: str
    name: Literal["volume", "video", "image"]
    is_wide: bool = False

    def cut(self, values: Tensor) -> Cut:
        """Return the parts of a sample's picture or heatmap `(C, *size)`."""
        parts = [values[(slice(None), *panel.index)] for panel in self.panels]
        turned = [part.mT if panel.is_turned else part for part, panel in zip(parts, self.panels, strict=True)]
        return Cut(tuple(part.clone() for part in turned), self)


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of a sample's picture, uint8 `(3, h, w)`, or of its heatmap, `(1, h, w)` in [0, 1].

    Attributes:
        parts: One for each panel.
        view: The view.
    """

    parts: tuple[Tensor, ...]
    view: View


Shown: TypeAlias = Images | Sequence[Tensor | Cut]
"""Images or heatmaps as a sheet shows them, some of them cut."""


def make_views(images: Images, columns: Iterable[Images] = (), volumes: Volumes = "auto") -> list[View | None]:
    """Return of each sample the view of it, or None where it is shown whole.

    The slices of a volume go through the point where its heatmap is largest, the first one that is not blank; without
    heatmaps, through its middle. Of the frames of a video one is that point's. An image that is more than eight times
    as long as it is wide is cut into pieces.

    Args:
        images: Pictures `(N, C, H, W)`, `(N, C, D, H, W)` or `(N, C, T)`, or a list of N of them.
        columns: The heatmaps of all columns, each `(N, 1, H, W)` or likewise, or a list of N of them.
        volumes: How volumes are shown.
    """
    columns = list(columns)
    return [_view(image, [maps[row][0] for maps in columns], volumes) for row, image in enumerate(images)]


def cut_images(values: Images, views: Sequence[View | None]) -> Shown:
    """Return pictures or heatmaps with those cut that have a view.

    Args:
        values: A picture or heatmap of each sample.
        views: What `make_views` returned.
    """
    if not any(views):
        return values
    return [value if view is None else view.cut(value) for value, view in zip(values, views, strict=True)]


def slices_view(size: Sequence[int], point: Sequence[int]) -> View:
    """Return the view of the three slices of a volume through a point.

    The slice of the first axis stands at the top left (axial, where that goes from head to foot); below it that of the
    second (coronal), beside it that of the third (sagittal). Those of which a side is one pixel are left out.

    Args:
        size: (D, H, W).
        point: Its coordinates.
    """
    z, y, x = point
    whole = slice(None)
    axial = Panel((z, whole, whole), (0, 0), cross=(y, x))
    coronal = Panel((whole, y, whole), (1, 0), cross=(z, x))
    sagittal = Panel((whole, whole, x), (0, 1), is_turned=True, cross=(y, z))
    sides = [(axial, size[1:]), (coronal, (size[0], size[2])), (sagittal, size[:2])]
    panels = tuple(panel for panel, lengths in sides if min(lengths) > 1)
    return View(panels or (axial,), f"slice {z + 1} of {size[0]}" if size[0] > 1 else "", "volume")


def frames_view(size: Sequence[int], frame: int | None = None) -> View:
    """Return the view of a few frames of a video, evenly spaced, but for the one that is given.

    Args:
        size: (T, H, W).
        frame: The index of a frame that is among them, in place of the nearest one.

    Example:
        >>> frames_view((16, 112, 112), 9).words
        'frames 3, 10, 14 of 16'
    """
    count = min(_NUM_FRAMES, size[0])
    chosen = [int((index + 0.5) * size[0] / count) for index in range(count)]
    if frame is not None:
        nearest = min(range(count), key=lambda index: abs(chosen[index] - frame))
        chosen[nearest] = frame
    panels = tuple(Panel((index, slice(None), slice(None)), (0, column)) for column, index in enumerate(chosen))
    listed = ", ".join(str(index + 1) for index in chosen)
    return View(panels, f"frame{'s' if count > 1 else ''} {listed} of {size[0]}", "video", is_wide=True)


def pieces_view(size: Sequence[int]) -> View:
    """Return the view of an image that is much longer than it is wide, cut into pieces of about a square in all.

    Args:
        size: (H, W).

    Example:
        >>> pieces_view((40, 3000)).words
        'cut into 9 pieces'
    """
    length, count = max(size), min(round(math.sqrt(max(size) / min(size))), _MOST_PIECES)
    ends = [round(index * length / count) for index in range(count + 1)]
    is_high = size[0] > size[1]
    panels = []
    for index in range(count):
        part = slice(ends[index], ends[index + 1])
        place = (0, index) if is_high else (index, 0)
        panels.append(Panel((part, slice(None)) if is_high else (slice(None), part), place))
    return View(tuple(panels), f"cut into {count} pieces", "image")


def _view(image: Tensor, heatmaps: Sequence[Tensor], volumes: Volumes) -> View | None:
    size = tuple(image.shape[1:])
    if len(size) == 2 and max(size) > _MOST_ASPECT * min(size):
        return pieces_view(size)
    if len(size) != 3:
        return None
    largest = next((maps.argmax() for maps in heatmaps if maps.amax() > maps.amin()), None)
    point = None if largest is None else [int(place) for place in torch.unravel_index(largest.cpu(), size)]
    if volumes == "frames" or (volumes == "auto" and image.shape[0] == 3):
        return frames_view(size, None if point is None else point[0])
    return slices_view(size, point or [length // 2 for length in size])
