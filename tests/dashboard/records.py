"""Made-up records of every kind that the tab must show, without a training.

`python tests/dashboard/records.py FOLDER` writes one run of each kind below a folder; with `--big` also the one
of 200 epochs.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lightning_saliency.history import RecordedLook, RecordedSamples, RecordWriter

NAMES = ("cat", "dog", "bird", "fish")
HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "../../x",
    "</script><script>alert(2)</script>",
    "\u202eright to left \u05d0\u05d1",
    "&amp; \" ' ` ${alert(3)}",
    "line\nbreak\ttab",
    "javascript:alert(4)",
    "a very long name " * 12,
)
TITLES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "LayerCAM",
    "saliency": "Saliency",
    "input_x_gradient": "Input × gradient",
}
FINE = frozenset({"saliency", "input_x_gradient"})
"""The methods that have a value of their own for each pixel."""
FIRST_TIME = 1.7e9
STEPS_PER_EPOCH = 25


@dataclass(frozen=True)
class Plan:
    """What a made-up run shows.

    Args:
        epochs: How many; a look at the initial network comes before them.
        samples: How many.
        methods: The height and width of each method's maps.
        sizes: The images' heights and widths, in turns; three lengths of volumes, one of signals.
        channels: Of the images.
        names: What the classes are called.
        seed: Of everything.
        has_boxes: Whether objects and what is detected have boxes.
        blank: The epochs in which the first sample's map is constant.
        is_signed: Whether fine maps have negative values.
        has_labels: Whether it is known what is true.
        has_initial: Whether there is a look before the training.
    """

    epochs: int = 5
    samples: int = 6
    methods: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"grad_cam": (7, 7), "saliency": (32, 32)})
    sizes: tuple[tuple[int, ...], ...] = ((32, 32),)
    channels: int = 3
    names: tuple[str, ...] | None = NAMES
    seed: int = 0
    has_boxes: bool = False
    blank: tuple[int | None, ...] = ()
    is_signed: bool = False
    has_labels: bool = True
    has_initial: bool = True

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(NAMES if self.names is None else self.names)

    @property
    def all_epochs(self) -> list[int | None]:
        """The epochs of all looks, None for the initial network."""
        return [*([None] if self.has_initial else []), *range(self.epochs)]

    def size(self, position: int) -> tuple[int, ...]:
        """The size of a sample's image."""
        return self.sizes[position % len(self.sizes)]

    def label(self, position: int) -> int:
        """What is true of a sample."""
        return position % self.num_classes

    def center(self, position: int) -> tuple[float, ...]:
        """Where the object of a sample is, as shares of the image's lengths."""
        return tuple(np.random.default_rng([self.seed, position]).uniform(0.25, 0.75, len(self.size(position))))


def blob(shape, center, radius=0.15):
    """A bump that is 1 at its center, given as shares of the lengths."""
    axes = [(np.arange(length) + 0.5) / length - middle for length, middle in zip(shape, center, strict=True)]
    squares = np.sum(np.meshgrid(*[axis**2 for axis in axes], indexing="ij"), axis=0)
    return np.exp(-squares / (2 * radius**2))


def make_image(plan: Plan, position: int):
    """A ramp with a bright object, whose color is its class's."""
    size, generator = plan.size(position), np.random.default_rng([plan.seed, position, 1])
    ramp = np.linspace(40, 120, size[-1]) * np.ones(size)
    tint = np.array([[230, 90, 60], [70, 200, 90], [80, 120, 240], [230, 210, 80]])[plan.label(position) % 4]
    tints = np.resize(tint, plan.channels).reshape(-1, *[1] * len(size))
    bump = np.clip(1.5 * blob(size, plan.center(position), 0.12), 0, 1)
    noise = generator.normal(0, 6, (plan.channels, *size))
    return np.clip((1 - bump) * ramp + bump * tints + noise, 0, 255).astype(np.uint8)


