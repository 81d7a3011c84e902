"""A call of a model: the arguments of its forward for some samples, and which of their tensors holds the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import Path, at_path, children, describe, dotted, leaves, mapped

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_COLORS = (1, 3, 4)
"""Channels of images that lie channels last: gray, RGB, RGBA."""


@dataclass(frozen=True)
class Call:
    """The arguments of one forward of a model on N samples.

    Attributes:
        arguments: By position (an int) or by name: any tree of tensors and other values.
        image: Where the images are: the argument, and the keys that lead on from there.
        per_sample: Where there is one row, or in a list or tuple one entry, for each sample; all else is the same for
            all.
    """

    arguments: Mapping[int | str, Any]
    image: Path
    per_sample: frozenset[Path]

    def __len__(self) -> int:
        return len(self.leaf)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(value for key, value in self.arguments.items() if isinstance(key, int))

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments."""
        return {key: value for key, value in self.arguments.items() if isinstance(key, str)}

    @property
    def images(self) -> Tensor:
        """The images `(N, C, H, W)`, also where the model takes them channels last."""
        return channels_first(self.leaf)

    @property
    def is_floating_point(self) -> bool:
        """Whether the model takes the images as floating-point numbers; else it converts them itself."""
        return self.leaf.is_floating_point()

    def to(self, device: torch.device | str) -> Call:
        """Return the same call with all tensors on a device."""

        def moved(_: Path, value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, arguments=mapped(self.arguments, moved))

    def copied(self, images: Tensor | None = None) -> Call:
        """Return the same call with copies of all containers and tensors, which a model may write on.

        Args:
            images: `(N, C, H, W)`, themselves in the place of a copy of the images: a part of a graph.
        """

        def copied(path: Path, value: Any) -> Any:
            if path == self.image and images is not None:
                return like_layout(images.to(value.dtype), value)
            return value.detach().clone() if isinstance(value, Tensor) else value

        with torch.inference_mode(False):
            return replace(self, arguments=mapped(self.arguments, copied))

    def __getitem__(self, rows: slice | Sequence[int]) -> Call:
        """Return the call for some of the samples, of which one may be asked for more than once."""
        count = len(self)
        if isinstance(rows, slice) and rows.indices(count) == (0, count, 1):
            return self
        numbers = list(range(count))[rows] if isinstance(rows, slice) else list(rows)

        def some(path: Path, value: Any) -> Any:
            if path not in self.per_sample:
                return value
            if isinstance(value, Tensor):
                return value[rows] if isinstance(rows, slice) else value[torch.tensor(numbers, device=value.device)]
            return type(value)(value[number] for number in numbers)

        return self._mapped_rows(some)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What calls must share to be joined: the shape of a sample in each tensor, and what is the same for all."""
        found = []
        for path, value in leaves(self.arguments, self.per_sample):
            if path not in self.per_sample:
                found.append((path, _identity(value)))
            else:
                found.append((path, (value.shape[1:], value.dtype) if isinstance(value, Tensor) else type(value)))
        return tuple(found)

    @property
    def leaf(self) -> Tensor:
        """The images as the model takes them."""
        leaf: Tensor = at_path(self.arguments, self.image)
        return leaf

    def _mapped_rows(self, change: Callable[[Path, Any], Any]) -> Call:
        """With a change of what has a row or an entry for each sample, and of all else."""
        return replace(self, arguments=mapped(self.arguments, change, self.per_sample))


def plain_call(images: Tensor) -> Call:
    """Return the call `model(images)`."""
    return Call({0: images}, (0,), frozenset({(0,)}))


def make_call(args: Sequence[Any] | Tensor, kwargs: Mapping[str, Any], image: str | None = None) -> Call:
    """Find the images among the arguments of a forward.

    They are the first floating-point tensor `(N, C, H, W)` of more than a pixel, under a usual name first; where there
    is none, the first `uint8` one, which the model converts itself.

    Args:
        args: Positional arguments, or the only one, a tensor.
        kwargs: Keyword arguments.
        image: The name of the one that is meant, where there are several: keys with dots between, of which the last
            ones suffice, such as `pixel_values` or `0.image`.

    Raises:
        ValueError: There are no images, or none of this name; the message lists the tensors that there are.

    Example:
        >>> call = make_call([{"id": torch.arange(2), "image": torch.zeros(2, 3, 8, 8)}], {})
        >>> call.image, call.images.shape
        ((0, 'image'), torch.Size([2, 3, 8, 8]))
    """
    args = (args,) if isinstance(args, Tensor) else args  # parentheses alone make no tuple
    arguments: dict[int | str, Any] = dict(enumerate(args))
    arguments.update(kwargs)
    tensors = {path: value for path, value in leaves(arguments) if isinstance(value, Tensor)}
    images = {path: value for path, value in tensors.items() if value.dim() == 4 and value.numel()}
    if image is not None:
        images = {path: value for path, value in images.items() if f".{dotted(path)}".endswith(f".{image}")}
    candidates = [path for path, value in images.items() if value.is_floating_point()]
    candidates = candidates or [path for path, value in images.items() if value.dtype == torch.uint8]
    if not candidates:
        listed = ", ".join(f"{dotted(path)}: {describe(value)}" for path, value in tensors.items()) or "no tensor"
        raise ValueError(
            f"Expected the model to be called with images{'' if image is None else f' named {image!r}'}, a "
            f"floating-point or uint8 tensor (N, C, H, W), got {listed}."
        )
    # a number for each image may be of four dimensions too
    candidates = [path for path in candidates if images[path][0].numel() > images[path].shape[1]] or candidates
    usual = [path for name in _IMAGE_NAMES for path in candidates if path[-1] == name]
    chosen = (usual or candidates)[0]
    count = len(images[chosen])
    entries = set(_entries(arguments, count, chosen))
    rows = {path for path, value in leaves(arguments, entries) if isinstance(value, Tensor) and _has_rows(value, count)}
    return Call(arguments, chosen, frozenset(rows | entries))


def join_calls(calls: Sequence[Call]) -> Call:
    """Return one call for the samples of several that have the same `signature`.

    What is the same for all samples is that of the first call.
    """

    def joined(path: Path, value: Any) -> Any:
        if path not in first.per_sample:
            return value
        values = [at_path(call.arguments, path) for call in calls]
        if isinstance(value, Tensor):
            return torch.cat(values)
        return type(value)(entry for entries in values for entry in entries)

    first = calls[0]
    return first if len(calls) == 1 else first._mapped_rows(joined)


def channels_first(images: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` of such, or of `(N, H, W, C)` with one, three or four channels."""
    return images.permute(0, 3, 1, 2) if _is_channels_last(images) else images


