"""The options of the callbacks: one frozen dataclass per subject, which checks its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency._checks import (
    check_choice,
    check_count,
    check_each,
    check_flag,
    check_function,
    check_number,
    check_options,
    check_text,
    is_flag,
    is_int,
    optional,
    refuse,
    shown,
)
from lightning_saliency.attribution import Fuse
from lightning_saliency.data import CHOOSERS, Choose, Chooser, First, FixedSamples, Objects, Positions, SampleCollector
from lightning_saliency.data import describe as _describe
from lightning_saliency.data import given_samples as _given_samples
from lightning_saliency.evidence import OutputChoice, TaskName, check_output_choice
from lightning_saliency.metrics import METRICS

OnError: TypeAlias = Literal["warn", "raise"]


@dataclass(frozen=True)
class Samples:
    """Which samples are explained.

    Args:
        num: The number of samples.
        choose: `spread`: spread over the classes where the data set has its labels at hand (`targets` and the like) and
            the loader takes its samples in order, else the first; `first`: the first of the validation stream;
            `per_class`: spread over the classes by the labels of the whole stream; `hardest`: those with the largest
            loss in the first pass over the whole stream.
        positions: Positions in the validation stream, in place of `num` and `choose`.
        images: Images that the model is called with as `model(images)`, `(N, C, H, W)`, or a pair of images and labels
            `(N,)`, in place of the stream's. Also volumes `(N, C, D, H, W)`; and in a pair signals `(N, C, T)`.
        dataloader_idx: The validation loader that they are taken from.
        image: The name of the model's argument that holds the images, where there are several: `pixel_values`, or keys
            joined by dots, `batch.image`.
        labels: A function that returns the labels `(N,)` of a batch, where they are not found automatically.
        objects: The objects, for the metrics that need them: a function that returns boxes `(N, 4)` as (x1, y1, x2, y2)
            in pixels, a list of N tensors of them, or masks `(N, 1, H, W)` of a batch (of volumes or signals masks of
            their size); or these themselves, one entry for each sample.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> Samples(num=16, choose="per_class").chooser
        PerClass(num=16)
    """

    num: int = 8
    choose: Choose = "spread"
    positions: Sequence[int] | None = None
    images: Tensor | tuple[Tensor, Tensor] | None = None
    dataloader_idx: int = 0
    image: str | None = None
    labels: Callable[[Any], Any] | None = None
    objects: Objects | None = None

    def __post_init__(self) -> None:
        check_options(
            self,
            "samples.",
            {
                "num": check_count,
                "choose": partial(check_choice, allowed=tuple(CHOOSERS)),
                "positions": optional(
                    partial(check_each, check=partial(check_count, least=0), of="positions in the stream")
                ),
                "images": optional(_check_images),
                "dataloader_idx": partial(check_count, least=0),
                "image": optional(check_text),
                "labels": check_function,
                "objects": optional(_check_objects),
            },
        )

    @property
    def chooser(self) -> Chooser:
        """The rule by which samples are chosen from the stream."""
        if self.positions is not None:
            return Positions(len(self.positions), tuple(self.positions))
        # what is given for each sample is meant for the first ones
        is_of_each = self.objects is not None and not callable(self.objects)
        return (First if self.choose == "spread" and is_of_each else CHOOSERS[self.choose])(self.num)

    @property
    def given(self) -> FixedSamples | None:
        """The samples of the given images; None where samples come from the stream."""
        if self.images is None:
            return None
        return _given_samples(*self.images) if isinstance(self.images, tuple) else _given_samples(self.images)

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
        names: Which are logged. `few`: those that say most, of the first method's maps: `entropy` (how focused they
            are), `rank_correlation_initial` (how far they are from those before training) and, where objects
            are known, `energy_in_box`; and rows of your own. `all`: every row of `lightning_saliency.metrics.METRICS`,
            of each method. Or the rows' names, of each method. What a callback of the trainer monitors, or has in its
            file names, is logged in any case, and so is what the options below ask for.
        samples: The number of samples of the validation stream to measure in place of the shown ones, spread over the
            classes where the data set has its labels at hand. They are kept in memory, and explained each time in
            chunks of at most 32, in addition to the shown ones.
        faithfulness: Whether to measure, by forward passes, how much the prediction depends on the marked pixels; see
            `lightning_saliency.metrics.measure_faithfulness`: 2 forwards for each sample, and 31 for each of its maps.
        randomization_every_n_epochs: The number of epochs from one comparison of the maps with those of the same
            network with a randomized head to the next; it costs explaining once more. A warning names each method whose
            maps look the same as these or as those before training.

    Raises:
        ValueError: An option's value does not fit.
    """

    names: Literal["few", "all"] | Sequence[str] = "few"
    samples: int | None = None
    faithfulness: bool = False
    randomization_every_n_epochs: int | None = None

    def __post_init__(self) -> None:
        check_options(
            self,
            "metrics.",
            {
                "names": _check_metric_names,
                "samples": optional(check_count),
                "faithfulness": check_flag,
                "randomization_every_n_epochs": optional(check_count),
            },
        )