def box(plan: Plan, position: int, shift: float = 0.0):
    """The box around a sample's object, in pixels: x1, y1, x2, y2."""
    (height, width), (y, x) = plan.size(position), plan.center(position)
    shares = np.array([x - 0.2, y - 0.2, x + 0.2, y + 0.2]) + shift
    return (np.clip(shares, 0, 1) * [width, height, width, height]).astype(np.float32)[None]


def make_samples(plan: Plan) -> RecordedSamples:
    """What is looked at."""
    positions = tuple(range(plan.samples))
    labels = tuple(plan.label(position) if plan.has_labels else None for position in positions)
    boxes = tuple(box(plan, position) for position in positions) if plan.has_boxes else ()
    box_classes = tuple((plan.label(position),) for position in positions) if plan.has_boxes else ()
    return RecordedSamples(
        positions, tuple(make_image(plan, position) for position in positions), labels, plan.names, boxes, box_classes
    )


def prediction(plan: Plan, epoch: int | None, position: int) -> tuple[int, float]:
    """The class that is predicted and its probability: chance at first, right later, a few wrong to the end."""
    progress = 0.0 if epoch is None else (epoch + 1) / max(plan.epochs, 1)
    draw = np.random.default_rng([plan.seed, position, 0 if epoch is None else epoch + 1, 2]).uniform(size=2)
    is_right = position % 5 != 4 and draw[0] < 0.25 + 0.7 * progress
    label = plan.label(position)
    return (label if is_right else (label + 1) % plan.num_classes), float(0.3 + 0.65 * progress * draw[1])


def make_map(plan: Plan, method: str, epoch: int | None, position: int):
    """A map that finds the object as the training goes on."""
    shape, progress = plan.methods[method], 0.0 if epoch is None else (epoch + 1) / max(plan.epochs, 1)
    if position == 0 and epoch in plan.blank:
        return np.zeros(shape, np.float32)
    generator = np.random.default_rng([plan.seed, position, 0 if epoch is None else epoch + 1, len(method)])
    start = np.random.default_rng([plan.seed, position, 3]).uniform(0.1, 0.9, len(shape))
    center = tuple((1 - progress) * start + progress * np.array(plan.center(position)[-len(shape) :]))
    strength = 3.0 if epoch is None else 0.5 + progress  # a random head's gradients are often the largest
    values = strength * blob(shape, center, 0.3 - 0.12 * progress) + generator.normal(0, 0.04, shape)
    has_signs = plan.is_signed and method in FINE
    return (values * generator.choice([-1, 1], shape) if has_signs else np.maximum(values, 0)).astype(np.float32)


def make_look(plan: Plan, epoch: int | None, step: int | None = None, *, positions=None) -> RecordedLook:
    """What is seen at an epoch."""
    positions = tuple(range(plan.samples)) if positions is None else tuple(positions)
    step = (0 if epoch is None else STEPS_PER_EPOCH * (epoch + 1)) if step is None else step
    said = [prediction(plan, epoch, position) for position in positions]
    maps = {key: tuple(make_map(plan, key, epoch, position) for position in positions) for key in plan.methods}
    reasons = {key: tuple("constant 0" if not values.any() else None for values in of) for key, of in maps.items()}
    progress = 0.0 if epoch is None else (epoch + 1) / max(plan.epochs, 1)
    scalars = {"loss": 1.4 * 0.3**progress} | {
        f"{key}/{name}": value
        for key in plan.methods
        for name, value in (("entropy", 0.9 - 0.4 * progress), ("energy_in_box", 0.2 + 0.6 * progress))
    }
    if epoch is None:
        scalars["grad_cam/drift"] = float("nan")
    logits = np.zeros((len(positions), plan.num_classes), np.float32)
    logits[np.arange(len(positions)), [index for index, _ in said]] = [probability * 4 for _, probability in said]
    boxes = tuple(box(plan, position, 0.3 * (1 - progress)) for position in positions) if plan.has_boxes else ()
    return RecordedLook(
        epoch=epoch,
        step=step,
        positions=positions,
        predictions=tuple(index for index, _ in said),
        probabilities=tuple(probability for _, probability in said),
        classes=tuple(plan.label(position) for position in positions),
        reasons=reasons,
        titles={key: TITLES.get(key, key) for key in plan.methods},
        fine=FINE & plan.methods.keys(),
        scalars=scalars,
        layers=("layer4",),
        explained="the true class",
        task="detection" if plan.has_boxes else "multiclass",
        box_classes=tuple((index,) for index, _ in said) if plan.has_boxes else (),
        boxes=boxes,
        time=FIRST_TIME + 60 * step,
        attributions=maps,
        logits=logits,
        num_axes=len(next(iter(plan.methods.values()))),
    )


