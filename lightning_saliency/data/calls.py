"""`Call`: the arguments of one forward of a model, and which of their tensors holds the images."""

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
"""The channels of images that are recognized as channels last: gray, RGB, RGBA."""


@dataclass(frozen=True)
class Call:
    """The arguments of one forward of a model on N samples.

    Attributes:
        arguments: The arguments by position (an int) or by name: any tree of tensors and other values.
        image: The path of the images: the argument, and the keys that lead from it to the tensor.
        per_sample: The paths of the values with one row, or in a list or tuple one entry, for each sample; all other
            values are the same for all samples.
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
        """The images as `(N, C, H, W)`, also where the model takes them channels last."""
        return channels_first(self.leaf)

    @property
    def is_floating_point(self) -> bool:
        """Whether the images are floating-point numbers; else the model converts them itself."""
        return self.leaf.is_floating_point()

    def to(self, device: torch.device | str) -> Call:
        """Return the call with all its tensors on a device."""

        def moved(_: Path, value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, arguments=mapped(self.arguments, moved))

    def copied(self, images: Tensor | None = None) -> Call:
        """Return a copy of the call, with new containers and tensors into which a model may write.

        Args:
            images: `(N, C, H, W)`, in place of a copy of the images; not copied, so that they may be part of a graph.
        """

        def copied(path: Path, value: Any) -> Any:
            if path == self.image and images is not None:
                return like_layout(images.to(value.dtype), value)
            return value.detach().clone() if isinstance(value, Tensor) else value

        with torch.inference_mode(False):
            return replace(self, arguments=mapped(self.arguments, copied))

    def __getitem__(self, rows: slice | Sequence[int]) -> Call:
        """Return the call for some of the samples, by a slice or by indices, which may repeat."""
        count = len(self)
        if isinstance(rows, slice) and rows.indices(count) == (0, count, 1):
            return self
        indices = list(range(count))[rows] if isinstance(rows, slice) else list(rows)

        def select(path: Path, value: Any) -> Any:
            if path not in self.per_sample:
                return value
            if isinstance(value, Tensor):
                if isinstance(rows, slice) and value.layout == torch.strided:
                    return value[rows]
                return value.index_select(0, torch.tensor(indices, dtype=torch.long, device=value.device))
            return type(value)(value[index] for index in indices)

        return self._mapped_rows(select)

    def separate(self, rows: Sequence[int]) -> list[Call]:
        """Return a call for each of some of the samples: copies on the CPU, which hold nothing of the other samples.

        Values that are the same for all samples are copied once, for all of these calls.
        """

        def copied(value: Any) -> Any:
            return mapped(value, lambda _, leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)

        def copy_shared(path: Path, value: Any) -> Any:
            return value if path in self.per_sample else copied(value)

        def copy_row(path: Path, value: Any) -> Any:
            return copied(value) if path in self.per_sample else value

        with torch.inference_mode(False):
            chosen = self[rows].to("cpu")._mapped_rows(copy_shared)
            return [chosen[index : index + 1]._mapped_rows(copy_row) for index in range(len(rows))]

    @property
    def signature(self) -> tuple[Any, ...]:
        """What calls must have in common to be joined: shapes per sample, and values shared by all samples."""
        entries = []
        for path, value in leaves(self.arguments, self.per_sample):
            if path not in self.per_sample:
                entries.append((path, _identity(value)))
            else:
                entries.append((path, (value.shape[1:], value.dtype) if isinstance(value, Tensor) else type(value)))
        return tuple(entries)

    @property
    def leaf(self) -> Tensor:
        """The images as the model takes them."""
        leaf: Tensor = at_path(self.arguments, self.image)
        return leaf

    def _mapped_rows(self, change: Callable[[Path, Any], Any]) -> Call:
        """Return the call with each value changed; a list or tuple of one entry per sample counts as one value."""
        return replace(self, arguments=mapped(self.arguments, change, self.per_sample))


def plain_call(images: Tensor) -> Call:
    """Return the call `model(images)`."""
    return Call({0: images}, (0,), frozenset({(0,)}))


def make_call(args: Sequence[Any] | Tensor, kwargs: Mapping[str, Any], image: str | None = None) -> Call:
    """Return the call of a forward with these arguments, after finding the images among them.

    They are the first floating-point tensor `(N, C, H, W)` of more than one pixel, usual names first; where there
    is none, the first `uint8` one, which the model converts itself.

    Args:
        args: Positional arguments, or a single tensor.
        kwargs: Keyword arguments.
        image: The name of the argument that holds the images, where there are several: keys joined by dots, of which
            the last ones suffice, such as `pixel_values` or `0.image`.

    Raises:
        ValueError: There are no images, or none of this name; the message lists the tensors.

    Example:
        >>> call = make_call([{"id": torch.arange(2), "image": torch.zeros(2, 3, 8, 8)}], {})
        >>> call.image, call.images.shape
        ((0, 'image'), torch.Size([2, 3, 8, 8]))
    """
    args = (args,) if isinstance(args, Tensor) else args  # `(images)` is not a tuple
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
    # a tensor (N, C, 1, 1) is no batch of images, if there is a better candidate
    candidates = [path for path in candidates if images[path][0].numel() > images[path].shape[1]] or candidates
    usual = [path for name in _IMAGE_NAMES for path in candidates if path[-1] == name]
    chosen = (usual or candidates)[0]
    count = len(images[chosen])
    entries = set(_per_sample_sequences(arguments, count, chosen))
    rows = {path for path, value in leaves(arguments, entries) if isinstance(value, Tensor) and _has_rows(value, count)}
    return Call(arguments, chosen, frozenset(rows | entries))


def join_calls(calls: Sequence[Call]) -> Call:
    """Join calls with the same `signature` into one call for all their samples.

    Values shared by all samples are those of the first call.
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
    """Return images as `(N, C, H, W)`; images `(N, H, W, C)` with one, three or four channels are permuted."""
    return images.permute(0, 3, 1, 2) if _is_channels_last(images) else images


def like_layout(images: Tensor, layout: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` as `(N, H, W, C)` if another tensor of images is channels last."""
    return images.permute(0, 2, 3, 1) if _is_channels_last(layout) else images


def _is_channels_last(images: Tensor) -> bool:
    height, width, channels = images.shape[1:]
    return channels in _COLORS and height > max(_COLORS) and width > max(_COLORS)


def _identity(value: Any) -> Any:
    """Return a key that is equal for two values only if one can replace the other in a call."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return value.shape, value.dtype, value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, _PLAIN):
        return type(value), value
    return (type(value), 0) if isinstance(value, Sized) and not len(value) else (type(value), id(value))


def _has_rows(value: Tensor, count: int) -> bool:
    return value.dim() > 0 and value.shape[0] == count


def _per_sample_sequences(tree: Any, count: int, image: Path, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of lists and tuples with one entry per sample, such as file names or the boxes of each image.

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
    for key, entry in children(tree).items():
        yield from _per_sample_sequences(entry, count, image, (*path, key))
