"""The fixed batch: taken out of the batches as they pass, chosen, kept on the CPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.metrics import boxes_to_masks

InputFn: TypeAlias = Callable[[Any], Tensor | tuple[Tensor, Tensor]]
"""Takes the images `(N, C, H, W)`, or the images and the labels `(N,)`, out of a batch."""

Objects: TypeAlias = Callable[[Any], Any] | Tensor | Sequence[Tensor]
"""Takes out of a batch where the objects are, as `objects_to_masks` takes it; or that itself, for each sample."""

Choose: TypeAlias = Literal["first", "per_class"]

_IMAGE_NAMES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs", "data")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes", "class_id", "category")


@dataclass(frozen=True)
class Samples:
    """The images that are explained, as the model gets them, and their labels where the batch has some.

    Attributes:
        images: `(N, C, H, W)` on the CPU.
        labels: `(N,)` int64 on the CPU, or None.
        rows: Which rows of the whole selection these are, where it is not complete; None for all.
        masks: Where the objects are, `(N, 1, H, W)` bool on the CPU, or None where that is not known.
    """

    images: Tensor
    labels: Tensor | None = None
    rows: list[int] | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            None if self.rows is None else self.rows[rows],
            None if self.masks is None else self.masks[rows],
        )

    @property
    def places(self) -> list[int]:
        """Their places in the whole selection."""
        return list(range(len(self))) if self.rows is None else self.rows


@dataclass
class FixedBatch:
    """Collects the samples from a stream of batches, once, and keeps them.

    Args:
        num_samples: How many are kept at most.
        choose: `"first"`: the first of the stream; `"per_class"`: as evenly over the classes as they come.
        indices: Positions in the stream, which are kept instead, in this order.
        input_fn: Takes images, or images and labels, out of a batch that `split_batch` does not understand.
        given: Samples that are given, so that nothing is collected.
        objects: Where the objects are, or a function that takes that out of a batch; None where it is not known.

    Attributes:
        fixed: The samples, once they are complete.
    """

    num_samples: int = 8
    choose: Choose = "first"
    indices: Sequence[int] | None = None
    input_fn: InputFn | None = None
    given: Samples | None = None
    objects: Objects | None = None
    fixed: Samples | None = field(init=False)
    _kept: dict[int, tuple[Tensor, int | None, Tensor | None]] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was collected: another run may have other data."""
        self.fixed = None if self.given is None else self._masked(self.given)
        self.begin()

    def begin(self) -> None:
        """A run over the stream starts; what an incomplete run before it left is collected anew."""
        self._kept.clear()
        self._position = 0

    def offer(self, batch: Any) -> None:
        """Take what is wanted out of the batch; cheap once the samples are complete.

        Raises:
            ValueError: The images cannot be found, differ in size, or have no labels where classes are asked for.
        """
        if self.fixed is not None:
            return
        images, labels = split_batch(batch, self.input_fn)
        if self.choose == "per_class" and labels is None and self.indices is None:
            raise ValueError(
                "Expected `choose='per_class'` to find integer labels (N,) in the batch, found none. "
                "Pass an `input_fn` that returns (images, labels)."
            )
        masks = objects_to_masks(self.objects(batch), images) if callable(self.objects) else None
        nothing = [None] * len(images)
        for image, label, mask in zip(
            images, nothing if labels is None else labels.tolist(), nothing if masks is None else masks, strict=True
        ):
            if self._wants(label):
                self._keep(image, label, mask)
            self._position += 1
        if self._is_complete():
            self.end(whole=True)

    def end(self, *, whole: bool) -> None:
        """The run over the stream has ended; if it was the whole stream, what was found stays.

        Raises:
            ValueError: Some of the indices lie beyond the stream.
        """
        if not whole or self.fixed is not None:
            return
        self.fixed = self.current()
        missing = sorted(set(self.indices or ()) - set(self._kept))
        if missing:
            raise ValueError(
                f"Expected `samples` to be positions in the stream, which held {self._position} images, got {missing}."
            )

    def current(self) -> Samples | None:
        """The samples; before they are complete, those of the running stream so far; None if there is none."""
        if self.fixed is not None or not self._kept:
            return self.fixed
        found = [(row, *self._kept[at]) for row, at in enumerate(self._order()) if at in self._kept]
        labels = [label for _, _, label, _ in found if label is not None]
        masks = [mask for _, _, _, mask in found if mask is not None]
        return self._masked(
            Samples(
                torch.stack([image for _, image, _, _ in found]),
                torch.tensor(labels) if len(labels) == len(found) else None,
                [row for row, _, _, _ in found],
                torch.stack(masks) if masks else None,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """The samples as tensors, for a checkpoint."""
        if self.fixed is None:
            return {}
        return {"images": self.fixed.images, "labels": self.fixed.labels, "masks": self.fixed.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the samples of a checkpoint, unless some were given, or it does not know where the objects are."""
        masks = state.get("masks")
        if state and self.given is None and (not callable(self.objects) or masks is not None):
            self.fixed = self._masked(Samples(state["images"], state["labels"], masks=masks))

    def _masked(self, samples: Samples) -> Samples:
        """With the objects that were given for the samples."""
        if self.objects is None or callable(self.objects):
            return samples
        if len(self.objects) <= max(samples.places):
            raise ValueError(
                f"Expected `objects` to hold one entry for each sample, got {len(self.objects)} for the sample "
                f"{max(samples.places)}."
            )
        own = [self.objects[place] for place in samples.places]
        objects = torch.stack(own) if isinstance(self.objects, Tensor) else own
        return replace(samples, masks=objects_to_masks(objects, samples.images))

    def _wants(self, label: int | None) -> bool:
        if self.indices is not None:
            return self._position in self.indices
        if self.choose == "first":
            return self._position < self.num_samples
        groups = self._positions_by_class()
        # of so many classes, and of each, no more than could ever be shown
        if label in groups:
            return len(groups[label]) < self.num_samples
        return len(groups) < self.num_samples

    def _keep(self, image: Tensor, label: int | None, mask: Tensor | None) -> None:
        for first, _, _ in self._kept.values():
            if first.shape != image.shape:
                raise ValueError(
                    f"Expected the samples to be of one size, got {tuple(first.shape)} and {tuple(image.shape)}. "
                    "Choose images of one size by `samples`, or pass them as a tensor."
                )
            break
        self._kept[self._position] = image.detach().cpu().clone(), label, mask

    def _is_complete(self) -> bool:
        if self.indices is not None:
            return len(self._kept) == len(set(self.indices))
        if self.choose == "first":
            return len(self._kept) == self.num_samples
        return len(self._positions_by_class()) == self.num_samples

    def _order(self) -> Iterable[int]:
        if self.indices is not None:
            return self.indices
        if self.choose == "first":
            return sorted(self._kept)
        groups = [group for _, group in sorted(self._positions_by_class().items())]
        rounds = [group[turn] for turn in range(self.num_samples) for group in groups if turn < len(group)]
        return rounds[: self.num_samples]

    def _positions_by_class(self) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for position, (_, label, _) in self._kept.items():
            if label is not None:  # `offer` has seen that there are labels
                groups[label].append(position)
        return dict(groups)


def parse_samples(samples: Any) -> tuple[Samples | None, list[int] | None]:
    """Tell given samples from positions in the stream.

    Args:
        samples: None, positions (non-negative ints), images `(N, C, H, W)`, or a pair of images and labels `(N,)`.

    Returns:
        The samples that were given, or None; and the positions, or None.

    Raises:
        TypeError: It is none of these.
        ValueError: The images are no batch of images, the labels do not fit them, or there is no position.

    Example:
        >>> parse_samples([5, 2])
        (None, [5, 2])
    """
    if isinstance(samples, Tensor):
        samples = samples.tolist() if samples.dim() == 1 else (samples, None)
    if samples is None:
        return None, None
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[0], Tensor):
        images, labels = samples
        if not _is_images(images):
            raise ValueError(
                f"Expected `samples` to hold images: floating point, (N, C, H, W), got shape {tuple(images.shape)} and "
                f"{images.dtype}."
            )
        if labels is not None and (not _is_labels(labels, len(images)) or labels.is_floating_point()):
            raise ValueError(
                f"Expected `samples` to hold one integer class for each of the {len(images)} images, "
                f"got {_describe(labels)}."
            )
        return Samples(images.detach().cpu(), None if labels is None else labels.reshape(-1).long().cpu()), None
    if not isinstance(samples, Sequence) or not all(type(index) is int and index >= 0 for index in samples):
        raise TypeError(
            "Expected `samples` to be positions in the validation stream (non-negative ints), images (N, C, H, W), or "
            f"a pair of images and labels, got {_describe(samples)}."
        )
    if not samples:
        raise ValueError("Expected `samples` to hold at least one position, got none.")
    return None, list(samples)


def objects_to_masks(objects: Any, images: Tensor) -> Tensor:
    """Where the objects are -> their pixels.

    Args:
        objects: For images `(N, C, H, W)` boxes `(N, 4)` as (x1, y1, x2, y2) in their pixels, x2 and y2 outside; N
            tensors of boxes `(k, 4)`, for several objects an image; or masks `(N, H, W)` or `(N, 1, H, W)`, of which
            what is not 0 is the object.
        images: The images.

    Returns:
        `(N, 1, H, W)` bool on the CPU.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> objects_to_masks(torch.tensor([[1, 0, 3, 1]]), torch.zeros(1, 3, 2, 4)).int()
        tensor([[[[0, 1, 1, 0],
                  [0, 0, 0, 0]]]], dtype=torch.int32)
    """
    count, size = len(images), images.shape[2:]
    if isinstance(objects, list | tuple) and len(objects) == count:
        if all(isinstance(boxes, Tensor) and boxes.dim() == 2 and boxes.shape[1] == 4 for boxes in objects):
            return boxes_to_masks([boxes.detach().cpu() for boxes in objects], size)
    elif isinstance(objects, Tensor) and len(objects) == count:
        objects = objects.detach().cpu()
        if objects.dim() == 2 and objects.shape[1] == 4:
            return boxes_to_masks(objects, size)
        if objects.shape in ((count, *size), (count, 1, *size)):
            present: Tensor = objects != 0
            return present.view(count, 1, *size)
    raise ValueError(
        f"Expected `objects` to be, for {count} images of {size[0]}×{size[1]}, boxes ({count}, 4), a list of {count} "
        f"tensors of boxes (k, 4), or masks ({count}, 1, {size[0]}, {size[1]}), got {_describe(objects)}."
    )


def split_batch(batch: Any, input_fn: InputFn | None = None) -> tuple[Tensor, Tensor | None]:
    """Find the images and the labels in a batch.

    The images are the first floating-point tensor `(N, C, H, W)`, under a usual name first. The labels are a tensor of
    N classes beside it: in a tuple or list the first one, under names the one with a usual name, or the only one.
    Batches inside batches (dicts of batches from several loaders, `({"image": ...}, label)`) are looked into.

    Args:
        batch: A tensor, list, tuple, named tuple, mapping or dataclass.
        input_fn: Does it in place of this search.

    Returns:
        Images `(N, C, H, W)`, and labels `(N,)` int64 or None.

    Raises:
        ValueError: No images are found.

    Example:
        >>> batch = {"id": torch.arange(2), "x": torch.zeros(2, 3, 8, 8), "y": torch.tensor([1, 0])}
        >>> images, labels = split_batch(batch)
        >>> images.shape, labels
        (torch.Size([2, 3, 8, 8]), tensor([1, 0]))
    """
    found = _from_input_fn(input_fn(batch)) if input_fn else _search(batch)
    if found is None:
        source = "`input_fn` to return" if input_fn else "the batch to hold"
        raise ValueError(
            f"Expected {source} images: a floating-point tensor (N, C, H, W), got {_describe(batch)}. "
            "Pass an `input_fn` that takes images, or (images, labels), out of the batch."
        )
    return found


def find_dataset(loaders: Any, index: int = 0) -> Any:
    """The data set behind a trainer's loaders (one, a list, a dict, a CombinedLoader); None if there is none."""
    loaders = getattr(loaders, "flattened", loaders)
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[index] if index < len(loaders) else None
    return getattr(loaders, "dataset", None)


def find_normalization(dataset: Any) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of the `Normalize` in a data set's transforms.

    Found in torchvision's transforms v1 and v2, in its presets and in whatever else has a `mean` and a `std`; through
    `Subset`, `ConcatDataset` and nested `Compose`. None if there is none.

    Example:
        >>> from types import SimpleNamespace
        >>> from torchvision.transforms import v2
        >>> transform = v2.Compose([v2.ToImage(), v2.Normalize(mean=[0.5], std=[0.25])])
        >>> find_normalization(SimpleNamespace(transform=transform))
        ([0.5], [0.25])
    """
    found = None
    for part in _parts(dataset):
        mean, std = _numbers(getattr(part, "mean", None)), _numbers(getattr(part, "std", None))
        if mean and std and len(mean) == len(std):
            found = mean, std
    return found


def find_class_names(dataset: Any) -> list[str] | None:
    """A data set's `.classes`, also of one inside a `Subset` or `ConcatDataset`; None if there is none."""
    for part in _parts(dataset):
        names = getattr(part, "classes", None)
        if isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _parts(part: Any, depth: int = 8) -> Iterator[Any]:
    """A data set, what it wraps, and its transforms, in the order in which they are applied."""
    if part is None or depth == 0:
        return
    yield part
    inner = getattr(part, "datasets", None)
    yield from _parts(inner[0] if isinstance(inner, list) and inner else getattr(part, "dataset", None), depth - 1)
    for name in ("transforms", "transform"):
        transforms = getattr(part, name, None)
        for transform in transforms if isinstance(transforms, list | tuple | nn.Sequential) else [transforms]:
            yield from _parts(transform, depth - 1)


def _numbers(value: Any) -> list[float] | None:
    """A sequence, tensor or array of numbers as floats; None for anything else."""
    if isinstance(value, Tensor) or (hasattr(value, "tolist") and not callable(value)):
        value = value.tolist()
    value = [value] if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or not all(isinstance(number, int | float) for number in value):
        return None
    return [float(number) for number in value]


def _from_input_fn(found: Any) -> tuple[Tensor, Tensor | None] | None:
    images, labels = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    if not _is_images(images):
        return None
    if labels is not None and not _is_labels(labels, len(images)):
        raise ValueError(
            f"Expected `input_fn` to return labels of shape ({len(images)},) and an integer dtype beside the images, "
            f"got {_describe(labels)}."
        )
    return images, None if labels is None else labels.reshape(-1).long()


def _search(part: Any) -> tuple[Tensor, Tensor | None] | None:
    if isinstance(part, Tensor):
        return (part, None) if _is_images(part) else None
    named = _fields(part)
    usual_first = sorted(named, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else 99)
    for name in usual_first:
        found = _search(named[name])
        if found is not None:
            images, labels = found
            return images, _labels_beside(named, len(images)) if labels is None else labels
    return None


def _labels_beside(named: Mapping[Any, Any], num_images: int) -> Tensor | None:
    found: dict[Any, Tensor] = {name: value for name, value in named.items() if _is_labels(value, num_images)}
    usual = [found[name] for name in _LABEL_NAMES if name in found]
    is_positional = all(isinstance(name, int) for name in named)
    others = list(found.values()) if is_positional or len(found) == 1 else []
    for labels in usual + others:
        return labels.reshape(-1).long()
    return None


def _fields(part: Any) -> dict[Any, Any]:
    if isinstance(part, Mapping):
        return dict(part)
    if is_dataclass(part):
        return {item.name: getattr(part, item.name) for item in fields(part)}
    if isinstance(part, tuple) and hasattr(part, "_asdict"):
        return dict(part._asdict())
    return dict(enumerate(part)) if isinstance(part, tuple | list) else {}


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point() and value.numel() > 0


def _is_labels(value: Any, num_images: int) -> bool:
    """One class per image; a binary model's 0 and 1 may be floats."""
    if not isinstance(value, Tensor) or value.shape not in ((num_images,), (num_images, 1)) or value.is_complex():
        return False
    return not value.is_floating_point() or bool(((value == 0) | (value == 1)).all())


def _describe(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)} and dtype {batch.dtype}"
    named = _fields(batch)
    if not named:
        return f"a {type(batch).__name__}"
    return f"a {type(batch).__name__} of {{{', '.join(f'{name}: {_describe(part)}' for name, part in named.items())}}}"
