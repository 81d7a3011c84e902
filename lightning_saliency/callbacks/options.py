"""The options of the callbacks: one frozen dataclass per subject, which checks its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency._checks import check_choice, check_count, check_function, check_number
from lightning_saliency.attribution import Fuse
from lightning_saliency.data import CHOOSERS, Choose, Chooser, FixedSamples, Objects, Positions, SampleCollector
from lightning_saliency.data import given_samples as _given_samples
from lightning_saliency.evidence import Task

OnError: TypeAlias = Literal["warn", "raise"]


@dataclass(frozen=True)
class Samples:
    """Which samples are explained.

    Args:
        num: The number of samples.
        choose: `first`: the first of the validation stream; `per_class`: spread evenly over the classes;
            `hardest`: those with the largest loss in the first pass over the whole stream.
        positions: Positions in the validation stream, in place of `num` and `choose`.
        images: Images that the model is called with as `model(images)`, `(N, C, H, W)`, or a pair of images and labels
            `(N,)`, in place of the stream's.
        dataloader_idx: The validation loader that they are taken from.
        image: The name of the model's argument that holds the images, where there are several: `pixel_values`, or keys
            joined by dots, `batch.image`.
        labels: A function that returns the labels `(N,)` of a batch, where they are not found automatically.
        objects: The objects, for the metrics that need them: a function that returns boxes `(N, 4)` as (x1, y1, x2, y2)
            in pixels, a list of N tensors of them, or masks `(N, 1, H, W)` of a batch; or these themselves, one entry
            for each sample.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> Samples(num=16, choose="per_class").chooser
        PerClass(num=16)
    """

    num: int = 8
    choose: Choose = "first"
    positions: Sequence[int] | None = None
    images: Tensor | tuple[Tensor, Tensor] | None = None
    dataloader_idx: int = 0
    image: str | None = None
    labels: Callable[[Any], Any] | None = None
    objects: Objects | None = None

    def __post_init__(self) -> None:
        check_count("samples.num", self.num)
        check_choice("samples.choose", self.choose, tuple(CHOOSERS))
        check_function("samples.labels", self.labels)
        check_count("samples.dataloader_idx", self.dataloader_idx, least=0)
        if self.positions is not None:
            positions = self.positions
            is_sequence = isinstance(positions, Sequence) and not isinstance(positions, str)
            if not is_sequence or not all(type(position) is int and position >= 0 for position in positions):
                raise TypeError(
                    "Expected `samples.positions` to be positions in the validation stream (non-negative ints), got "
                    f"{positions!r}."
                )
            if not positions:
                raise ValueError("Expected `samples.positions` to hold at least one position, got none.")
        _ = self.given

    @property
    def chooser(self) -> Chooser:
        """The rule by which samples are chosen from the stream."""
        if self.positions is not None:
            return Positions(len(self.positions), tuple(self.positions))
        return CHOOSERS[self.choose](self.num)

    @property
    def given(self) -> FixedSamples | None:
        """The samples of the given images; None where samples come from the stream."""
        if self.images is None:
            return None
        images, labels = self.images if isinstance(self.images, tuple | list) else (self.images, None)
        return _given_samples(images, labels)

    @property
    def count(self) -> int:
        """The largest number of samples."""
        given = self.given
        return self.chooser.num if given is None else len(given)

    def collector(self, *, in_test: bool = False) -> SampleCollector:
        """Return what collects the samples from a stream; given objects belong to the validation stream only."""
        is_known = not in_test or callable(self.objects) or self.images is not None
        return SampleCollector(self.chooser, self.objects if is_known else None, self.labels, self.given)


@dataclass(frozen=True)
class Metrics:
    """Which metrics of the heatmaps are measured.

    Args:
        samples: The number of samples, the first of the validation stream, to measure in place of the shown ones. They
            are kept in memory, and explained each time in chunks of at most 32, in addition to the shown ones.
        faithfulness: Whether to measure, by forward passes, how much the prediction depends on the marked pixels; see
            `lightning_saliency.metrics.measure_faithfulness`: 2 forwards for each
            sample, and 31 for each of its maps.
        randomization_every_n_epochs: The number of epochs from one comparison of the maps with those of the same
            network with a randomized head to the next; it costs explaining once more. A warning names each method whose
            maps look the same as these or as those of the untrained network.

    Raises:
        ValueError: An option's value does not fit.
    """

    samples: int | None = None
    faithfulness: bool = False
    randomization_every_n_epochs: int | None = None

    def __post_init__(self) -> None:
        for option in ("samples", "randomization_every_n_epochs"):
            if getattr(self, option) is not None:
                check_count(f"metrics.{option}", getattr(self, option))


@dataclass(frozen=True)
class History:
    """How the history of a run is drawn.

    Args:
        animation_every_n_epochs: The number of epochs after which animations are drawn, not only at the end; None for
            the end alone.

    Raises:
        ValueError: An option's value does not fit.
    """

    animation_every_n_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.animation_every_n_epochs is not None:
            check_count("history.animation_every_n_epochs", self.animation_every_n_epochs)


@dataclass(frozen=True)
class Execution:
    """How the pass runs, and how errors are handled.

    Args:
        fuse: How the maps of several layers become one: the `mean` or `max` of their heatmaps.
        flip: Explain the mirrored samples too, and show the mean: every pass is run twice, for smoother maps.
        task: `multiclass` or `multilabel`, for the probabilities in the captions. Default: the LightningModule's own
            `task`, where it has one of these names, else `multiclass`.
        output_fn: A function that returns the logits of the model's output, where they are not found automatically.
        chunk_size: The most images that go through the model together, which bounds the memory.
        log_untrained: Also show the untrained network, from sanity checking.
        on_error: What happens on an error: `warn` (once for each cause) or `raise`. An option of the user's that is
            impossible is raised in any case, before the first training step.
        max_fraction: The largest fraction of the training's time that the callback may take. Where the next look would
            exceed it, it shows fewer samples, then only every second, fourth … time, and warns once. Default: no
            limit.
        audit: Hash everything that decides how training continues before and after each step of a look (explaining,
            measuring, recording, each logger), and raise an error that names the changes. Weights, gradients and
            optimizer state go through one CPU core at about 1 GB/s, twice for each: seconds per validation for a large
            model.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.
    """

    fuse: Fuse | None = None
    flip: bool = False
    task: Task | None = None
    output_fn: Callable[[Any], Any] | None = None
    chunk_size: int | None = None
    log_untrained: bool = True
    on_error: OnError = "warn"
    max_fraction: float | None = None
    audit: bool = False

    def __post_init__(self) -> None:
        check_choice("execution.fuse", self.fuse, (*get_args(Fuse), None))
        check_choice("execution.task", self.task, (*get_args(Task), None))
        check_choice("execution.on_error", self.on_error, get_args(OnError))
        check_function("execution.output_fn", self.output_fn)
        if self.chunk_size is not None:
            check_count("execution.chunk_size", self.chunk_size)
        if self.max_fraction is not None:
            check_number("execution.max_fraction", self.max_fraction, "(0, 1]")


def parse_samples(samples: Any) -> Samples:
    """Return the `Samples` for the short form of this option.

    Args:
        samples: A `Samples`; the number of samples; positions in the stream; images `(N, C, H, W)`, or a pair of
            images and labels.

    Raises:
        TypeError: `samples` is none of these.

    Example:
        >>> parse_samples(4).num, parse_samples([5, 2]).positions
        (4, [5, 2])
    """
    if isinstance(samples, Samples):
        return samples
    if isinstance(samples, int) and not isinstance(samples, bool):
        return Samples(num=samples)
    if isinstance(samples, Tensor):
        return Samples(positions=samples.tolist()) if samples.dim() == 1 else Samples(images=samples)
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[0], Tensor):
        return Samples(images=(samples[0], samples[1]))
    if isinstance(samples, Sequence) and not isinstance(samples, str):
        return Samples(positions=samples)
    raise TypeError(
        "Expected `samples` to be how many, positions in the validation stream, images (N, C, H, W), a pair of images "
        f"and labels, or `Samples(...)`, got {samples!r}."
    )


def parse_switch(option: str, value: Any, group: type[Any]) -> Any:
    """Return the group of options for a value: the defaults for True, None for False, a group itself.

    Raises:
        TypeError: The value is neither a bool nor such a group.

    Example:
        >>> parse_switch("metrics", True, Metrics)
        Metrics(samples=None, faithfulness=False, randomization_every_n_epochs=None)
    """
    if isinstance(value, bool):
        return group() if value else None
    return check_group(option, value, group)


def check_group(option: str, value: Any, group: type[Any]) -> Any:
    """Return a group of options, or raise an error for a value of another type."""
    if not isinstance(value, group):
        raise TypeError(f"Expected `{option}` to be `{group.__name__}(...)`, got {value!r}.")
    return value