def begin(folder: str | Path, plan: Plan = Plan(), **options) -> RecordWriter:
    """A record with its samples and no look."""
    return RecordWriter(folder, make_samples(plan), **options)


def write_run(folder: str | Path, plan: Plan = Plan(), **options) -> RecordWriter:
    """A whole run's record."""
    writer = begin(folder, plan, **options)
    for epoch in plan.all_epochs:
        writer.write(make_look(plan, epoch))
    return writer


def write_growing(folder: str | Path, plan: Plan = Plan(), **options) -> Iterator[str]:
    """A record that grows by a look each time that the next one is asked for; yields the files' names."""
    writer = begin(folder, plan, **options)
    for epoch in plan.all_epochs:
        writer.write(make_look(plan, epoch))
        yield writer.record.files[-1]


def write_resumed(folder: str | Path, plan: Plan = Plan(), *, resumed_epoch: int = 1, epochs: int = 2) -> RecordWriter:
    """A run that was resumed from before its end: the looks that it gave up are superseded."""
    first = write_run(folder, plan)
    resumed = begin(folder, plan, state=first.state_dict())
    for epoch in range(resumed_epoch, resumed_epoch + epochs):
        resumed.write(make_look(plan, epoch))
    return resumed


def write_damaged(folder: str | Path, plan: Plan = Plan()) -> RecordWriter:
    """A run of which one look is torn, one has flipped bits in a map, one is no archive, and one file is foreign."""
    writer = write_run(folder, plan)
    record = Path(writer.record.path)
    tear(record / writer.record.files[1])
    flip(record / writer.record.files[2])
    (record / writer.record.files[3]).write_bytes(b"<script>alert(5)</script>" * 20)
    (record / "notes <b>of mine<b>.txt").write_text("nothing of a record")
    return writer


def write_partial(folder: str | Path, plan: Plan = Plan()) -> RecordWriter:
    """A run whose looks see a part of the samples: the initial one two, one epoch all but the first."""
    writer = begin(folder, plan)
    for epoch in plan.all_epochs:
        parts = {None: range(2), 1: range(1, plan.samples)}
        writer.write(make_look(plan, epoch, positions=parts.get(epoch)))
    return writer


def write_changing_methods(folder: str | Path, plan: Plan = Plan()) -> RecordWriter:
    """A run that was resumed with another method."""
    first = write_run(folder, plan)
    resumed = begin(folder, plan, state=first.state_dict())
    other = replace(plan, methods={"grad_cam": (7, 7), "layer_cam": (14, 14)}, epochs=plan.epochs + 2)
    for epoch in range(plan.epochs, plan.epochs + 2):
        resumed.write(make_look(other, epoch))
    return resumed