def like_layout(images: Tensor, layout: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` channels last where another tensor is."""
    return images.permute(0, 2, 3, 1) if _is_channels_last(layout) else images


def _is_channels_last(images: Tensor) -> bool:
    height, width, channels = images.shape[1:]
    return channels in _COLORS and height > max(_COLORS) and width > max(_COLORS)


def _identity(value: Any) -> Any:
    """By which two values are told apart, of which one could not stand for the other."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return value.shape, value.dtype, value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, _PLAIN):
        return type(value), value
    return (type(value), 0) if isinstance(value, Sized) and not len(value) else (type(value), id(value))


def _has_rows(value: Tensor, count: int) -> bool:
    return value.dim() > 0 and value.shape[0] == count


def _entries(tree: Any, count: int, image: Path, path: Path = ()) -> Iterator[Path]:
    """Where lists and tuples are that have an entry for each sample, such as file names or the boxes of each image.

    Not those of tensors that each hold all samples, nor a tuple of numbers, which is a size.
    """
    is_sequence = isinstance(tree, list | tuple) and not hasattr(tree, "_asdict")
    if is_sequence and len(tree) == count and image[: len(path)] != path:
        values = [value for _, value in leaves(tree)]
        tensors = [value for value in values if isinstance(value, Tensor)]
        is_size = isinstance(tree, tuple) and all(isinstance(value, int | float) for value in values)
        if not is_size and not (tensors and all(_has_rows(tensor, count) for tensor in tensors)):
            yield path
            return
    for key, part in children(tree).items():
        yield from _entries(part, count, image, (*path, key))
