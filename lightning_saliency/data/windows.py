"""`Windows`: images that a step has cut out of those of its batch, found again by their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import Path, mapped

_MOST_PLACES = 64
"""The most places of an image that are held against a window: those that have its largest pixel."""


@dataclass(frozen=True)
class Windows:
    """Where windows were cut out of the images of a batch.

    Attributes:
        whole: The images, `(N, C, *S)`.
        size: The size of a window; larger than S along axes along which the images were padded.
        places: Of each window the image that it is of, and where it begins; None where that is at several places.
    """

    whole: Tensor
    size: tuple[int, ...]
    places: tuple[tuple[int, tuple[int, ...]] | None, ...]

    @property
    def is_one_of_each(self) -> bool:
        """Whether each image has one window, in their order, so that what is true of the images is true of these."""
        return [place and place[0] for place in self.places] == list(range(len(self.whole)))

    def cut(self, batch: Any) -> Any:
        """Return a batch of the windows: what has pixels, such as masks, is cut as the images were.

        Of other values those remain that are true of the windows too; None stands for the others.
        """
        is_known = None not in self.places and all(
            of_window <= of_image for of_window, of_image in zip(self.size, self.whole.shape[2:], strict=True)
        )

        def cut(_: Path, value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.dim() > len(self.size) and len(value) == len(self.whole)):
                return value if self.is_one_of_each else None
            if value.shape[-len(self.size) :] != self.whole.shape[2:]:
                return value if self.is_one_of_each else None
            places = [place for place in self.places if place is not None]
            return torch.stack([_window(value[row], start, self.size) for row, start in places]) if is_known else None

        return mapped(batch, cut)


def find_windows(images: Tensor, whole: Tensor) -> Windows | None:
    """Return where images were cut out of larger ones; None where not all of them were.

    Where the size of a window is larger than an image's, the image was padded to it on both sides.

    Args:
        images: `(M, C, *s)`.
        whole: The images of a batch, `(N, C, *S)`.

    Example:
        >>> whole = torch.rand(2, 3, 8, 8)
        >>> find_windows(torch.stack([whole[0, :, :4, 4:], whole[1, :, 2:6, :4]]), whole).places
        ((0, (0, 4)), (1, (2, 0)))
    """
    is_similar = images.dim() == whole.dim() and images.shape[1] == whole.shape[1]
    if not is_similar or images.shape[2:] == whole.shape[2:] or not images.is_floating_point():
        return None
    places = []
    for window in images:
        found = list(islice(_places(window, whole.to(images)), 2))
        if not found:
            return None
        places.append(found[0] if len(found) == 1 else None)
    return Windows(whole, tuple(images.shape[2:]), tuple(places))


def _places(window: Tensor, whole: Tensor) -> Any:
    """Yield where a window is in the images: the index of the image, and where it begins."""
    padding = []
    for axis, (size, full) in enumerate(zip(window.shape[1:], whole.shape[2:], strict=True), 1):
        padding.append(max(size - full, 0) // 2)
        window = window.narrow(axis, padding[-1], min(size, full))
    largest = window[0].abs().argmax()
    pixel = [int(index) for index in torch.unravel_index(largest, window[0].shape)]
    for row, image in enumerate(whole):
        region = image[0]
        for axis, offset in enumerate(pixel):
            region = region.narrow(axis, offset, image.shape[1 + axis] - window.shape[1 + axis] + 1)
        for place in islice((region == window[0].flatten()[largest]).nonzero(), _MOST_PLACES):
            start = tuple(place.tolist())
            if torch.equal(_window(image, start, tuple(window.shape[1:])), window):
                yield row, tuple(begin - pad for begin, pad in zip(start, padding, strict=True))


def _window(image: Tensor, start: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Return a window of the last axes of an image."""
    for axis, (begin, length) in enumerate(zip(start, size, strict=True)):
        image = image.narrow(image.dim() - len(size) + axis, begin, length)
    return image