@dataclass(frozen=True)
class History:
    """How the history of a run is drawn.

    Args:
        animation_every_n_epochs: The number of epochs after which animations are drawn, not only at the end; None for
            the end alone.
        report: Whether to write the record as one HTML page at the end, `saliency.html` beside the event file, which
            shows all epochs under one scrubber without a server. Loggers that take one get it too. It has at most
            20 MB: what does not fit is reduced, and the page says so.

    Raises:
        ValueError: An option's value does not fit.
    """

    animation_every_n_epochs: int | None = None
    report: bool = False

    def __post_init__(self) -> None:
        check_options(self, "history.", {"animation_every_n_epochs": optional(check_count), "report": check_flag})


@dataclass(frozen=True)
class Execution:
    """How the pass runs, and how errors are handled.

    Args:
        fuse: How the maps of several layers become one: the `mean` or `max` of their heatmaps.
        flip: Explain the samples mirrored along their last axis too, and show the mean: every pass is run twice, for
            smoother maps.
        task: What the model's output means: `multiclass`, `ordinal` (K logits of exceeding each but the last of K + 1
            ranks), `multilabel`, `regression`, `segmentation`, `multilabel_segmentation` (whose classes overlap: each
            has a sigmoid of its own), `embedding`, `detection` (boxes whose class scores go through a sigmoid) or
            `detection_softmax` (through a softmax whose last class is "no object"). Default: found from what the loss
            does with it, and from the forms of output and labels.
        output_fn: A function that returns the logits of the model's output, or their key in it, such as `heads.color`,
            where they are not found automatically.
        chunk_size: The most images that go through the model together, which bounds the memory.
        log_initial: Also show the network as it is before training, on the same samples as later; where sanity
            checking has not seen them all, from a copy of its weights that is kept until the first validation has.
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
    task: TaskName | None = None
    output_fn: OutputChoice = None
    chunk_size: int | None = None
    log_initial: bool = True
    on_error: OnError = "warn"
    max_fraction: float | None = None
    audit: bool = False

    def __post_init__(self) -> None:
        check_options(
            self,
            "execution.",
            {
                "fuse": partial(check_choice, allowed=(*get_args(Fuse), None)),
                "flip": check_flag,
                "task": partial(check_choice, allowed=(*get_args(TaskName), None)),
                "output_fn": check_output_choice,
                "chunk_size": optional(check_count),
                "log_initial": check_flag,
                "on_error": partial(check_choice, allowed=get_args(OnError)),
                "max_fraction": optional(partial(check_number, interval="(0, 1]")),
                "audit": check_flag,
            },
        )


def parse_samples(samples: Any) -> Samples:
    """Return the `Samples` for the short form of this option.

    Args:
        samples: A `Samples`; the number of samples; positions in the stream; images `(N, C, H, W)`, or a pair of
            images and labels.

    Raises:
        TypeError: `samples` is none of these.

    Example:
        >>> parse_samples(4).num, parse_samples([5, 2]).positions
        (4, (5, 2))
    """
    if isinstance(samples, Samples):
        return samples
    if is_int(samples):
        return Samples(num=int(samples))
    if isinstance(samples, Tensor):
        return Samples(positions=samples.tolist()) if samples.dim() == 1 else Samples(images=samples)
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[0], Tensor):
        return Samples(images=(samples[0], samples[1]))
    if isinstance(samples, str | bytes) or (not isinstance(samples, Sequence) and not hasattr(samples, "tolist")):
        refuse(
            "samples",
            "how many, positions in the validation stream, images (N, C, H, W), a pair of images and labels, or "
            "`Samples(...)`",
            shown(samples),
            error=TypeError,
        )
    return Samples(positions=samples)


def parse_switch(option: str, value: Any, group: type[Any]) -> Any:
    """Return the group of options for a value: the defaults for True, None for False, a group itself.

    Raises:
        TypeError: The value is neither a bool nor such a group.

    Example:
        >>> parse_switch("metrics", True, Metrics)
        Metrics(names='few', samples=None, faithfulness=False, randomization_every_n_epochs=None)
    """
    if is_flag(value):
        return group() if value else None
    if not isinstance(value, group):
        refuse(
            option,
            f"True, False or `{group.__name__}(...)`",
            shown(value),
            hint=_wrapped(value, group),
            error=TypeError,
        )
    return value


def check_group(option: str, value: Any, group: type[Any]) -> Any:
    """Return a group of options, its defaults for None, or raise an error for a value of another type."""
    if value is None:
        return group()
    if not isinstance(value, group):
        refuse(option, f"`{group.__name__}(...)`", shown(value), error=TypeError)
    return value


def _wrapped(value: Any, group: type[Any]) -> str:
    """Return the advice to put a value into its group, where it is one of the group's first option."""
    try:
        group(value)
    except (TypeError, ValueError):  # what the group refuses is not meant for it
        return ""
    return f"Write `{group.__name__}({shown(value)})`."


