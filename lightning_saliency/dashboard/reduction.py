"""What a report leaves out so that it stays below its limit: pixels of maps and images, then looks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history import LookSummary, RecordedLevels, RecordedSamples
from lightning_saliency.history.levels import quantize, restore

FACTORS = (1, 2, 4, 8, 16)
"""By how much lengths of maps and images are reduced."""

_COARSE = 32
"""Maps of at most so many pixels a side are not reduced: they are the network's own."""

_SMALL = 96
"""Nor are images of at most so many."""


@dataclass(frozen=True)
class Reduction:
    """What is left out.

    Attributes:
        maps: By how much the lengths of maps with many pixels are reduced.
        images: By how much those of images are.
        most_looks: The most looks of a record that are shown; None for all.
    """

    maps: int = 1
    images: int = 1
    most_looks: int | None = None

    def places(self, count: int) -> list[int]:
        """Return which of so many looks are shown, evenly spread: the first and the last always.

        Example:
            >>> Reduction(most_looks=3).places(10), Reduction().places(3)
            ([0, 4, 9], [0, 1, 2])
        """
        kept = count if self.most_looks is None else min(count, self.most_looks)
        return sorted({round(place) for place in np.linspace(0, count - 1, kept)}) if count else []

    def samples(self, samples: RecordedSamples) -> RecordedSamples:
        """Return samples with smaller images, and boxes that fit these; signals as they are."""
        factors = [self._image_factor(image.shape[1:]) for image in samples.images]
        images = tuple(_smaller(image, factor) for image, factor in zip(samples.images, factors, strict=True))
        return replace(samples, images=images, boxes=_divided(samples.boxes, factors))

    def summary(self, look: LookSummary, sizes: Mapping[int, tuple[int, ...]]) -> LookSummary:
        """Return the small parts of a look with the shapes of the smaller maps, and boxes that fit smaller images.

        Args:
            look: The look.
            sizes: By position, how large the image of a sample is.
        """
        shapes = {method: tuple(map(self._shape, of)) for method, of in look.shapes.items()}
        factors = [self._image_factor(sizes.get(position, ())) for position in look.positions]
        return replace(look, shapes=shapes, boxes=_divided(look.boxes, factors))

    def levels(self, levels: RecordedLevels) -> RecordedLevels:
        """Return maps with fewer pixels, each with the range that it then has."""
        maps, ranges = list(levels.maps), levels.ranges.copy()
        for place, level in enumerate(levels.maps):
            factor = self._factor(level.shape)
            if factor > 1:
                values = restore(level[None], levels.ranges[place : place + 1])[0]
                (maps[place],), (ranges[place],) = quantize(_averaged(values, factor)[None])
        return replace(levels, maps=tuple(maps), ranges=ranges)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(math.ceil(side / self._factor(shape)) for side in shape)

    def _factor(self, shape: tuple[int, ...]) -> int:
        return _factor(shape, self.maps, _COARSE)

    def _image_factor(self, size: tuple[int, ...]) -> int:
        return 1 if len(size) < 2 else _factor(size, self.images, _SMALL)


def _factor(shape: tuple[int, ...], most: int, small: int) -> int:
    """Return by how much lengths are reduced: by less where they would become less than half of what is small."""
    if max(shape) <= small:
        return 1
    return max(factor for factor in FACTORS if factor <= most and 2 * max(shape) >= factor * small)


def _smaller(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return image
    return np.rint(np.stack([_averaged(channel, factor) for channel in image])).astype(np.uint8)


def _divided(boxes: Sequence[NDArray[np.float32]], factors: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """Return the boxes of each sample in pixels of its smaller image; of a task without boxes none."""
    return tuple(corners / np.float32(factor) for corners, factor in zip(boxes, factors, strict=bool(boxes)))


def _averaged(values: NDArray[np.number], factor: int) -> NDArray[np.float64]:
    """Return the means of blocks of so many values a side; at the ends of those that there are."""
    means = values.astype(np.float64)
    for axis, length in enumerate(means.shape):
        starts = np.arange(0, length, factor)
        sums = np.add.reduceat(means, starts, axis)
        counts = np.diff(np.append(starts, length))
        means = sums / counts.reshape([-1 if own == axis else 1 for own in range(means.ndim)])
    return means
