"""Callbacks that show where a model looks while it trains: thin Lightning shells around `explain` and the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, get_args

from torch import Tensor

from lightning_saliency._compat import LightningModule, Trainer
from lightning_saliency.attribution import Normalize, parse_methods, parse_options
from lightning_saliency.batches import Objects
from lightning_saliency.callbacks.base import (
    OnError,
    PictureCallback,
    Pictures,
    Turn,
    check_names,
)
from lightning_saliency.callbacks.history import History
from lightning_saliency.callbacks.numbers import Numbers
from lightning_saliency.checks import check_choice, check_count, check_function
from lightning_saliency.explain import Explanation, Fuse
from lightning_saliency.pictures import Look
from lightning_saliency.probe import CallbackTarget, Probe
from lightning_saliency.render import Channels
from lightning_saliency.samples import Choose, FixedBatch
from lightning_saliency.targets import Task, parse_target


class SaliencyCallback(PictureCallback):
    """Shows where the model looks, on a fixed validation batch, epoch after epoch.

    At the end of each validation, one forward and one backward serve all methods together, and a picture for each goes
    to every logger of the trainer. Training is not touched: the final weights are those of the training without it, bit
    for bit. Also works in `trainer.validate` and `trainer.test`.

    Logged, with the same steps as Lightning's scalars:
        - `saliency/<method>`: rows are samples; columns are the image and the overlay. In `trainer.test`,
          `saliency/<method>/test`.
        - `saliency/overview`: the image and the overlays of all methods, where there are several.
        - `saliency/class_maps`: the image and CAM of its `top_k` most probable classes, where `top_k` is above 1.
        - `saliency/<method>/filmstrip`: rows are samples, columns are epochs, the untrained network first; drawn anew
          as the run goes on, ever more rarely, and at its end.
        - `saliency/<method>/animation`: the same as a GIF, which TensorBoard plays; at the end of `fit`. It is also a
          file, `saliency/<method>/animation.gif`, beside the event file.
        - `saliency/seconds`, a scalar in `fit`: the time that this callback took since the last validation.
        - `saliency/<method>/<metric>`, scalars in `fit`, `validate` and `test` (there with `/test` behind): what
          `lightning_saliency.metrics` says. Always: `entropy`, `area_above_half`, `blank_fraction`, `raw_maximum`, and
          of several methods `agreement`. In `fit`, from the second look on: `rank_correlation_previous` and
          `center_shift_previous`; and `rank_correlation_untrained` and `center_shift_untrained`, where sanity checking
          has shown the untrained network. With `objects`: `pointing_game`, `energy_in_box`, `box_iou`, `box_accuracy`,
          `max_box_accuracy`. With `faithfulness`: `average_drop`, `increase_in_confidence`, `deletion`, `insertion`.
          With `sanity_every_n_epochs`: `rank_correlation_random_head`.

    What was seen is kept in the run's record, `saliency.record` beside the event file, which
    `lightning_saliency.load_record` reads.

    A wrong option is an error in `setup` or in sanity checking, before the first training step. After that a fault is
    one warning with its cause, and training goes on.

    Args:
        methods: Keys of `lightning_saliency.METHODS`. Default: `grad_cam`, `grad_cam_plus_plus`, `saliency`.
        num_samples: How many images are shown.
        samples: Which ones: positions in the validation stream, in place of the first `num_samples`; or the images
            themselves `(N, C, H, W)`, or a pair of images and labels `(N,)`, as the model gets them.
        choose: `first`: the first of the validation stream; `per_class`: as evenly over the classes as they come.
        dataloader_idx: Which validation loader the samples are taken from.
        target: Which class is explained: `label` (the true class where the batch has labels, else the predicted one),
            `predicted`, a class index, one index per sample, or a callable from logits `(N, K)` to scores `(N,)`.
        task: `multiclass` or `multilabel`, for the probabilities in the captions. Default: the LightningModule's own
            `task`, where it has one of these names, else `multiclass`.
        layer: Dotted name of the layer whose activations the CAM methods read. Default: found from a run, as the papers
            choose it: the last convolutional map after its activation and before any pooling.
            Several names: a map of each, from the same pass.
        fuse: Of several layers one map, the `mean` or `max` of their heatmaps.
        flip: Explain the mirrored samples too, and show the mean: another pass, for smoother maps.
        method_options: By method key, options of its function in `lightning_saliency.attribution`, such as
            `{"smooth_grad": {"num_samples": 50}}`.
        model: Dotted name of the submodule that is explained, which turns images into logits. Default: the
            LightningModule itself if it defines `forward`, else its only submodule with parameters.
        every_n_epochs: Show only every so many epochs.
        log_untrained: Also show the untrained network, from sanity checking.
        mean: What was subtracted from the images, per channel, to show them as they were. Default: found from a
            `Normalize` in the validation data set's transforms; else each image is stretched to its range.
        std: What the images were divided by, per channel.
        class_names: Names of the classes. Default: the validation data set's `.classes`; else their numbers.
        colormap: Any matplotlib colour map.
        alpha: Weight of the colour in the overlay, in [0, 1].
        normalize: How raw maps become colours: `max` (negative values cut, each map divided by its maximum), `minmax`
            (each map from its minimum to its maximum), `shared` (one scale for all samples: a weak map looks weak).
        channels: What to show of images with more than three channels: the `first` three, or the `mean`.
        top_k: Of how many classes of each sample, the most probable ones, CAM is shown side by side; 1 for no such
            picture. Needs `cam` among the methods, and no further pass. Default: 1, and 3 for `CAMCallback`.
        record: Keep the run's record, and draw the filmstrips and animations from it.
        animation_every_n_epochs: Also make the animations every so many epochs.
        metrics: Log the numbers above.
        metrics_samples: Measure the first so many images of the validation stream, in place of the shown ones. They are
            kept in memory, and explained each time in chunks of at most 32, at the cost of so many images more.
        objects: For the numbers that need to know where the objects are: a function that takes boxes `(N, 4)` as (x1,
            y1, x2, y2) in pixels, a list of N tensors of them, or masks `(N, 1, H, W)` out of the batch; or these,
            given, one for each sample.
        faithfulness: Measure, by forward passes, how much of the model's decision the maps hold; see
            `lightning_saliency.faithfulness`: 2 forwards a sample, and 31 for each of its maps.
        sanity_every_n_epochs: Every so many epochs, compare the maps with those of the same network with a randomised
            head, at the cost of explaining once more, and warn of a method whose maps look the same as these or as
            those of the untrained network.
        chunk_size: At most so many images at a time, which bounds the memory.
        input_fn: Takes the images, or (images, labels), out of a batch that is not understood by itself.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        name: First part of the tags, so that two callbacks can share a logger.
        on_error: What a fault does once training has begun: `warn` (once for each cause) or `raise`.
        max_fraction: The largest share of the training's time that this callback may take. Where the next call would
            exceed it, it shows fewer samples, then only every second, fourth … time, and says so once. Default: no
            limit.
        audit: Hash everything that decides how training goes on before and after each step of a call (explaining,
            measuring, recording, each logger), and raise an error that names what has changed. Weights, gradients and
            optimizer state go through one CPU core at about 1 GB/s, twice for each: seconds per validation for a large
            model.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callback = SaliencyCallback(methods=["grad_cam", "saliency"], num_samples=4)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    default_methods: ClassVar[tuple[str, ...]] = ("grad_cam", "grad_cam_plus_plus", "saliency")
    default_top_k: ClassVar[int] = 1

    def __init__(
        self,
        methods: str | Sequence[str] | None = None,
        *,
        num_samples: int = 8,
        samples: list[int] | Tensor | tuple[Tensor, Tensor] | None = None,
        choose: Choose = "first",
        dataloader_idx: int = 0,
        target: CallbackTarget = "label",
        task: Task | None = None,
        layer: str | list[str] | None = None,
        fuse: Fuse | None = None,
        flip: bool = False,
        method_options: dict[str, dict[str, Any]] | None = None,
        model: str | None = None,
        every_n_epochs: int = 1,
        log_untrained: bool = True,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        colormap: str = "turbo",
        alpha: float = 0.5,
        normalize: Normalize = "max",
        channels: Channels = "first",
        top_k: int | None = None,
        record: bool = True,
        animation_every_n_epochs: int | None = None,
        metrics: bool = True,
        metrics_samples: int | None = None,
        objects: Objects | None = None,
        faithfulness: bool = False,
        sanity_every_n_epochs: int | None = None,
        chunk_size: int | None = None,
        input_fn: Callable[[Any], Any] | None = None,
        output_fn: Callable[[Any], Tensor] | None = None,
        name: str = "saliency",
        on_error: OnError = "warn",
        max_fraction: float | None = None,
        audit: bool = False,
    ) -> None:
        self.methods = parse_methods(self.default_methods if methods is None else methods)
        if top_k is None:
            top_k = self.default_top_k if "cam" in self.methods else 1
        check_count("top_k", top_k)
        if top_k > 1 and "cam" not in self.methods:
            raise ValueError(
                f"Expected `methods` to include 'cam', whose maps `top_k={top_k}` shows, got {self.methods}."
            )
        for option, count in (
            ("chunk_size", chunk_size),
            ("animation_every_n_epochs", animation_every_n_epochs),
            ("metrics_samples", metrics_samples),
            ("sanity_every_n_epochs", sanity_every_n_epochs),
        ):
            if count is not None:
                check_count(option, count)
        if faithfulness and callable(target):
            raise ValueError(
                "Expected `target` to be a class, whose probability `faithfulness` measures, got a callable."
            )
        if metrics_samples is not None and isinstance(target, list | Tensor):
            raise ValueError("Expected `target` not to be one class per sample where `metrics_samples` are others.")
        if metrics_samples is not None and objects is not None and not callable(objects):
            raise TypeError(
                "Expected `objects` to be a function of the batch where `metrics_samples` are not the shown ones, got "
                f"{type(objects).__name__}."
            )
        check_choice("task", task, (*get_args(Task), None))
        check_choice("fuse", fuse, (*get_args(Fuse), None))
        check_function("output_fn", output_fn)
        named = [layer] if isinstance(layer, str) else layer
        if named is not None and not (isinstance(named, list | tuple) and all(isinstance(name, str) for name in named)):
            raise TypeError(f"Expected `layer` to be a dotted name, several, or None, got {type(layer).__name__}.")
        self.probe = Probe(
            self.methods,
            target=target,
            task=task,
            layer=layer,
            fuse=fuse,
            flip=flip,
            method_options=parse_options(method_options, self.methods),
            model=model,
            output_fn=output_fn,
            chunk_size=chunk_size,
        )
        measured = None
        if metrics_samples is not None:
            measured = FixedBatch(metrics_samples, input_fn=input_fn, objects=objects)
        self._numbers = Numbers(self.probe, measured, faithfulness, sanity_every_n_epochs) if metrics else None
        look = Look(mean, std, check_names(class_names), colormap, alpha, normalize, channels, top_k)
        self._history = History(name, look, animation_every_n_epochs) if record else None
        self._explanation: Explanation | None = None
        super().__init__(
            look,
            num_samples=num_samples,
            samples=samples,
            choose=choose,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            log_untrained=log_untrained,
            input_fn=input_fn,
            name=name,
            on_error=on_error,
            max_fraction=max_fraction,
            audit=audit,
            objects=objects,
        )
        if isinstance(target, str) and target not in ("label", "predicted"):
            raise ValueError(f"Expected `target` to be 'label', 'predicted', an index or a callable, got {target!r}.")
        if not isinstance(target, str):
            parse_target(target, self.num_shown)

    @property
    def _tags(self) -> set[str]:
        overview = {"overview"} if len(self.methods) > 1 else set()
        return {f"{self.name}/{tag}" for tag in {*self.methods, *overview}}

    def _check(self, pl_module: LightningModule) -> None:
        self.probe.check(pl_module)

    def _forget(self) -> None:
        self.probe.forget()
        self._explanation = None

    def _begin_run(self) -> None:
        super()._begin_run()
        for part in (self._numbers, self._history):
            if part is not None:
                part.reset()

    def _collected(self, stage: str) -> list[FixedBatch]:
        own = self._numbers.samples if self._numbers is not None and stage == "validate" else None
        return [*super()._collected(stage), *([own] if own is not None else [])]

    def state_dict(self) -> dict[str, Any]:
        """The samples, what drift is measured from, and where the record is."""
        parts = {"numbers": self._numbers, "history": self._history}
        own = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them."""
        super().load_state_dict(state_dict)
        if self._numbers is not None:
            self._numbers.load_state_dict(state_dict.get("numbers", {}))
        if self._history is not None:
            self._history.load_state_dict(state_dict.get("history", {}))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run over the validation stream starts."""
        for batch in self._collected("validate"):
            batch.begin()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last filmstrips, and make the animations."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and self._history is not None:
            self._show("validate", trainer, pl_module, [self._history.end], trainer.loggers)

    def _acts(self, turn: Turn) -> list[Callable[[], Pictures]]:
        acts = super()._acts(turn)
        if self._numbers is not None and not turn.is_rehearsal:
            acts.append(partial(self._measure, self._numbers, turn))
        if self._history is not None and turn.in_fit and turn.is_logged:
            acts.append(partial(self._keep, self._history, turn))
        return acts

    def _end_turn(self) -> None:
        self._explanation = None

    def _draw(self, turn: Turn) -> Pictures:
        self._explanation = self.probe.explain(turn.trainer, turn.pl_module, turn.samples)
        return dict(
            self.look.draw(
                turn.samples,
                self._explanation,
                title=turn.title,
                explained=self.probe.explained(turn.samples),
                dataset=turn.dataset,
            )
        )

    def _measure(self, numbers: Numbers, turn: Turn) -> Pictures:
        if self._explanation is not None:
            self._scalars.update(numbers.of(turn, self._explanation))
        return {}

    def _keep(self, history: History, turn: Turn) -> Pictures:
        if self._explanation is None:
            return {}
        peers = self._peers(turn.trainer).index(self)
        file = f"{self.name}.{peers}" if peers else self.name
        return history.add(turn, self._explanation, self._scalars, self.probe.explained(turn.samples), file)


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
