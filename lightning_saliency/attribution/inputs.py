"""What `explain` takes: a model's inputs, photographs, or a batch of a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, SupportsInt

import numpy as np
import torch
from torch import Tensor

from lightning_saliency._checks import refuse, shown
from lightning_saliency.data import (
    LABEL_NAMES,
    Call,
    Path,
    at_path,
    children,
    describe,
    find_entry,
    find_label_columns,
    find_labels,
    find_values,
    is_images,
    is_photo,
    make_call,
    mapped,
    read_classes,
    transformed,
)
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
        ValueError: They are of another shape, cannot be read, or there is no transform for them; or the labels are not
            one class for each image.
    """
    if isinstance(images, Call) or _is_call(images):
        return Inputs(parse_images(forward, images))
    path, given = _find_given(images)
    if isinstance(given, Tensor) and (transform is None or not is_photo(given)):
        inputs = Inputs(parse_images(forward, given))
    elif _is_photo(given):
        inputs = Inputs(forward.call_of(transformed([given], transform)), None, transform)
    elif is_photo(given[0]):
        inputs = Inputs(forward.call_of(transformed(given, transform)), None, transform)
    else:
        inputs = Inputs(_call_of_several(forward, given))
    has_values = forward.task is not None and forward.task.has_values
    count = len(inputs.call)
    batch = _as_batch(images, path, given) if count == 1 else images
    labels = _read_labels(batch, path, count, has_values=has_values) if path else None
    return replace(inputs, labels=None if has_values else labels)


_EXPECTED = (
    "a tensor (N, C, H, W), an image as a tensor (C, H, W), of Pillow, as an array (H, W, C) or as a file's path, a "
    "list of such images, or a batch of a loader"
)


def _is_call(images: Any) -> bool:
    """Whether it is a pair of positional and keyword arguments."""
    return isinstance(images, tuple) and len(images) == 2 and isinstance(images[1], Mapping)


def _is_photo(value: Any) -> bool:
    """Whether it is a photograph; an array of one axis holds labels."""
    return is_photo(value) and getattr(value, "ndim", 2) > 1


def _is_sequence(value: Any, is_entry: Callable[[Any], bool]) -> bool:
    """Whether it is a list or a tuple of nothing but such entries."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(is_entry, value))


def _is_batches(value: Any) -> bool:
    """Whether it is several batches of images of one shape, none of which is a mask of another."""
    return _is_sequence(value, is_images) and len(value) > 1 and len({batch.shape[1:] for batch in value}) == 1


_is_single = partial(is_images, num_axes=(3,))
"""Whether a value is one image `(C, H, W)`, or signals `(N, C, T)`."""

_KINDS: tuple[Callable[[Any], bool], ...] = (
    partial(is_images, num_axes=(4,)),
    partial(is_images, num_axes=(5,)),
    lambda value: _is_sequence(value, _is_single) and len(value) > 1,
    _is_single,
    lambda value: _is_photo(value) or _is_sequence(value, _is_photo),
)
"""What images may be, the likeliest first."""


def _find_given(images: Any) -> tuple[Path, Any]:
    """Return the images in what a caller passed, as they are, and their path in it, which is empty for themselves.

    Raises:
        TypeError: It is of another kind.
        ValueError: It holds none, or several batches.
    """
    if isinstance(images, Tensor) or _is_photo(images):
        return (), images
    if not children(images):
        refuse("images", _EXPECTED, shown(images), hint=_advise(images), error=TypeError)
    batches = find_entry(images, _is_batches)
    if batches is not None:
        refuse(
            "images",
            "one batch of images",
            describe(batches[1]),
            hint="Join them, `torch.cat(images)`, pass one of them, or for a model that takes several what it is "
            "called with, `((first, second), {})`.",
        )
    found = next(filter(None, (find_entry(images, is_kind) for is_kind in _KINDS)), None)
    if found is None:
        refuse("images", _EXPECTED, describe(images))
    return found


def _advise(images: Any) -> str:
    """Return what to pass in place of a loader or a data set; empty for anything else."""
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping | Sequence):
        return "Of a loader pass one batch, `next(iter(loader))`."
    return "Of a data set pass one entry, `dataset[0]`." if hasattr(images, "__getitem__") and images else ""


def _call_of_several(forward: Forward, images: Sequence[Tensor]) -> Call:
    """Return the model's call for several images `(C, H, W)`: for one batch of them, or where it takes that, a list.

    Raises:
        ValueError: They are of several sizes.
    """
    if len({image.shape for image in images}) > 1:
        refuse(
            "images",
            "of one size, whose maps are of one size too",
            f"shapes {', '.join(str(tuple(image.shape)) for image in images)}",
            hint="Explain them one by one, `[explain(model, image) for image in images]`, or resize them.",
        )
    batch = forward.call_of(torch.stack([image.detach() for image in images]))
    listed = make_call((list(batch.images.unbind(0)),), {})
    return listed if not _takes(forward, batch) and _takes(forward, listed) else batch


def _read_labels(batch: Any, images: Path, count: int, *, has_values: bool) -> Tensor | None:
    """Return the labels of a batch, one class for each of its images; None where it holds none.

    Args:
        batch: What holds the images, and the labels in the same container or in one that holds this.
        images: The path of the images.
        count: Their number, N.
        has_values: Whether the model's output is values, so that labels are no classes.

    Raises:
        TypeError: The labels are no integers.
        ValueError: There is another number of them.
    """
    labels = find_labels(batch, count)
    if labels is not None:
        return labels
    own = at_path(batch, images)
    columns = find_label_columns(batch, lambda value: None if value is own else _read_vector(value))
    for path, misfit in columns.items():
        if not _is_beside(path, images) or not (isinstance(path[-1], int) or path[-1] in LABEL_NAMES):
            continue
        if len(misfit) != count:
            refuse(
                "images",
                "a batch with one label for each image",
                f"{len(misfit)} label{'' if len(misfit) == 1 else 's'} for {count} image{'' if count == 1 else 's'}",
                hint="Pass the labels of these images, or the images alone.",
            )
        if not has_values:
            refuse(
                "images",
                "a batch whose labels are classes, integers",
                f"labels {shown(misfit.tolist())} of {misfit.dtype}",
                hint="Convert them, `labels.long()`, or pass the images alone; of a model that returns values "
                '`task="regression"` says so.',
                error=TypeError,
            )
    return None


def _is_beside(path: Path, images: Path) -> bool:
    """Whether what is at a path is in the container that holds the images, or in one that holds this."""
    return path[:-1] == images[: len(path) - 1]


def _as_batch(entry: Any, images: Path, given: Any) -> Any:
    """Return an entry of a data set as a batch of one: a number beside the image is a label, a vector a row.

    Args:
        entry: What holds one image.
        images: The path of the image.
        given: The image; where it has an axis of images already, so have the vectors.
    """

    def as_row(path: Path, value: Any) -> Any:
        axes = getattr(value, "ndim", 0)
        if not _is_beside(path, images):
            return value
        if axes == 0 and isinstance(value, SupportsInt):
            return [value]
        return value[None] if axes == 1 and (_is_single(given) or _is_photo(given)) else value

    return mapped(entry, as_row)


def _read_vector(value: Any) -> Tensor | None:
    """Return what may be labels of any number of images: a vector of numbers, or what are soft labels; else None."""
    if not isinstance(value, Tensor | np.ndarray | list | tuple) or getattr(value, "ndim", 1) == 0 or not len(value):
        return None
    vector = find_values((value,), len(value))
    return read_classes(value, len(value)) if vector is None else vector[:, 0]


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
