"""The two kinds of files in a record: their names, what they hold, and what they can hold at most."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history import about
from lightning_saliency.history.archive import Archive, Layout, pack
from lightning_saliency.history.levels import quantize, restore
from lightning_saliency.history.limits import MAX_VALUES, Size, Sizes, check_images, check_maps
from lightning_saliency.history.looks import NO_BOXES, LookSummary, RecordedLevels, RecordedLook, RecordedSamples

SAMPLES = "samples.npz"
_BEFORE_TRAINING = "before-training-step={step:010}.npz"
_IN_EPOCH = "epoch={epoch:06}-step={step:010}.npz"
_LOOK = re.compile(r"(?:before-training|epoch=[0-9]{6,})-step=[0-9]{10,}\.npz")


@dataclass(frozen=True)
class LookHeader:
    """Where a look stands in its run.

    Attributes:
        run: Which run it is of.
        attempt: How often the run had been resumed.
        epoch: From 0; None for the initial network.
        step: Of the run.
    """

    run: str
    attempt: int
    epoch: int | None
    step: int

    @property
    def when(self) -> tuple[int, int]:
        """The order of looks. The initial network comes first, also where its step is that of the first epoch."""
        return (-1 if self.epoch is None else self.epoch), self.step


@dataclass(frozen=True)
class SamplesHeader:
    """Which run a record is of, and how large its samples are.

    Attributes:
        run: The run.
        name: What the record is called in the run's folder, as its writer was told; with a slash it is in one below.
        channels: The number of channels of each image.
        sizes: By position, the size of the image.
    """

    run: str
    name: str
    channels: int
    sizes: Sizes


def look_name(epoch: int | None, step: int) -> str:
    """Return the name of a look's file; names sort as the looks do.

    Example:
        >>> look_name(3, 299), look_name(None, 0)
        ('epoch=000003-step=0000000299.npz', 'before-training-step=0000000000.npz')
    """
    return _BEFORE_TRAINING.format(step=step) if epoch is None else _IN_EPOCH.format(epoch=epoch, step=step)


def is_look_name(name: str) -> bool:
    """Whether a file has the name of a look."""
    return _LOOK.fullmatch(name) is not None


def pack_samples(samples: RecordedSamples, run: str, name: str) -> bytes:
    """Return the bytes of `samples.npz`.

    Args:
        samples: The samples.
        run: Which run they are of.
        name: What the record is called in the run's folder.
    """
    channels, sizes = samples.images[0].shape[0], list(samples.sizes.values())
    check_images(channels, sizes)
    description = {
        "format": about.FORMAT,
        "run": run,
        "name": str(name),
        "positions": [int(position) for position in samples.positions],
        "labels": [about.answer_to_json(label) for label in samples.labels],
        "class_names": None if samples.class_names is None else [str(name) for name in samples.class_names],
        "channels": channels,
        "sizes": sizes,
        "box_classes": _class_lists(samples.box_classes),
    }
    places_by_size = _places_by_size(sizes).items()
    arrays = {_images(size): np.stack([samples.images[place] for place in places]) for size, places in places_by_size}
    return pack(description, arrays | _padded(samples.boxes))


def read_samples_header(archive: Archive) -> SamplesHeader:
    """Return the small parts of the samples, after checking that the file can hold nothing else than samples."""
    about.check_format(archive.about)
    channels, sizes = about.value(archive.about, "channels", int), about.sizes(archive.about, "sizes")
    check_images(channels, sizes)
    archive.check(_samples_layout(channels, sizes) | _box_layout(about.classes(archive.about, "box_classes")))
    positions = about.values(archive.about, "positions", int)
    run, name = about.value(archive.about, "run", str), about.value(archive.about, "name", str)
    return SamplesHeader(run, name, channels, dict(zip(positions, sizes, strict=True)))


def read_samples(archive: Archive) -> RecordedSamples:
    """Return the samples."""
    header = read_samples_header(archive)
    sizes = tuple(header.sizes.values())
    layout = _samples_layout(header.channels, sizes)
    images: list[Any] = [None] * len(sizes)
    for size, places in _places_by_size(sizes).items():
        for place, image in zip(places, archive.read(_images(size), *layout[_images(size)]), strict=True):
            images[place] = image
    named = about.value(archive.about, "class_names", list, type(None)) is not None
    box_classes = about.classes(archive.about, "box_classes")
    return RecordedSamples(
        positions=tuple(header.sizes),
        images=tuple(images),
        labels=about.answers(archive.about, "labels"),
        class_names=about.values(archive.about, "class_names", str) if named else None,
        boxes=_read_boxes(archive, box_classes),
        box_classes=box_classes,
    )


def pack_look(look: RecordedLook, run: str, attempt: int, sizes: Sizes) -> bytes:
    """Return the bytes of a look's file.

    Args:
        look: The look.
        run: Which run it is of.
        attempt: How often the run had been resumed.
        sizes: By position, the size of a sample's image.
    """
    shapes = look.shapes
    check_maps(look.positions, shapes, look.num_classes, sizes)
    arrays: dict[str, NDArray[Any]] = {}
    for method, maps in look.attributions.items():
        ranges = np.empty((len(maps), 2), "<f4")
        for size, places in _places_by_size(shapes[method]).items():
            arrays[_maps(method, size)], ranges[places] = quantize(np.stack([maps[place] for place in places]))
        arrays[_ranges(method)] = ranges
    arrays["logits"] = look.logits.astype("<f4")
    arrays |= _padded(look.boxes)
    description = {
        "format": about.FORMAT,
        "run": run,
        "attempt": attempt,
        "epoch": None if look.epoch is None else int(look.epoch),
        "step": int(look.step),
        "positions": [int(position) for position in look.positions],
        "predictions": [about.answer_to_json(prediction) for prediction in look.predictions],
        "probabilities": [None if value is None else about.to_json(value) for value in look.probabilities],
        "classes": [None if explained is None else int(explained) for explained in look.classes],
        "methods": {
            key: {
                "shapes": shapes[key],
                "reasons": _texts(look.reasons[key]),
                "title": str(look.titles.get(key, key)),
                "fine": key in look.fine,
            }
            for key in look.attributions
        },
        "num_classes": look.num_classes,
        "scalars": {str(name): about.to_json(value) for name, value in look.scalars.items()},
        "layers": _texts(look.layers),
        "explained": str(look.explained),
        "task": str(look.task),
        "box_classes": _class_lists(look.box_classes),
        "time": about.to_json(look.time),
    }
    return pack(description, arrays)


def read_look_header(archive: Archive, name: str, sizes: Sizes) -> LookHeader:
    """Return where a look stands in its run, after checking that the file can hold nothing else than a look.

    Args:
        archive: The file.
        name: The file's name, which must be that of the look in it.
        sizes: By position, the size of a sample's image, as far as it is known.
    """
    summary = _read_checked(archive, name, sizes)
    run, attempt = about.value(archive.about, "run", str), about.value(archive.about, "attempt", int)
    return LookHeader(run, attempt, summary.epoch, summary.step)


def read_look_summary(archive: Archive, name: str, sizes: Sizes) -> LookSummary:
    """Return the small parts of a look. The arguments are those of `read_look_header`."""
    summary = _read_checked(archive, name, sizes)
    return replace(summary, boxes=_read_boxes(archive, summary.box_classes)) if summary.box_classes else summary


def _read_checked(archive: Archive, name: str, sizes: Sizes) -> LookSummary:
    """Return what the description says of a look, after checking that the file can hold nothing else."""
    about.check_format(archive.about)
    summary = LookSummary(
        **_facts(archive.about),
        shapes={method: about.sizes(parts, "shapes") for method, parts in _methods(archive.about).items()},
        num_classes=about.value(archive.about, "num_classes", int),
    )
    if name != look_name(summary.epoch, summary.step):
        raise ValueError(f"it holds epoch {summary.epoch}, step {summary.step}, which is not what its name says")
    check_maps(summary.positions, summary.shapes, summary.num_classes, sizes)
    archive.check(_look_layout(summary))
    return summary


def read_look(archive: Archive, name: str, sizes: Sizes) -> RecordedLook:
    """Return a look. The arguments are those of `read_look_header`."""
    summary = _read_checked(archive, name, sizes)
    layout = _look_layout(summary)
    attributions = {}
    for method, shapes in summary.shapes.items():
        ranges = _read_ranges(archive, method, layout)
        maps: list[Any] = [None] * len(shapes)
        for size, places in _places_by_size(shapes).items():
            levels = archive.read(_maps(method, size), *layout[_maps(method, size)])
            for place, restored in zip(places, restore(levels, ranges[places]), strict=True):
                maps[place] = restored
        attributions[method] = tuple(maps)
    logits = archive.read("logits", *layout["logits"]).astype(np.float32, copy=False)
    num_axes = max((maps[0].ndim for maps in attributions.values()), default=2)
    return RecordedLook(
        **_facts(archive.about),
        attributions=attributions,
        logits=logits,
        num_axes=num_axes,
        boxes=_read_boxes(archive, summary.box_classes),
    )


def read_levels(archive: Archive, name: str, sizes: Sizes, method: str) -> RecordedLevels | None:
    """Return a method's maps in 8 bits, None where the look has none of it; other arguments as `read_look_header`."""
    summary = _read_checked(archive, name, sizes)
    if method not in summary.shapes:
        return None
    layout, shapes = _look_layout(summary), summary.shapes[method]
    ranges = _read_ranges(archive, method, layout)
    maps: list[Any] = [None] * len(shapes)
    for size, places in _places_by_size(shapes).items():
        for place, level in zip(places, archive.read(_maps(method, size), *layout[_maps(method, size)]), strict=True):
            maps[place] = level
    return RecordedLevels(tuple(maps), ranges.astype(np.float32, copy=False), method in summary.fine)


