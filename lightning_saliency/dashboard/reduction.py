"""What a report leaves out so that it stays below its limit: pixels of maps and images, then looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history import LookSummary, RecordedLevels, RecordedSamples
from lightning_saliency.history.levels import quantize, restore

FACTORS = (1, 2, 4, 8, 16)
"""By how much lengths of maps and images are reduced."""

_COARSE = 32
"""Maps of at most so many pixels a side are not reduced: they are the network's own."""


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
        if self.images == 1:
            return samples
        images = tuple(
            np.rint(np.stack([_averaged(channel, self.images) for channel in image])).astype(np.uint8)
            if image.ndim > 2
            else image
            for image in samples.images
        )
        return replace(samples, images=images, boxes=self._boxes(samples.boxes))

    def summary(self, look: LookSummary) -> LookSummary:
        """Return the small parts of a look with the shapes of the smaller maps."""
        shapes = {method: tuple(map(self._shape, of)) for method, of in look.shapes.items()}
        return replace(look, shapes=shapes, boxes=self._boxes(look.boxes))

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
        """Return by how much a map is reduced: by less where it would become too small."""
        if max(shape) <= _COARSE:
            return 1
        return max(factor for factor in FACTORS if factor <= self.maps and 2 * max(shape) >= factor * _COARSE)

    def _boxes(self, boxes: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
        return tuple(corners / np.float32(self.images) for corners in boxes)


def _averaged(values: NDArray[np.number], factor: int) -> NDArray[np.float64]:
    """Return the means of blocks of so many values a side; at the ends of those that there are."""
    means = values.astype(np.float64)
    for axis, length in enumerate(means.shape):
        starts = np.arange(0, length, factor)
        sums = np.add.reduceat(means, starts, axis)
        counts = np.diff(np.append(starts, length))
        means = sums / counts.reshape([-1 if own == axis else 1 for own in range(means.ndim)])
    return means
