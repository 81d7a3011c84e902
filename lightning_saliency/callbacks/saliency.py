"""`SaliencyCallback` and its named variants: heatmaps of a fixed validation batch during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

from torch import Tensor, nn

from lightning_saliency._checks import refuse, shown
from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.attribution import DEFAULT_METHODS, ExplainedSamples, parse_methods
from lightning_saliency.callbacks.base import LookCallback
from lightning_saliency.callbacks.collecting import stream_of
from lightning_saliency.callbacks.history_output import HistoryOutput
from lightning_saliency.callbacks.look_pass import LookPass
from lightning_saliency.callbacks.meaning import Meaning
from lightning_saliency.callbacks.metrics_output import MapNames, MetricsOutput
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import (
    Execution,
    History,
    Metrics,
    Samples,
    check_group,
    parse_samples,
    parse_switch,
)
from lightning_saliency.callbacks.outputs import Output
from lightning_saliency.callbacks.pictures_output import PicturesOutput
from lightning_saliency.callbacks.report_output import ReportOutput
from lightning_saliency.callbacks.validation import dataset_of
from lightning_saliency.data import FixedSamples, SampleCollector, Spread
from lightning_saliency.evidence import TASKS, GradientEnd, Target
from lightning_saliency.visualization import Style, find_names

CallbackTarget: TypeAlias = str | int | list[int | str] | Callable[[Tensor], Tensor]
"""Which class is explained."""


class SaliencyCallback(LookCallback):
    """Logs where the model looks on a fixed validation batch, epoch after epoch.

    At the end of each validation, one forward and one backward serve all methods that can share them, and the pictures
    go to every logger of the trainer. What is explained is the model's real input: its own calls are recorded in the
    validation steps. Training is not touched: the final weights are those of the training without it, bit for bit. Also
    works in `trainer.validate` and `trainer.test`.

    Logged, with the same steps as Lightning's scalars:

    - `saliency/Overview`: of each sample the image and the overlays of all methods. In `trainer.test`,
      `saliency/Overview/test`.
    - `saliency/<method>`: the image and the overlay of a method, where it is the only one, or with
      `Style(cards="all")`.
    - `saliency/class_maps`: the image and CAM of its `top_k` most probable classes, where the style's `top_k` is
      above 1.
    - `saliency/<method>/filmstrip`: rows are samples, columns are epochs, from before training on; drawn
      during the run, less and less often, and at its end. Of the first method, or with `Style(cards="all")` of
      each.
    - `saliency/<method>/animation`: the same as a GIF, which TensorBoard plays; at the end of `fit`. It is also a
      file, `saliency/<method>/animation.gif`, beside the event file.
    - `xai_saliency/seconds`, a scalar in `fit`: the time that this callback took since the last validation.
    - `xai_saliency/<method>/<metric>`, scalars in `fit`, `validate` and `test` (there ending in `/test`): of the
      first method's maps `entropy`, in `fit` `rank_correlation_initial`, and with `Samples(objects=...)`, or of
      detectors whose batches hold boxes, `energy_in_box`. With `Metrics("all")` every row of
      `lightning_saliency.metrics.METRICS`, of each method; with `Metrics(faithfulness=True)` `average_drop`,
      `increase_in_confidence`, `deletion`, `insertion`; with `Metrics(randomization_every_n_epochs=...)`
      `rank_correlation_random_head`. What monitors one of them finds it as `saliency_<method>_<metric>`, too.

    All looks are kept in the run's record, the folder `saliency.record` beside the event file, which
    `lightning_saliency.load_record` reads.

    An option that the user names and that is impossible is an error before the first optimizer step: in `setup`, in
    sanity checking or before the first backward, when the initial network is explained. Every other error is one
    warning with its cause, and training continues. What monitors one of the scalars finds its last value where a look
    fails or is left out, and before the first one the metric's worst.

    Args:
        methods: Keys of `lightning_saliency.METHODS`, one or several, in any usual spelling (`"Grad-CAM++"`), or a
            dict from keys to the options of their functions in `lightning_saliency.attribution`, such as
            `{"smooth_grad": {"num_samples": 50}}`. Default: those that suit the model; see
            `lightning_saliency.attribution.default_methods`.
        samples: The number of samples of the validation stream, spread over the classes where the data set has its
            labels at hand, else the first; positions in it; images `(N, C, H, W)`, or a pair of images and labels; or
            `Samples(...)`. Images that are passed are shown after each training epoch where the trainer has no
            validation.
        target: Which class is explained: `label` (the true class where the batch has labels, of several the one with
            the largest score; else, and where a detector has no box of it, the predicted one), `predicted`, a class by
            its index, from the end where it is negative, or by its name, as the style or the data set has it, one class
            per sample, or a callable from logits `(N, K)` to scores `(N,)`. Of embeddings, their similarity to
            themselves (see `lightning_saliency.evidence.Embedding`), or to a reference by
            `target=lambda embeddings: embeddings @ reference`.
        layer: The layer whose activations the CAM methods read, by its dotted name or as a module:
            `model.layer4[-1]`. Default: chosen by a run of one image, as in the papers: the last convolutional map
            after its activation and before any pooling. Several give one map each, from the same pass.
        model: Dotted name of the submodule that is explained, which turns images into logits. Default: the
            LightningModule itself if it can be, else the submodule that the validation step calls.
        every_n_epochs: The number of epochs from one look to the next.
        style: How the pictures look: `Style(...)`.
        metrics: Whether to log numbers of the maps, or which: `Metrics(...)`.
        history: Whether to keep the run's record, and draw the filmstrips and animations from it: `History(...)`.
        execution: How the pass runs, and how errors are handled: `Execution(...)`.
        outputs: Further outputs of a look: instances of `lightning_saliency.callbacks.Output`.
        name: First part of the tags, so that two callbacks can share a logger.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callback = SaliencyCallback(methods=["grad_cam", "saliency"], samples=4)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    default_methods: ClassVar[tuple[str, ...] | None] = None
    default_top_k: ClassVar[int] = 1

    def __init__(
        self,
        methods: str | Sequence[str] | dict[str, dict[str, Any] | None] | None = None,
        *,
        samples: int | list[int] | Samples | Tensor | tuple[Tensor, Tensor] = 8,
        target: CallbackTarget = "label",
        layer: str | list[str] | Any = None,  # or modules, of which LightningCLI would list every class
        model: str | None = None,
        every_n_epochs: int = 1,
        style: Style | None = None,
        metrics: bool | Metrics = True,
        history: bool | History = True,
        execution: Execution | None = None,
        outputs: list[Output] | None = None,
        name: str = "saliency",
    ) -> None:
        if outputs is not None and not isinstance(outputs, list | tuple):
            refuse("outputs", "a list of `Output`s", shown(outputs), error=TypeError)
        chosen_methods = self.default_methods if methods is None else methods
        parsed_methods = parse_methods(DEFAULT_METHODS if chosen_methods is None else chosen_methods)
        parsed_samples = parse_samples(samples)
        execution = check_group("execution", execution, Execution)
        self.style = self._parse_style(style, parsed_methods)
        self.target = _parse_target(target, parsed_samples, self.style.class_names)
        if isinstance(self.target.choice, tuple) and parsed_samples.choose == "spread":
            parsed_samples = replace(parsed_samples, choose="first")  # which the classes are meant for
        unset = _unset_options(chosen_methods, layer, self.target.choice)
        metrics = parse_switch("metrics", metrics, Metrics)
        history = parse_switch("history", history, History)
        all_outputs: list[Output] = [PicturesOutput(self.style, list(parsed_methods))]
        if isinstance(metrics, Metrics):
            _check_metrics(metrics, parsed_samples, self.target)
            maps = MapNames(tuple(parsed_methods))
            own_samples = _metrics_samples(metrics, parsed_samples)
            all_outputs.append(
                MetricsOutput(metrics, own_samples, maps=maps, has_objects=parsed_samples.objects is not None)
            )
        if isinstance(history, History):
            recorded = HistoryOutput(name, history, self.style)
            all_outputs += [recorded, ReportOutput(recorded)] if history.report else [recorded]
        self.methods: Mapping[str, Mapping[str, Any]] = parsed_methods
        task = None if execution.task is None else TASKS[execution.task]
        part = ModelPart(model, parsed_samples.image, execution.output_fn, task)
        self._pass = LookPass(parsed_methods, self.target, part, _parse_layer(layer), execution, unset)
        super().__init__(
            [*all_outputs, *(outputs or ())],
            samples=parsed_samples,
            part=part,
            every_n_epochs=every_n_epochs,
            execution=execution,
            name=name,
            unset=unset,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Name the layers, and go on with the run or begin another one; see `LookCallback.setup`."""
        layers = self._pass.name_layers(pl_module)
        for output in self.outputs if self.execution.fuse is None else ():
            if isinstance(output, MetricsOutput):
                output.maps = replace(output.maps, layers=layers)
        super().setup(trainer, pl_module, stage)

    def _explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: FixedSamples, at_once: int | None = None
    ) -> tuple[ExplainedSamples, ...]:
        if self._pass.target.has_names:
            self._pass.target = self.target.named(self._class_names(trainer, pl_module))
        explained = self._pass.explain(trainer, pl_module, samples, at_once)
        if self._part.meaning is not None and self._part.meaning.note:
            self._notices.once(f"{type(self).__name__} shows an embedding, no classes. {self._part.meaning.note}")
        if self._pass.left_out:
            self._notices.once(_describe_left_out(type(self).__name__, self._pass.left_out, self._pass.shown))
        count, end = self._pass.gradient_end(trainer, pl_module, explained)
        if end is not None:
            self._notices.once(f"{type(self).__name__}: {count} of {len(samples)} samples have no map, {_reason(end)}")
        return explained

    def _class_names(self, trainer: Trainer, pl_module: LightningModule) -> Sequence[str] | None:
        in_test = stream_of(trainer) == "test"
        dataset = dataset_of(trainer, self.samples.dataloader_idx, in_test=in_test)
        modules = (getattr(trainer, "datamodule", None), pl_module)
        return find_names(self.style, dataset, modules).names

    def _check(self, pl_module: LightningModule) -> None:
        self._pass.check(pl_module)
        if self.samples.given is not None:
            self._part.model(pl_module)

    def _describe_target(self, samples: FixedSamples) -> str:
        has_labels = any(sample.label is not None for sample in samples.samples)
        meaning = self._part.meaning or Meaning()
        described = self.target.describe(has_labels=has_labels, task=meaning.task or TASKS["multiclass"])
        return f"{described} of {self._part.key}" if meaning.others and self._part.key else described

    def _forget(self) -> None:
        super()._forget()
        self._pass.forget()
        self._pass.target = self.target

    def _choices(self) -> dict[str, Any]:
        return {**super()._choices(), **self._pass.choices()}

    def _load_choices(self, choices: Mapping[str, Any]) -> None:
        super()._load_choices(choices)
        self._pass.load_choices(choices)

    def _compare(self, samples: FixedSamples, explained: tuple[ExplainedSamples, ...]) -> None:
        count = self._pass.disagreement(samples, explained)
        if count:
            self._notices.once(
                f"{type(self).__name__}: for {count} of {len(samples)} samples the model's logits are not those of the "
                "validation pass that has just ended. It may be random in eval mode, or keep state from call to call: "
                "what is shown is one of its answers."
            )

    def _parse_style(self, style: Style | None, methods: Mapping[str, Any]) -> Style:
        """Return the style, with this callback's default of `top_k` where the user sets none."""
        parsed: Style = check_group("style", style, Style)
        if parsed.top_k is None:
            return replace(parsed, top_k=self.default_top_k if "cam" in methods else 1)
        if parsed.top_k > 1 and "cam" not in methods:
            raise ValueError(
                f"Expected `methods` to include 'cam', whose maps `Style(top_k={parsed.top_k})` shows, got "
                f"{', '.join(methods)}."
            )
        return parsed


def _unset_options(methods: object, layer: object, target: object) -> frozenset[str]:
    """Return which options have no value of the user's, by the names that an `OptionError` has them by."""
    is_unset = {"methods": methods is None, "layer": layer is None, "target": target in ("label", "predicted")}
    return frozenset(option for option, value in is_unset.items() if value)


def _describe_left_out(who: str, left_out: Mapping[str, str], shown_methods: Sequence[str]) -> str:
    """Return in a line which methods are left out and why, and what to do."""
    keys_by_reason: dict[str, list[str]] = {}
    for key, reason in left_out.items():
        keys_by_reason.setdefault(reason, []).append(key)
    reasons = "; ".join(f"{', '.join(keys)}: {reason}" for reason, keys in keys_by_reason.items())
    return (
        f"{who} shows {', '.join(shown_methods)} alone, since the other default methods do not work on this model. "
        "Name a layer whose maps they can read (`layer=...`), or the methods that you want "
        f"(`methods={list(shown_methods)}`). {reasons}"
    )


def _parse_target(target: Any, samples: Samples, class_names: Sequence[str] | None) -> Target:
    """Return the target.

    Raises:
        ValueError: A sequence does not hold one class per sample, or the style names the classes and none is so called.
    """
    parsed = Target(target)
    if class_names is not None:
        parsed.named(class_names)
    if isinstance(parsed.choice, tuple) and len(parsed.choice) != samples.count:
        raise ValueError(
            f"Expected `target` to hold one class for each of the {samples.count} samples, got {len(parsed.choice)}."
        )
    return parsed


def _parse_layer(layer: Any) -> tuple[str | nn.Module, ...]:
    """Return the layers, by their names or as modules; none where the layer is to be found."""
    names = () if layer is None else (layer,) if isinstance(layer, str | nn.Module) else layer
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | nn.Module) for name in names):
        raise TypeError(
            f"Expected `layer` to be a dotted name, a module, several of these, or None, got {type(layer).__name__}."
        )
    if layer is not None and (not names or len(set(names)) < len(names)):
        raise ValueError(f"Expected `layer` to name different layers, got {shown(layer)}.")
    return tuple(names)


