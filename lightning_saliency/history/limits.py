"""How large the files of a record can be, checked before they are written and before anything in them is unpacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MAX_VALUES = 2**28
"""The most map values and logits of a look, and the most bytes of the samples' images."""

Size = tuple[int, ...]
"""Height and width of an image or a map; the one length of signals, and the three of volumes."""

Sizes = Mapping[int, Size]
"""By position, the size of a sample's image."""


def check_images(channels: int, sizes: Sequence[Size]) -> None:
    """Raise unless images can have these sizes."""
    if channels < 1:
        raise ValueError(f"Expected the number of channels to be at least 1, got {channels}.")
    count = channels * sum(map(math.prod, sizes))
    if count > MAX_VALUES:
        raise ValueError(f"Expected images of at most {MAX_VALUES} values in all, got {count}.")


def check_maps(positions: Sequence[int], shapes: Mapping[str, Sequence[Size]], num_classes: int, sizes: Sizes) -> None:
    """Raise unless these are shapes that the maps and logits of a look can have."""
    if num_classes < 0:
        raise ValueError(f"Expected the number of classes to be at least 0, got {num_classes}.")
    count = num_classes * len(positions) + sum(math.prod(shape) for of in shapes.values() for shape in of)
    if count > MAX_VALUES:
        raise ValueError(f"Expected maps and logits of at most {MAX_VALUES} values in all, got {count}.")
    for method, of in shapes.items():
        for position, shape in zip(positions, of, strict=True):
            # a model that enlarges small images has maps that are larger than they are
            largest = tuple(max(4 * side, 1024) for side in sizes.get(position, shape))
            if len(shape) != len(largest) or any(side > most for side, most in zip(shape, largest, strict=True)):
                raise ValueError(
                    f"Expected a map of sample {position} to be at most {largest}, since its image is "
                    f"{sizes[position]}, got {shape} for {method!r}."
                )
