"""A call of a model: the arguments of its forward for some samples, and which of their tensors holds the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import Path, at_path, describe, dotted, leaves, mapped

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_COLORS = (1, 3, 4)
"""Channels of images that lie channels last: gray, RGB, RGBA."""


@dataclass(frozen=True)
class Call:
    """The arguments of one forward of a model on N samples.

    Attributes:
        arguments: By position (an int) or by name: any tree of tensors and other values.
        image: Where the images are: the argument, and the keys that lead on from there.
        per_sample: Where there is one row, or for a list one entry, for each sample; all else is the same for all.
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
        return self._mapped(lambda _, value: value.to(device) if isinstance(value, Tensor) else value)

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
            return self._mapped(copied)

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
            return [value[number] for number in numbers]

        return self._mapped(some)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What calls must share to be joined: which tensors they hold, and the shape of a sample in each."""
        return tuple(
            (path, tuple(value.shape[1 if path in self.per_sample else 0 :]), value.dtype)
            for path, value in leaves(self.arguments, self.per_sample)
            if isinstance(value, Tensor)
        )

    @property
    def leaf(self) -> Tensor:
        """The images as the model takes them."""
        leaf: Tensor = at_path(self.arguments, self.image)
        return leaf

    def _mapped(self, change: Callable[[Path, Any], Any]) -> Call:
        return replace(self, arguments=mapped(self.arguments, change, self.per_sample))


def plain_call(images: Tensor) -> Call:
    """Return the call `model(images)`."""
    return Call({0: images}, (0,), frozenset({(0,)}))


def make_call(args: Sequence[Any], kwargs: Mapping[str, Any], image: str | None = None) -> Call:
    """Find the images among the arguments of a forward.

    They are the first floating-point tensor `(N, C, H, W)`, under a usual name first; where there is none, the first
    `uint8` one, which the model converts itself.

    Args:
        args: Positional arguments.
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
    usual = [path for name in _IMAGE_NAMES for path in candidates if path[-1] == name]
    chosen = (usual or candidates)[0]
    count = len(images[chosen])
    lists = _lists_of(arguments, count)
    rows = {path for path, value in leaves(arguments, lists) if isinstance(value, Tensor) and _has_rows(value, count)}
    return Call(arguments, chosen, frozenset(rows | lists))


def join_calls(calls: Sequence[Call]) -> Call:
    """Return one call for the samples of several that have the same `signature`.

    What is the same for all samples is that of the first call.
    """

    def joined(path: Path, value: Any) -> Any:
        if path not in first.per_sample:
            return value
        values = [at_path(call.arguments, path) for call in calls]
        return torch.cat(values) if isinstance(value, Tensor) else [entry for entries in values for entry in entries]

    first = calls[0]
    return first if len(calls) == 1 else first._mapped(joined)


def channels_first(images: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` of such, or of `(N, H, W, C)` with one, three or four channels."""
    return images.permute(0, 3, 1, 2) if _is_channels_last(images) else images


def like_layout(images: Tensor, layout: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` channels last where another tensor is."""
    return images.permute(0, 2, 3, 1) if _is_channels_last(layout) else images


def _is_channels_last(images: Tensor) -> bool:
    height, width, channels = images.shape[1:]
    return channels in _COLORS and height > max(_COLORS) and width > max(_COLORS)


def _has_rows(value: Tensor, count: int) -> bool:
    return value.dim() > 0 and value.shape[0] == count


def _lists_of(arguments: Mapping[int | str, Any], count: int) -> set[Path]:
    """The lists with an entry for each sample, such as file names; not those of tensors that each hold all samples."""
    entries: dict[Path, list[Any]] = {}
    for path, value in leaves(arguments):
        if len(path) > 1 and isinstance(at_path(arguments, path[:-1]), list):
            entries.setdefault(path[:-1], []).append(value)
    return {
        path
        for path, values in entries.items()
        if len(at_path(arguments, path)) == count
        and not any(isinstance(value, Tensor) and _has_rows(value, count) for value in values)
    }