def _check_metrics(metrics: Metrics, samples: Samples, target: Target) -> None:
    """Raise an error for metrics that cannot be measured for these samples or this target."""
    if metrics.faithfulness and target.is_function:
        raise ValueError("Expected `target` to be a class, whose probability `faithfulness` measures, got a callable.")
    if metrics.samples is None:
        return
    if isinstance(target.choice, tuple):
        raise ValueError("Expected `target` not to be one class per sample where `metrics.samples` are others.")
    if samples.objects is not None and not callable(samples.objects):
        raise TypeError(
            "Expected `samples.objects` to be a function of the batch where `metrics.samples` are not the shown ones, "
            f"got {type(samples.objects).__name__}."
        )


def _metrics_samples(metrics: Metrics, samples: Samples) -> SampleCollector | None:
    """Return what collects the samples that are measured in place of the shown ones; None if the shown ones are."""
    if metrics.samples is None:
        return None
    return SampleCollector(Spread(metrics.samples), samples.objects, samples.labels)


class GradCAMCallback(SaliencyCallback):
    """`SaliencyCallback` with Grad-CAM (Selvaraju et al. 2017)."""

    default_methods = ("grad_cam",)


class GradCAMPlusPlusCallback(SaliencyCallback):
    """`SaliencyCallback` with Grad-CAM++ (Chattopadhyay et al. 2018)."""

    default_methods = ("grad_cam_plus_plus",)


class GradientSaliencyCallback(SaliencyCallback):
    """`SaliencyCallback` with gradient saliency (Simonyan et al. 2014)."""

    default_methods = ("saliency",)


class CAMCallback(SaliencyCallback):
    """`SaliencyCallback` with CAM (Zhou et al. 2016), for models whose head is global average pooling, then linear.

    One forward and no backward. It also shows, as `saliency/class_maps`, CAM of the three most probable classes.
    """

    default_methods = ("cam",)
    default_top_k = 3


def _reason(end: GradientEnd) -> str:
    """Return the end of a sentence that says why there are no maps, and what can be done."""
    if end.zero_weight is not None:
        return f"since `{end.zero_weight}` is zero everywhere: nothing has been learned there yet."
    return (
        f"since the gradient of the score is {end.kind} before its `{end.operation}`. Name what goes into that: the "
        "submodule that returns it, `model=...`, or a function that takes it from the output, "
        "`Execution(output_fn=...)`."
    )
