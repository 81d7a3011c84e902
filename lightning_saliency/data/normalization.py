"""The normalization of images, found in the transforms of a data set or in a model, and checked on numbers."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.data.datasets import attempt, attributes, walk_datasets, walk_transforms

_NAMES = (("mean", "std"), ("image_mean", "image_std"))
"""What a transform calls what it subtracts and what it divides by."""

_MOST_CHANNELS = 2**10
"""The most channels of images."""

_WHITE = (1.0, 2**8 - 1.0, 2**16 - 1.0)
"""The values of a white pixel in what a transform takes: floating-point numbers, 8 and 16 bits."""

_GRAYS = (0.25, 0.75)
"""The shades, from black to white, on which a transform is tried."""

_TOLERANCE = 1e-4
"""How far the response of a transform may be from what it says of itself, relative to the largest number of it."""

_CALLS: tuple[Callable[[Any, Tensor], Any], ...] = (
    lambda transform, image: transform(image),
    lambda transform, image: transform(image[None]),
    lambda transform, image: transform(image=image.movedim(0, -1).numpy()),
    lambda transform, image: transform(image.movedim(0, -1).numpy()),
)
"""How transforms take an image `(C, H, W)`: as a tensor, a batch, an array that is named, an array."""

_SLACK = 0.1
"""How far from black or white a pixel may be: interpolation overshoots, and noise may have been added."""

_FEWEST_IN_RANGE = 0.99
"""The least fraction of pixels that are between black and white in images that are undone rightly."""


class Normalization(NamedTuple):
    """What was subtracted from images of pixels in [0, 1], and what they were then divided by.

    Attributes:
        mean: One number per channel, or one for all.
        std: Likewise.
    """

    mean: list[float]
    std: list[float]

    def fits(self, images: Sequence[Tensor]) -> bool:
        """Whether images, with the normalization undone, are pixels: 99 % of them in [0, 1], within a tenth.

        Args:
            images: Batches `(N, C, …)`, as the model takes them. Pixels that are not finite do not count.

        Example:
            >>> import torch
            >>> pixels = torch.rand(2, 3, 8, 8)
            >>> Normalization([0.5], [0.25]).fits([(pixels - 0.5) / 0.25]), Normalization([0.0], [0.5]).fits([-pixels])
            (True, False)
        """
        num_outside = num_finite = 0
        for batch in images:
            if len(self.mean) not in (1, batch.shape[1]):
                return False
            # in place of the images, the limits are brought to the scale of the model's inputs
            shape = (-1, *[1] * (batch.dim() - 2))
            mean, std = (torch.tensor(numbers, device=batch.device).view(shape) for numbers in self)
            is_outside = (batch < (-_SLACK - mean) / std) | (batch > (1 + _SLACK - mean) / std)
            is_finite = batch.isfinite()
            num_outside += int((is_outside & is_finite).sum())
            num_finite += int(is_finite.sum())
        return num_outside <= (1 - _FEWEST_IN_RANGE) * num_finite


PIXELS = Normalization([0.0], [1.0])
"""The normalization of images that are pixels in [0, 1] as they are."""


def find_normalizations(*owners: Any) -> list[Normalization]:
    """Return the normalizations of images in the transforms of a data set, or in a model or a data module.

    They are found by what they do: whatever has a `mean` and a `std` is tried on two gray images, and is a
    normalization if it subtracts these numbers and divides by those: torchvision's `Normalize` and its presets,
    albumentations', kornia's, and one's own; not noise of this mean and deviation. A copy is tried, and the random
    states of the process are restored. What normalizes images of pixels in [0, 255] is brought to [0, 1].

    Args:
        owners: Data sets, also wrapped ones, data modules and models, in the order in which they are searched.

    Returns:
        Each normalization once, in the order in which they were found.

    Example:
        >>> from types import SimpleNamespace
        >>> from torchvision.transforms import v2
        >>> transform = v2.Compose([v2.ToImage(), v2.Normalize(mean=[0.5], std=[0.25])])
        >>> find_normalizations(SimpleNamespace(transform=transform))
        [Normalization(mean=[0.5], std=[0.25])]
    """
    normalizations: list[Normalization] = []
    for owner in owners:
        for component in _transforms(owner):
            normalization = _normalization_of(component)
            if normalization is not None and normalization not in normalizations:
                normalizations.append(normalization)
    return normalizations


def to_unit_range(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """Return the normalization of images of pixels in [0, 1], also where the numbers are of pixels in [0, 255].

    Example:
        >>> to_unit_range([127.5], [51.0])
        Normalization(mean=[0.5], std=[0.2])
    """
    white = 1.0 if max(*map(abs, mean), *std) <= 2 else 255.0
    return Normalization([number / white for number in mean], [number / white for number in std])


def _transforms(owner: Any) -> Iterator[Any]:
    """Yield the transforms of a data set or of what holds some, and the modules and transforms of a model."""
    for dataset in walk_datasets(owner):
        yield from walk_transforms(dataset)


def _normalization_of(transform: Any) -> Normalization | None:
    """Return the normalization that a transform is; None for any other."""
    if not _may_be_called(transform):
        return None
    # kornia's augmentations have their numbers in a dict
    for holder in (transform, *(value for value in attributes(transform).values() if type(value) is dict)):
        for names in _NAMES:
            mean, std = (attempt(partial(_numbers_at, holder, name)) for name in names)
            if mean and std and min(std) > 0 and len({len(mean), len(std), 1}) <= 2:
                count = max(len(mean), len(std))
                mean, std = mean * (count // len(mean)), std * (count // len(std))
                if attempt(partial(_normalizes, transform, mean, std)):
                    return to_unit_range(mean, std)
    return None


def _may_be_called(transform: Any) -> bool:
    """Whether a copy of a transform is small: not of a network, nor of a whole LightningModule with its trainer."""
    return callable(transform) and not (issubclass(type(transform), nn.Module) and any(transform.children()))


def _numbers_at(holder: Any, name: str) -> list[float] | None:
    """Return the numbers of a sequence, tensor or array as floats; None for anything else."""
    value = holder.get(name) if isinstance(holder, dict) else getattr(holder, name)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.reshape(-1).tolist() if math.prod(value.shape) <= _MOST_CHANNELS else None
    value = [value] if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or len(value) > _MOST_CHANNELS:
        return None
    numbers = list(islice(value, len(value)))
    is_known = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    return list(map(float, numbers)) if is_known else None


def _normalizes(transform: Any, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a transform subtracts one number from each channel, and divides by another: tried on gray images."""
    with _random_states_kept(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        copied = copy.deepcopy(transform)
        if isinstance(copied, nn.Module):
            copied = copied.to("cpu").forward  # without the hooks of the training
        return any(
            attempt(partial(_agrees, partial(call, copied), white, mean, std))
            for call, white in product(_CALLS, _WHITE)
        )


def _agrees(call: Callable[[Tensor], Any], white: float, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a transform, in one way of calling it, answers with the normalized image for each shade of gray."""
    count = len(mean)
    side = 8 if count != 8 else 9  # so that the channels can be told from rows and columns
    for gray in _GRAYS:
        image = torch.full((count, side, side), gray * white, dtype=torch.float32, device="cpu")
        response = _channels_first(_first_array(call(image)), count)
        expected = (gray - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(std, dtype=torch.float64)
        allowed = _TOLERANCE * max(1.0, float(expected.abs().max()))
        if not response.numel() or not bool(((response - expected[:, None]).abs() <= allowed).all()):
            return False
    return True


def _first_array(value: Any) -> Tensor:
    """Return the first tensor or array of what a transform returns, as it may be in a dict or a list."""
    for _ in range(4):
        if isinstance(value, Mapping | list | tuple):
            value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return torch.as_tensor(value).to("cpu", torch.float64)


def _channels_first(image: Tensor, count: int) -> Tensor:
    """Return the pixels of each channel `(C, P)` of an image whose channels are first or last."""
    if count == 1:
        return image.reshape(1, -1)
    image = image.squeeze()
    return image.movedim(image.shape.index(count), 0).reshape(count, -1)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Restore the random states of the process after the context: a transform may draw random numbers."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
