"""`Call`: the arguments of one forward of a model, and which of their tensors holds the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import Path, at_path, children, describe, dotted, leaves, mapped, plain_tensors

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_COLORS = (1, 3, 4)
"""The channels of images that are recognized as channels last: gray, RGB, RGBA."""

_NUM_AXES = (4, 5)
"""How many axes images `(N, C, H, W)` and volumes `(N, C, D, H, W)` have, in the order in which they are looked for."""


@dataclass(frozen=True)
class Call:
    """The arguments of one forward of a model on N samples.

    Attributes:
        arguments: The arguments by position (an int) or by name: any tree of tensors and other values.
        image: The path of the images, volumes or signals: the argument, and the keys that lead from it to the tensor,
            or to the list or tuple of N images `(C, H, W)`, which may be of several sizes.
        per_sample: The paths of the values with one row, or in a list or tuple one entry, for each sample; all other
            values are the same for all samples.
    """

    arguments: Mapping[int | str, Any]
    image: Path
    per_sample: frozenset[Path]

    def __len__(self) -> int:
        return len(self.given)

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
        """The images as `(N, C, H, W)`, also where the model takes them channels last; likewise volumes and signals.

        Raises:
            ValueError: They are a list of images of several sizes, of which `separate` and slices make calls of one.
        """
        return channels_first(self.leaf)

    @property
    def first_repeated(self) -> Tensor:
        """The images; of a list of images the first, N times, which needs no memory: for their number and their size.

        Images of several sizes have no tensor `(N, C, H, W)` with which an output could be compared.
        """
        return self.images if isinstance(self.given, Tensor) else self[:1].images.expand(len(self), -1, -1, -1)

    @property
    def is_floating_point(self) -> bool:
        """Whether the images are floating-point numbers; else the model converts them itself."""
        return self[:1].leaf.is_floating_point()

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The size (H, W) of each image, which may be in a list of images of several sizes."""
        if isinstance(self.given, Tensor):
            return [tuple(self.images.shape[2:])] * len(self)
        return [tuple(self[row : row + 1].images.shape[2:]) for row in range(len(self))]

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
                leaf = self.leaf
                laid_out = like_layout(images.to(leaf.dtype), leaf)
                return laid_out if isinstance(value, Tensor) else type(value)(laid_out.unbind(0))
            return value.detach().clone() if isinstance(value, Tensor) else value

        whole = () if images is None else (self.image,)
        with torch.inference_mode(False):
            return replace(self, arguments=mapped(self.arguments, copied, whole))

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
            elif isinstance(value, Tensor):
                entries.append((path, (value.shape[1:], value.dtype)))
            else:
                sizes = {(image.shape, image.dtype) for image in value} if path == self.image else set()
                entries.append((path, (type(value), frozenset(sizes))))
        return tuple(entries)

    @property
    def given(self) -> Any:
        """The images as the model takes them: a tensor, or a list or tuple of N images."""
        return at_path(self.arguments, self.image)

    @property
    def leaf(self) -> Tensor:
        """The images in the layout in which the model takes them, in one tensor.

        Raises:
            ValueError: They are a list of images of several sizes.
        """
        images = self.given
        if isinstance(images, Tensor):
            return images
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"Expected images of one size, got {dotted(self.image)}: a {type(images).__name__} of images "
                f"{', '.join(map(str, sorted(sizes)))}. Explain them one by one, `call[:1]`."
            )
        return torch.stack(tuple(images))

    def _mapped_rows(self, change: Callable[[Path, Any], Any]) -> Call:
        """Return the call with each value changed; a list or tuple of one entry per sample counts as one value."""
        return replace(self, arguments=mapped(self.arguments, change, self.per_sample))


def plain_call(images: Tensor) -> Call:
    """Return the call `model(images)`."""
    return Call({0: images}, (0,), frozenset({(0,)}))


