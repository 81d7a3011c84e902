"""Maps in 8 bits a value, each with its own range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def quantize(maps: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round each map to 256 levels between its minimum and its maximum.

    Args:
        maps: `(n, h, w)`, or with another number of axes; rounded to float32 first.

    Returns:
        The levels, `(n, h, w)` uint8, and the minimum and maximum of each map, `(n, 2)` float32. A map that is not
        finite has a range of NaN.

    Example:
        >>> levels, ranges = quantize(np.array([[[0.0, 1.0], [2.0, 4.0]]]))
        >>> levels.tolist(), ranges.tolist()
        ([[[0, 64], [128, 255]]], [[0.0, 4.0]])
    """
    values = np.asarray(maps, dtype=np.float32)
    rows = values.reshape(len(values), -1)
    low, high = rows.min(1), rows.max(1)
    finite = np.isfinite(low) & np.isfinite(high)
    ranges = np.where(finite[:, None], np.stack([low, high], 1), np.float32(np.nan))
    levels = np.zeros(values.shape, np.uint8)
    # in float64, since a range of float32 values may itself be too large or its inverse too large for float32
    spans = np.subtract(high, low, dtype=np.float64, where=finite, out=np.zeros(len(values)))
    for place in np.flatnonzero(spans):  # one at a time stays in the processor's cache
        levels[place] = np.rint((values[place] - np.float64(low[place])) * (255 / spans[place]))
    return levels, ranges


def restore(levels: NDArray[np.uint8], ranges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the maps that `quantize` rounded, each value within 1/510 of its map's range.

    Args:
        levels: `(n, h, w)` uint8, or with another number of axes.
        ranges: The minimum and maximum of each map, `(n, 2)` float32.

    Returns:
        The maps, `(n, h, w)` float32. Minimum and maximum are exactly those of before; a map whose range is NaN is NaN.

    Example:
        >>> (restore(*quantize(np.array([[[0.0, 0.2], [0.6, 1.0]]]))) * 255).tolist()
        [[[0.0, 51.0], [153.0, 255.0]]]
    """
    low, high = ranges.astype(np.float64).T[:, :, None]
    tables = (low + np.arange(256) / 255 * (high - low)).astype(np.float32)
    tables[:, 255] = ranges[:, 1]  # not low + (high − low), which may differ in the last bit
    maps = np.empty(levels.shape, np.float32)
    for table, of_map, out in zip(tables, levels, maps, strict=True):
        np.take(table, of_map, out=out, mode="clip")  # no level lies outside; this mode needs no copy
    return maps