def _check_metric_names(name: str, value: Any) -> str | tuple[str, ...]:
    """Return `few`, `all` or the names of rows of the table of metrics, as a tuple."""
    if isinstance(value, str) and value in METRICS:
        value = [value]
    if isinstance(value, str):
        return check_choice(name, value, ("few", "all", *METRICS))
    return check_each(name, value, partial(check_choice, allowed=tuple(METRICS)), of="names of metrics")


def _check_images(name: str, images: Any) -> Tensor | tuple[Any, ...]:
    """Refuse what is neither images nor a pair of images and labels."""
    is_pair = isinstance(images, tuple | list)
    if not isinstance(images, Tensor) and not (is_pair and len(images) == 2):
        refuse(name, "images (N, C, H, W), or a pair of images and labels", _describe(images), error=TypeError)
    _given_samples(*images) if is_pair else _given_samples(images)
    return tuple(images) if is_pair else images


def _check_objects(name: str, objects: Any) -> Any:
    """Refuse what is no function, and can be neither boxes nor masks."""

    def is_boxes(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == 4

    def is_masks(value: Any) -> bool:
        return isinstance(value, Tensor) and (value.dim() == 3 or (value.dim() in (4, 5) and value.shape[1] == 1))

    if callable(objects) or is_boxes(objects) or is_masks(objects):
        return objects
    if not isinstance(objects, list | tuple) or not objects or not all(map(is_boxes, objects)):
        refuse(
            name,
            "a function of the batch, boxes (N, 4), a list of tensors of boxes (k, 4), or masks (N, 1, H, W)",
            _describe(objects),
            error=TypeError,
        )
    return tuple(objects)