def _read_ranges(archive: Archive, method: str, layout: Layout) -> NDArray[np.float32]:
    ranges = archive.read(_ranges(method), *layout[_ranges(method)])
    if np.isinf(ranges).any():
        raise ValueError(f"{_ranges(method)} should hold no infinite values")
    return ranges


def _facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of `LookFacts`."""
    methods = _methods(description).items()
    return {
        "epoch": about.value(description, "epoch", int, type(None)),
        "step": about.value(description, "step", int),
        "positions": about.values(description, "positions", int),
        "predictions": about.answers(description, "predictions"),
        "probabilities": tuple(
            None if value is None else about.from_json(value)
            for value in about.value(description, "probabilities", list)
        ),
        "classes": about.values(description, "classes", int, type(None)),
        "reasons": {method: about.values(parts, "reasons", str, type(None)) for method, parts in methods},
        "titles": {method: about.value(parts, "title", str) for method, parts in methods},
        "fine": frozenset(method for method, parts in methods if about.value(parts, "fine", bool)),
        "scalars": {name: about.from_json(value) for name, value in about.value(description, "scalars", dict).items()},
        "layers": about.values(description, "layers", str),
        "explained": about.value(description, "explained", str),
        "task": about.value(description, "task", str),
        "box_classes": about.classes(description, "box_classes"),
        "time": about.from_json(description.get("time")),
    }


def _texts(values: Iterable[str | None]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _methods(description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    methods = about.value(description, "methods", dict)
    return {method: about.value(methods, method, dict) for method in methods}


def _samples_layout(channels: int, sizes: Sequence[Size]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {_images(size): ("|u1", (len(places), channels, *size)) for size, places in _places_by_size(sizes).items()}


def _look_layout(look: LookSummary) -> Layout:
    count = len(look.positions)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {"logits": ("<f4", (count, look.num_classes))}
    for method, shapes in look.shapes.items():
        layout[_ranges(method)] = "<f4", (count, 2)
        layout |= {_maps(method, size): ("|u1", (len(at), *size)) for size, at in _places_by_size(shapes).items()}
    return layout | _box_layout(look.box_classes)


def _class_lists(box_classes: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[int(index) for index in classes] for classes in box_classes]


def _box_layout(box_classes: Sequence[Sized]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the layout of the array of boxes, as many for each sample as the largest number of them; of none nothing.

    Raises:
        ValueError: They are too many.
    """
    shape = (len(box_classes), max(map(len, box_classes), default=0), 4)
    if math.prod(shape) > MAX_VALUES:
        raise ValueError(f"Expected boxes of at most {MAX_VALUES} values in all, got {math.prod(shape)}.")
    return {"boxes": ("<f4", shape)} if shape[1] else {}


def _padded(boxes: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Return the array of boxes, filled up with what is not a number."""
    padded = {name: np.full(shape, np.nan, dtype) for name, (dtype, shape) in _box_layout(boxes).items()}
    for array in padded.values():
        for row, own in zip(array, boxes, strict=True):
            row[: len(own)] = own
    return padded


def _read_boxes(archive: Archive, box_classes: Sequence[Sequence[int]]) -> tuple[NDArray[np.float32], ...]:
    layout = _box_layout(box_classes)
    if not layout:
        return tuple(NO_BOXES for _ in box_classes)
    rows = archive.read("boxes", *layout["boxes"]).astype(np.float32, copy=False)
    return tuple(row[: len(classes)] for row, classes in zip(rows, box_classes, strict=True))


def _images(size: Size) -> str:
    return f"images/{'x'.join(map(str, size))}"


def _maps(method: str, size: Size) -> str:
    return f"maps/{method}/{'x'.join(map(str, size))}"


def _ranges(method: str) -> str:
    return f"ranges/{method}"


def _places_by_size(sizes: Iterable[Size]) -> dict[Size, list[int]]:
    """What has one size is one array: for each size, which of the samples have it."""
    groups: dict[Size, list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size, []).append(place)
    return groups