def make_call(
    args: Sequence[Any] | Tensor, kwargs: Mapping[str, Any], image: str | None = None, *, signals: bool = False
) -> Call:
    """Return the call of a forward with these arguments, after finding the images among them.

    They are the first floating-point tensor `(N, C, H, W)` of more than one pixel, usual names first; where there
    is none, the first `uint8` one, which the model converts itself. Where there are no images, volumes
    `(N, C, D, H, W)` count in the same way, then a list or tuple of N images `(C, H, W)`, of one size or several, and
    then signals `(N, C, T)` in floating point.

    Args:
        args: Positional arguments, or a single tensor.
        kwargs: Keyword arguments.
        image: The name of the argument that holds the images, where there are several: keys joined by dots, of which
            the last ones suffice, such as `pixel_values` or `0.image`.
        signals: Whether signals count: a tensor of three axes may also be a single image, or features.

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
    arguments = plain_tensors(arguments)
    tensors = {path: value for path, value in leaves(arguments) if isinstance(value, Tensor)}
    lists = dict(_image_lists(arguments))
    values = {
        path: value
        for path, value in (tensors | lists).items()
        if image is None or f".{dotted(path)}".endswith(f".{image}")
    }
    candidates = _image_candidates(values, signals=signals)
    if not candidates:
        listed = ", ".join(f"{dotted(path)}: {describe(value)}" for path, value in tensors.items()) or "no tensor"
        raise ValueError(
            f"Expected the model to be called with images{'' if image is None else f' named {image!r}'}, a "
            f"floating-point or uint8 tensor (N, C, H, W), got {listed}. Volumes (N, C, D, H, W), lists of N images "
            "(C, H, W) and floating-point signals (N, C, T) count, too."
        )
    usual = [path for name in _IMAGE_NAMES for path in candidates if path[-1] == name]
    chosen = (usual or candidates)[0]
    count = len(values[chosen])
    is_list = not isinstance(values[chosen], Tensor)
    entries = {chosen, *_per_sample_sequences(arguments, count, chosen, is_list=is_list)}
    rows = {path for path, value in leaves(arguments, entries) if isinstance(value, Tensor) and _has_rows(value, count)}
    return Call(arguments, chosen, frozenset(rows | entries))


def _image_candidates(values: Mapping[Path, Any], *, signals: bool) -> list[Path]:
    """Return the paths of what may be the images: all of one kind, the likeliest that there is.

    Args:
        values: Tensors, and lists or tuples of images.
        signals: Whether signals count.
    """
    batches = {path: value for path, value in values.items() if isinstance(value, Tensor) and value.numel()}
    lists = {path: value for path, value in values.items() if not isinstance(value, Tensor)}
    kinds: list[list[Path]] = []
    for axes in _NUM_AXES:
        of_axes = {path: value for path, value in batches.items() if value.dim() == axes}
        kinds.append([path for path, value in of_axes.items() if value.is_floating_point()])
        kinds.append([path for path, value in of_axes.items() if value.dtype == torch.uint8])
    # a tensor (N, C, 1, 1) is no batch of images, if there is a better candidate
    larger = [[path for path in paths if batches[path][0].numel() > batches[path].shape[1]] for paths in kinds]
    kinds = [*larger, *kinds]
    kinds.append([path for path, value in lists.items() if value[0].is_floating_point()])
    kinds.append(list(lists))
    if signals:
        kinds.append([path for path, value in batches.items() if value.dim() == 3 and value.is_floating_point()])
    return next((paths for paths in kinds if paths), [])


def _image_lists(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the lists and tuples of images `(C, H, W)` of a tree, all of one data type, with their paths."""
    if isinstance(tree, list | tuple) and not hasattr(tree, "_asdict") and tree and all(map(_is_image, tree)):
        if len({image.dtype for image in tree}) == 1:
            yield path, tree
        return
    for key, entry in children(tree).items():
        yield from _image_lists(entry, (*path, key))


def _is_image(value: Any) -> bool:
    is_tensor = isinstance(value, Tensor) and value.dim() == 3 and value.numel() > 0
    return is_tensor and (value.is_floating_point() or value.dtype == torch.uint8)


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
    """Return images as `(N, C, H, W)`, volumes as `(N, C, D, H, W)` and signals as `(N, C, T)`.

    Images `(N, H, W, C)` and volumes `(N, D, H, W, C)` with one, three or four channels are permuted; so are videos
    `(N, T, C, H, W)`, and signals `(N, T, C)` with fewer channels than points in time.

    Example:
        >>> channels_first(torch.zeros(2, 32, 32, 3)).shape, channels_first(torch.zeros(2, 100, 12)).shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 12, 100]))
    """
    axis = _channel_axis(images.shape)
    return images if axis == 1 else images.movedim(axis, 1)


def like_layout(images: Tensor, layout: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` with their channels where another tensor of images has them; see `channels_first`.

    Example:
        >>> like_layout(torch.zeros(2, 3, 32, 32), torch.zeros(1, 32, 32, 3)).shape
        torch.Size([2, 32, 32, 3])
    """
    axis = _channel_axis(layout.shape)
    return images if axis == 1 else images.movedim(1, axis)


def _channel_axis(shape: Sequence[int]) -> int:
    """Return which axis of a batch of images, volumes or signals has the channels: 1, unless the sizes tell another."""
    if len(shape) == 3:
        return 2 if shape[2] < shape[1] else 1
    for axis in (len(shape) - 1, len(shape) - 3):  # channels last, and the frames of a video first
        others = [size for other, size in enumerate(shape) if other not in (0, axis)]
        if shape[axis] in _COLORS and min(others) > max(_COLORS):
            return axis
    # two or four frames in color, rather than as many channels of three slices
    is_few_frames = len(shape) == 5 and shape[1] in (2, 4) and shape[2] == 3 and min(shape[3:]) > max(_COLORS)
    return 2 if is_few_frames else 1


def _identity(value: Any) -> Any:
    """Return a key that is equal for two values only if one can replace the other in a call."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return value.shape, value.dtype, value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(value, _PLAIN):
        return type(value), value
    return (type(value), 0) if isinstance(value, Sized) and not len(value) else (type(value), id(value))


def _has_rows(value: Tensor, count: int) -> bool:
    return value.dim() > 0 and value.shape[0] == count


def _per_sample_sequences(
    tree: Any, count: int, image: Path, path: Path = (), *, is_list: bool = False
) -> Iterator[Path]:
    """Yield the paths of lists and tuples with one entry per sample, such as file names or the boxes of each image.

    Not those of tensors that each hold all samples, unless the images are a list too, nor a tuple of numbers, which is
    a size.
    """
    is_sequence = isinstance(tree, list | tuple) and not hasattr(tree, "_asdict")
    if is_sequence and len(tree) == count and image[: len(path)] != path:
        values = [value for _, value in leaves(tree)]
        tensors = [value for value in values if isinstance(value, Tensor)]
        is_size = isinstance(tree, tuple) and all(isinstance(value, int | float) for value in values)
        if not is_size and (is_list or not (tensors and all(_has_rows(tensor, count) for tensor in tensors))):
            yield path
            return
    for key, entry in children(tree).items():
        yield from _per_sample_sequences(entry, count, image, (*path, key), is_list=is_list)
