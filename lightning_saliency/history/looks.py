"""What a record holds, as values: the samples, and the looks at them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history.about import Answer

_MOST_NAMED = 3
"""The most sizes in a `repr`."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "look"), counted(3, "sample")
        ('1 look', '3 samples')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


NO_BOXES: NDArray[np.float32] = np.zeros((0, 4), np.float32)
"""The boxes of an image without any."""


@dataclass(frozen=True, eq=False)
class RecordedSamples:
    """The samples as they are shown; images may differ in size.

    Attributes:
        positions: Which of the run's samples these are: 0 to N − 1, unless some have not been seen yet.
        images: The image of each, `(3, H, W)` uint8; or the volume, in gray `(1, D, H, W)`, in color `(3, D, H, W)`; or
            the signal `(C, T)`, each channel from 0 to 255.
        labels: What is true of each: a class, a set of classes, or values; None where that is not known.
        class_names: What the classes are called, or None.
        boxes: The boxes of the objects of each, `(k, 4)` float32, (x1, y1, x2, y2) in pixels of the image; empty for a
            task without boxes.
        box_classes: Their classes.

    Raises:
        ValueError: The parts do not fit together.
    """

    positions: tuple[int, ...]
    images: tuple[NDArray[np.uint8], ...]
    labels: tuple[Answer | None, ...]
    class_names: tuple[str, ...] | None = None
    boxes: tuple[NDArray[np.float32], ...] = ()
    box_classes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_positions(self.positions)
        _check_boxes(self.boxes, self.box_classes, len(self.positions))
        for name, values in (("images", self.images), ("labels", self.labels)):
            _check_length(name, values, len(self.positions))
        for image in self.images:
            is_shape_of_image = image.ndim in (2, 4) or (image.ndim == 3 and image.shape[0] == 3)
            if image.dtype != np.uint8 or not is_shape_of_image or not image.size:
                raise ValueError(
                    "Expected `images` to be (3, H, W) uint8, volumes (1, D, H, W) or (3, D, H, W), or signals (C, T), "
                    f"got {image.shape} {image.dtype}."
                )
        if len({image.shape[0] for image in self.images}) > 1:
            raise ValueError("Expected `images` to have the same number of channels.")

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        sizes = dict.fromkeys("×".join(map(str, image.shape)) for image in self.images)
        shown = [*list(sizes)[:_MOST_NAMED], *(["…"] if len(sizes) > _MOST_NAMED else [])]
        names = "" if self.class_names is None else f", {len(self.class_names)} classes"
        return f"RecordedSamples: {counted(len(self), 'sample')}, {', '.join(shown)}{names}"

    @property
    def sizes(self) -> dict[int, tuple[int, ...]]:
        """By position, the height and width of the image, or the lengths of the volume's or signal's axes."""
        return {position: image.shape[1:] for position, image in zip(self.positions, self.images, strict=True)}

    def agrees_with(self, other: RecordedSamples) -> bool:
        """Whether each sample that both hold is the same image with the same label."""
        places = {position: place for place, position in enumerate(other.positions)}
        return all(
            self.labels[place] == other.labels[places[position]]
            and np.array_equal(self.images[place], other.images[places[position]])
            for place, position in enumerate(self.positions)
            if position in places
        )

    def merged_with(self, other: RecordedSamples) -> RecordedSamples:
        """Return the samples of both, in the order of their positions; those of `self` and its names come first."""
        places = {position: (one, place) for one in (other, self) for place, position in enumerate(one.positions)}
        order = [places[position] for position in sorted(places)]
        has_boxes = any(one.boxes for one, _ in order)
        return RecordedSamples(
            tuple(sorted(places)),
            tuple(one.images[place] for one, place in order),
            tuple(one.labels[place] for one, place in order),
            other.class_names if self.class_names is None else self.class_names,
            tuple(one.boxes[place] if one.boxes else NO_BOXES for one, place in order) if has_boxes else (),
            tuple(one.box_classes[place] if one.boxes else () for one, place in order) if has_boxes else (),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class LookFacts:
    """What is known of a look besides its maps and logits. n is the number of its samples.

    Attributes:
        epoch: From 0; None for the initial network.
        step: As on the axis of Lightning's scalars.
        positions: Which of the run's samples were looked at: all, but where sanity checking or a time budget saw a
            part.
        predictions: What the model said of each of the n: a class, a set of classes, or values; None of an embedding.
        probabilities: The n probabilities of what is predicted, 0 to 1: of several classes of the most probable one, of
            pixels' classes its share; None of values.
        classes: The n explained classes, each None where what is explained is no class.
        reasons: By method, for each of the n maps why it has nothing to show, or None where it has.
        titles: By method its name in pictures; one without is called by its key.
        fine: The methods whose maps have a value of their own for each pixel, drawn by color alone.
        scalars: What was measured, by name.
        layers: The target layers' names.
        explained: In words, which class is explained.
        task: What the logits mean, a key of `lightning_saliency.evidence.TASKS`.
        box_classes: Of each of the n the classes of its `boxes`; empty for a task without boxes.
        time: When, in seconds since 1970.

    Raises:
        ValueError: The parts do not fit together.
    """

    epoch: int | None
    step: int
    positions: tuple[int, ...]
    predictions: tuple[Answer | None, ...]
    probabilities: tuple[float | None, ...]
    classes: tuple[int | None, ...]
    reasons: Mapping[str, tuple[str | None, ...]]
    titles: Mapping[str, str] = field(default_factory=dict)
    fine: frozenset[str] = frozenset()
    scalars: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    explained: str = ""
    task: str = "multiclass"
    box_classes: tuple[tuple[int, ...], ...] = ()
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if (self.epoch is not None and self.epoch < 0) or self.step < 0:
            raise ValueError(f"Expected `epoch` and `step` from 0, got {self.epoch} and {self.step}.")
        _check_positions(self.positions)
        values: dict[str, Sequence[Any]] = {
            "predictions": self.predictions,
            "probabilities": self.probabilities,
            "classes": self.classes,
        }
        for name, of_each in values.items():
            _check_length(name, of_each, len(self.positions))
        _check_methods("reasons", self.reasons, len(self.positions))
        for name, methods in (("titles", self.titles), ("fine", self.fine)):
            if not set(methods) <= self.reasons.keys():
                raise ValueError(f"Expected `{name}` to be of {sorted(self.reasons)}, got {sorted(methods)}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class LookSummary(LookFacts):
    """The small parts of a look, which are read without its maps.

    Attributes:
        shapes: By method, the height and width of each map, or the lengths of the axes that it has.
        num_classes: How many logits a sample has.
        boxes: Of each of the n what is detected, as in `RecordedLook`.

    The others are those of `LookFacts`.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], ...]]
    num_classes: int
    boxes: tuple[NDArray[np.float32], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_methods("shapes", self.shapes, len(self.positions))
        _check_same("shapes", self.shapes, self.reasons)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedLook(LookFacts):
    """What was seen at one look.

    Attributes:
        attributions: By method, the raw map of each sample, `(h, w)` float32, of a volume `(d, h, w)`, of a signal
            `(t,)`; read from a record, to 8 bits of its range. A map that is not finite is NaN.
        logits: `(n, K)` float32.
        num_axes: How many axes a map has: 2 of images, 3 of volumes, 1 of signals.
        boxes: Of each of the n what is detected, `(k, 4)` float32, (x1, y1, x2, y2) in pixels of the image: the best
            box of the explained class, then those of the other predicted classes. Empty for a task without boxes.

    The others are those of `LookFacts`.

    Example:
        >>> look = RecordedLook(
        ...     epoch=0, step=25, positions=(0,), predictions=(3,), probabilities=(0.9,), classes=(3,),
        ...     attributions={"grad_cam": (np.eye(7, dtype=np.float32),)}, reasons={"grad_cam": (None,)},
        ...     logits=np.zeros((1, 10), np.float32),
        ... )
        >>> look.shapes
        {'grad_cam': ((7, 7),)}
    """

    attributions: Mapping[str, tuple[NDArray[np.float32], ...]]
    logits: NDArray[np.float32]
    num_axes: int = 2
    boxes: tuple[NDArray[np.float32], ...] = ()

    def __repr__(self) -> str:
        epoch = "initial" if self.epoch is None else f"epoch {self.epoch}"
        methods = ", ".join(self.attributions)
        return f"RecordedLook({epoch}, step {self.step}): {counted(len(self.positions), 'sample')}, {methods}"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_boxes(self.boxes, self.box_classes, len(self.positions))
        if self.logits.ndim != 2 or len(self.logits) != len(self.positions):
            raise ValueError(f"Expected `logits` to be ({len(self.positions)}, K), got {self.logits.shape}.")
        _check_methods("attributions", self.attributions, len(self.positions))
        _check_same("reasons", self.reasons, self.attributions)
        for method, maps in self.attributions.items():
            for one in maps:
                if one.ndim != self.num_axes or not one.size:
                    raise ValueError(
                        f"Expected `attributions[{method!r}]` to be maps with {self.num_axes} axes, got {one.shape}."
                    )

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """By method, the height and width of each map, or the lengths of the axes that it has."""
        return {method: tuple(one.shape for one in maps) for method, maps in self.attributions.items()}

    @property
    def num_classes(self) -> int:
        """How many logits a sample has."""
        return int(self.logits.shape[1])


@dataclass(frozen=True, eq=False)
class RecordedLevels:
    """The maps of one method at one look, as they are stored.

    Attributes:
        maps: Of each sample the levels, uint8, of the map's shape.
        ranges: What the levels 0 and 255 stand for, `(n, 2)` float32; NaN for a map that is not finite.
        is_fine: Whether each pixel has a value of its own.
    """

    maps: tuple[NDArray[np.uint8], ...]
    ranges: NDArray[np.float32]
    is_fine: bool = False


def _check_boxes(boxes: Sequence[NDArray[np.float32]], box_classes: Sequence[Sequence[int]], count: int) -> None:
    if not boxes and not box_classes:
        return
    _check_length("boxes", boxes, count)
    _check_length("box_classes", box_classes, count)
    for corners, classes in zip(boxes, box_classes, strict=True):
        if corners.shape != (len(classes), 4):
            raise ValueError(f"Expected `boxes` to be ({len(classes)}, 4), as many as classes, got {corners.shape}.")


def _check_positions(positions: Sequence[int]) -> None:
    if not positions or min(positions) < 0 or len(set(positions)) < len(positions):
        raise ValueError(f"Expected `positions` to be different ones from 0, at least one, got {positions}.")


def _check_length(name: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise ValueError(f"Expected `{name}` to have one entry for each of {count} positions, got {len(values)}.")


def _check_methods(name: str, by_method: Mapping[str, Sequence[Any]], count: int) -> None:
    for method, values in by_method.items():
        # a method's name is part of an array's name in a zip archive
        if not method.isprintable() or not method or "\\" in method:
            raise ValueError(f"Expected the methods in `{name}` to have printable names, got {method!r}.")
        _check_length(f"{name}[{method!r}]", values, count)


def _check_same(name: str, by_method: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if by_method.keys() != expected.keys():
        raise ValueError(f"Expected `{name}` to have the methods {sorted(expected)}, got {sorted(by_method)}.")
