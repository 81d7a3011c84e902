"""What `explain` takes: a model's inputs, photographs, or a batch of a loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsInt

import torch
from torch import Tensor

from lightning_saliency._checks import refuse, shown
from lightning_saliency.data import Call, find_images, find_labels, is_photo, make_call, transformed
from lightning_saliency.evidence import Forward


@dataclass(frozen=True)
class Inputs:
    """What a model is called with, and what is known of it.

    Attributes:
        call: The call.
        labels: The true classes `(N,)` int64, where they came with the images.
        transform: What turned photographs into the images, where they were some.
    """

    call: Call
    labels: Tensor | None = None
    transform: Callable[..., Any] | None = None


def parse_inputs(forward: Forward, images: Any, transform: Callable[..., Any] | None = None) -> Inputs:
    """Return the model's call for what a caller of `explain` passed, with the labels that came with it.

    Args:
        forward: How the model is run.
        images: See `explain`.
        transform: What turns photographs into tensors.

    Raises:
        TypeError: They are of another kind.
        ValueError: They are of another shape, cannot be read, or there is no transform for them.
    """
    if is_photo(images) and not (isinstance(images, Tensor) and transform is None):
        return Inputs(forward.call_of(transformed([images], transform)), None, transform)
    if isinstance(images, list | tuple) and len(images) and all(map(is_photo, images)):
        return Inputs(forward.call_of(transformed(images, transform)), None, transform)
    if isinstance(images, Tensor | Call) or _is_call(images):
        return Inputs(parse_images(forward, images))
    if _is_sample(images):
        image, label = images
        inputs = parse_inputs(forward, image, transform)
        return Inputs(inputs.call, torch.tensor([int(label)]), inputs.transform)
    if not isinstance(images, list | tuple | Mapping):
        refuse("images", _EXPECTED, shown(images), error=TypeError)
    try:
        found = find_images(images, signals=True)
    except ValueError as error:
        refuse("images", _EXPECTED, shown(images), hint=str(error))
    call = parse_images(forward, found)
    return Inputs(call, find_labels(images, len(call)))


_EXPECTED = (
    "a tensor (N, C, H, W), an image as a tensor (C, H, W), of Pillow, as an array (H, W, C) or as a file's path, or a "
    "batch of a loader"
)


def _is_call(images: Any) -> bool:
    """Whether it is a pair of positional and keyword arguments."""
    return isinstance(images, tuple) and len(images) == 2 and isinstance(images[1], Mapping)


def _is_sample(images: Any) -> bool:
    """Whether it is an entry of a data set: an image and its class."""
    if not isinstance(images, tuple | list) or len(images) != 2:
        return False
    image, label = images
    is_image = is_photo(image) or (isinstance(image, Tensor) and image.dim() == 3)
    return is_image and getattr(label, "ndim", 0) == 0 and isinstance(label, SupportsInt) and not isinstance(label, str)


def parse_images(forward: Forward, images: Any) -> Call:
    """Return the model's call for the images, or the arguments, that a caller of `explain` passed.

    Args:
        forward: How the model is run.
        images: See `explain`.

    Raises:
        TypeError: They are no floating-point tensor, and no call.
        ValueError: They are not of shape `(N, C, H, W)`, or empty; or a call holds no images.
    """
    if isinstance(images, Call):
        return images
    if _is_call(images):
        return make_call(*images, signals=True)
    if not isinstance(images, Tensor):
        raise TypeError(f"Expected `images` to be a tensor (N, C, H, W), got {type(images).__name__}.")
    if images.dim() not in (3, 4, 5) or not images.numel():
        raise ValueError(
            f"Expected `images` to be (N, C, H, W) or (C, H, W), got shape {tuple(images.shape)}. Volumes are "
            "(N, C, D, H, W), signals (N, C, T)."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"Expected `images` to be floating point, as the model takes them, got {images.dtype}. Convert and "
            "normalize them as in training, or pass an image (C, H, W) and `transform=...`; for a model that converts "
            "them itself pass `((images,), {})`."
        )
    batch = forward.call_of(images.detach())
    if images.dim() > 3:
        return batch
    image = forward.call_of(images.detach()[None])
    return batch if not _takes(forward, image) and _takes(forward, batch) else image


def _takes(forward: Forward, call: Call) -> bool:
    """Whether a run of the model on the first sample of a call succeeds."""
    with forward.undisturbed() as isolated, torch.no_grad():
        try:
            isolated(call[:1])
        except Exception:  # whatever a model raises where it is called with something else than it takes
            return False
    return True