def write_answers(folder: str | Path, plan: Plan, answers: Callable[[int], tuple], task: str) -> RecordWriter:
    """A run whose answers are sets of classes, or values."""
    samples = make_samples(plan)
    labels = tuple(answers(position) for position in samples.positions)
    writer = RecordWriter(folder, replace(samples, labels=labels, class_names=plan.names))
    for epoch in plan.all_epochs:
        look = make_look(plan, epoch)
        said = tuple(answers(position + (0 if epoch is None else epoch)) for position in look.positions)
        is_values = task == "regression"
        probabilities = (None,) * len(said) if is_values else look.probabilities
        writer.write(replace(look, predictions=said, probabilities=probabilities, task=task))
    return writer


def tear(path: Path) -> None:
    """Leave the first half of a file, as a killed copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change one byte of a file's first map, which its small parts don't show."""
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack_from("<2H", content, 26)
    packed_size = struct.unpack_from("<L", content, 18)[0]
    content[30 + name_length + extra_length + packed_size // 2] ^= 0x55
    path.write_bytes(content)


KINDS: dict[str, Callable[[Path], object]] = {
    "plain": write_run,
    "plain_again": lambda folder: write_run(folder, Plan(seed=1, epochs=8)),
    "long": lambda folder: write_run(folder, Plan(epochs=50, samples=16)),
    "four_methods": lambda folder: write_run(
        folder,
        Plan(
            methods={"grad_cam": (7, 7), "grad_cam_plus_plus": (7, 7), "saliency": (64, 64), "layer_cam": (14, 14)},
            sizes=((64, 64),),
        ),
    ),
    "photographs": lambda folder: write_run(
        folder, Plan(epochs=6, samples=8, methods={"grad_cam": (7, 7), "saliency": (224, 224)}, sizes=((224, 224),))
    ),
    "many_sizes": lambda folder: write_run(folder, Plan(sizes=((32, 32), (24, 60), (90, 30), (8, 8)))),
    "boxes": lambda folder: write_run(folder, Plan(has_boxes=True, sizes=((64, 48), (48, 64)))),
    "blank": lambda folder: write_run(folder, Plan(blank=(None, 0, 2))),
    "signed": lambda folder: write_run(folder, Plan(is_signed=True)),
    "hostile": lambda folder: write_run(folder, Plan(names=HOSTILE_NAMES, samples=len(HOSTILE_NAMES))),
    "<b>hostile name & #1?": write_run,
    "unnamed": lambda folder: write_run(folder, Plan(names=None, has_labels=False)),
    "one_look": lambda folder: write_run(folder, Plan(epochs=0)),
    "one_sample": lambda folder: write_run(folder, Plan(samples=1)),
    "no_looks": begin,
    "resumed": write_resumed,
    "other_methods": write_changing_methods,
    "partial": write_partial,
    "damaged": write_damaged,
    "volumes": lambda folder: write_run(
        folder, Plan(methods={"grad_cam": (4, 4, 4)}, sizes=((8, 16, 16),), channels=1, samples=3)
    ),
    "signals": lambda folder: write_run(folder, Plan(methods={"grad_cam": (16,)}, sizes=((128,),), channels=2)),
    "several_labels": lambda folder: write_answers(
        folder, Plan(), lambda number: tuple(range(number % 4)), "multilabel"
    ),
    "values": lambda folder: write_answers(
        folder, Plan(names=None), lambda number: (0.25 * number, float("nan") if number % 7 == 6 else 1.0), "regression"
    ),
    "nested/deep/run": write_run,
    "twice": lambda folder: (write_run(folder), write_run(folder, Plan(seed=2))),
}
"""How each kind of run is written, by the folder's name."""

BIG = Plan(epochs=200, samples=64, methods={"grad_cam": (7, 7), "grad_cam_plus_plus": (7, 7), "layer_cam": (14, 14)})


def write_kinds(folder: Path) -> None:
    """One run of each kind below a folder."""
    for name, write in KINDS.items():
        write(folder / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--big", action="store_true", help="also 200 epochs of 64 samples and 3 methods")
    arguments = parser.parse_args()
    write_kinds(arguments.folder)
    if arguments.big:
        write_run(arguments.folder / "big", BIG)
