"""Callbacks that show where a model looks while it trains: thin Lightning shells around `explain` and the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from lightning_saliency._compat import (
    SHARDED_STRATEGIES,
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_saliency.attribution import Normalize, parse_methods
from lightning_saliency.budget import Budget
from lightning_saliency.guard import Guard
from lightning_saliency.loggers import log_picture, scalar_step
from lightning_saliency.pictures import Look
from lightning_saliency.probe import CallbackTarget, Probe
from lightning_saliency.render import Channels
from lightning_saliency.samples import Choose, FixedBatch, Samples, find_dataset, parse_samples
from lightning_saliency.targets import Task, parse_target

OnError = Literal["warn", "raise"]


class SaliencyCallback(Callback):
    """Shows where the model looks, on a fixed validation batch, epoch after epoch.

    At the end of each validation, one forward and one backward serve all methods together, and a picture for each goes
    to every logger of the trainer. Training is not touched: the final weights are those of the training without it, bit
    for bit. Also works in `trainer.validate` and `trainer.test`.

    Logged, with the same steps as Lightning's scalars:
        - `saliency/<method>`: rows are samples; columns are the image and the overlay. In `trainer.test`,
          `saliency/<method>/test`.
        - `saliency/overview`: the image and the overlays of all methods, where there are several.
        - `saliency/class_maps`: the image and CAM of its `top_k` most probable classes, where `top_k` is above 1.
        - `saliency/seconds`, a scalar in `fit`: the time that this callback took since the last validation.

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
        chunk_size: At most so many images at a time, which bounds the memory.
        input_fn: Takes the images, or (images, labels), out of a batch that is not understood by itself.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        name: First part of the tags, so that two callbacks can share a logger.
        on_error: What a fault does once training has begun: `warn` (once for each cause) or `raise`.
        max_fraction: The largest share of the training's time that this callback may take. Where the next call would
            exceed it, it shows fewer samples, then only every second, fourth … time, and says so once. Default: no
            limit.
        audit: Hash everything that decides how training goes on before and after each call, and raise an error that
            names what has changed. Weights, gradients and optimizer state go through one CPU core at about 1 GB/s,
            twice for the pass and twice for each logger: seconds per validation for a large model.

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
        layer: str | None = None,
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
        chunk_size: int | None = None,
        input_fn: Callable[[Any], Any] | None = None,
        output_fn: Callable[[Any], Tensor] | None = None,
        name: str = "saliency",
        on_error: OnError = "warn",
        max_fraction: float | None = None,
        audit: bool = False,
    ) -> None:
        super().__init__()
        self.methods = parse_methods(self.default_methods if methods is None else methods)
        if top_k is None:
            top_k = self.default_top_k if "cam" in self.methods else 1
        for option, count in (("num_samples", num_samples), ("every_n_epochs", every_n_epochs), ("top_k", top_k)):
            _check_count(option, count)
        if top_k > 1 and "cam" not in self.methods:
            raise ValueError(
                f"Expected `methods` to include 'cam', whose maps `top_k={top_k}` shows, got {self.methods}."
            )
        if chunk_size is not None:
            _check_count("chunk_size", chunk_size)
        choices = {"choose": get_args(Choose), "on_error": get_args(OnError), "task": (*get_args(Task), None)}
        for option, value in (("choose", choose), ("on_error", on_error), ("task", task)):
            allowed = choices[option]
            if value not in allowed:
                raise ValueError(f"Expected `{option}` to be one of {', '.join(map(str, allowed))}, got {value!r}.")
        if max_fraction is not None and not 0 < max_fraction <= 1:
            raise ValueError(f"Expected `max_fraction` to be above 0 and at most 1, got {max_fraction!r}.")
        if not isinstance(dataloader_idx, int) or dataloader_idx < 0:
            raise ValueError(f"Expected `dataloader_idx` to be an int from 0, got {dataloader_idx!r}.")
        if not isinstance(name, str) or not name:
            raise ValueError(f"Expected `name` to be a text that tags can begin with, got {name!r}.")
        if isinstance(class_names, str):
            raise TypeError(f"Expected `class_names` to be a list of names, got the text {class_names!r}.")
        for option, function in (("input_fn", input_fn), ("output_fn", output_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"Expected `{option}` to be a function or None, got {type(function).__name__}.")
        if layer is not None and not isinstance(layer, str):
            raise TypeError(f"Expected `layer` to be a dotted name or None, got {type(layer).__name__}.")
        names = None if class_names is None else [str(name) for name in class_names]
        self.look = Look(mean, std, names, colormap, alpha, normalize, channels, top_k)

        self.probe = Probe(self.methods, target, layer, model, output_fn, chunk_size, task)
        self.every_n_epochs = every_n_epochs
        self.log_untrained = log_untrained
        self.dataloader_idx = dataloader_idx
        self.name = name
        self.on_error = on_error
        self.max_fraction = max_fraction
        self.audit = audit

        given, indices = parse_samples(samples)
        shown = len(given if given is not None else indices or range(num_samples))
        if isinstance(target, str) and target not in ("label", "predicted"):
            raise ValueError(f"Expected `target` to be 'label', 'predicted', an index or a callable, got {target!r}.")
        if not isinstance(target, str):
            parse_target(target, shown)
        self._batches = {
            stage: FixedBatch(num_samples, choose, indices, input_fn, given) for stage in ("validate", "test")
        }
        self._key = self._generate_state_key(
            name=name, num_samples=shown, choose=choose, samples=indices, dataloader_idx=dataloader_idx
        )
        self._since: float | None = None
        self._periods_shown = 0
        self._begin_run()

    @property
    def state_key(self) -> str:
        """By the name and by what selects the samples: a resumed run may add methods and still show the same ones."""
        return self._key

    def state_dict(self) -> dict[str, Any]:
        """The samples, so that a resumed run shows the same ones."""
        return {stage: batch.state_dict() for stage, batch in self._batches.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the samples of the checkpoint."""
        for stage, batch in self._batches.items():
            batch.load_state_dict(state_dict.get(stage, {}))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before anything runs."""
        if isinstance(trainer.strategy, SHARDED_STRATEGIES):
            raise ValueError(
                f"{type(self).__name__} needs the whole model on one rank, which {type(trainer.strategy).__name__} "
                "does not keep. Use a strategy that does, such as 'ddp', or train without this callback."
            )
        self._begin_run()
        for batch in self._batches.values():
            batch.reset()  # another run may have other data; a checkpoint's samples are loaded after this
        for other in trainer.callbacks:  # type: ignore[attr-defined] # set by the Trainer's connector
            shared = self._tags & other._tags if isinstance(other, SaliencyCallback) and other is not self else set()
            if shared:
                raise ValueError(
                    f"Expected the callbacks of a Trainer to log under different tags, got {min(shared)!r} twice. "
                    "Give one of them another `name=...`."
                )
        if not trainer.loggers:
            rank_zero_warn(
                f"{type(self).__name__} has no logger to write pictures to, so it shows nothing. Give the Trainer one: "
                "`Trainer(logger=TensorBoardLogger('logs'))`."
            )
        if not overrides(pl_module, "configure_model"):  # else the layers are made after this
            self.probe.check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time of the first epoch starts."""
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where no validation has ever run."""
        if not self._has_validated:
            rank_zero_warn(
                f"{type(self).__name__} works at the end of each validation, and this run had none: give the Trainer a "
                "validation loader that is not empty, define `validation_step`, and leave `limit_val_batches` above 0 "
                "and `check_val_every_n_epoch` at or below `max_epochs`."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run over the validation stream starts."""
        self._batches["validate"].begin()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run over the test stream starts."""
        self._batches["test"].begin()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the samples as the batch passes."""
        self._capture("validate", trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the samples as the batch passes."""
        self._capture("test", trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples and log the pictures."""
        if trainer.sanity_checking:
            # a resumed run is sanity checked too; there the pass only brings out errors before the first step
            self._finish("validate", trainer, pl_module, logs=self.log_untrained and trainer.global_step == 0)
            return
        if trainer.state.fn != "fit":
            self._finish("validate", trainer, pl_module)
            return
        self._has_validated = True
        # also where validation itself comes only every so many epochs, and just misses the one
        periods, into = divmod(trainer.current_epoch + 1, self.every_n_epochs)
        is_due = into == 0 or periods > self._periods_shown
        self._periods_shown = periods
        self._finish("validate", trainer, pl_module, is_due=is_due)
        # all ranks log what rank 0 measured, so that callbacks on all ranks can monitor it
        seconds = trainer.strategy.broadcast(self._guard.seconds)
        pl_module.log(f"{self.name}/seconds", seconds, on_step=False, on_epoch=True)
        self._guard.seconds, self._since = 0.0, time.perf_counter()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples of the test stream and log the pictures."""
        self._finish("test", trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the model."""
        self.probe.forget()

    def _begin_run(self) -> None:
        """Forget what belongs to one run of a trainer."""
        self._guard = Guard(type(self).__name__, raises=self.on_error == "raise", audit=self.audit)
        self._budget = Budget(self.max_fraction)
        self.probe.forget()
        self._has_validated = False
        self._periods_shown = 0
        self._since = None

    def _capture(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int
    ) -> None:
        samples = self._batches[stage]
        if trainer.is_global_zero and dataloader_idx == self.dataloader_idx and samples.fixed is None:
            self._guarded(trainer, pl_module, lambda: samples.offer(batch))

    def _finish(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, *, is_due: bool = True, logs: bool = True
    ) -> None:
        """The stream has passed: keep the samples, explain them and log the pictures."""
        if not trainer.is_global_zero:
            return
        batch = self._batches[stage]
        loaders = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(loaders):
            self._guarded(trainer, pl_module, partial(self._refuse_loader, len(loaders)))
        if batch.fixed is None:
            whole = not trainer.sanity_checking or _sanity_sees_all(trainer, self.dataloader_idx)
            self._guarded(trainer, pl_module, lambda: batch.end(whole=whole))
        if not is_due or not trainer.loggers:
            return
        samples = batch.current()
        if samples is None:
            if trainer.sanity_checking and logs:
                rank_zero_info(
                    f"{type(self).__name__}: none of the samples is among the batches of sanity checking, so the "
                    "untrained network is not shown. `Trainer(num_sanity_val_steps=-1)` runs them all."
                )
            return
        shown = samples[: self._affordable(len(samples))]
        if not len(shown):
            return
        spent = self._guard.seconds
        pictures: dict[str, Tensor] = {}
        self._guarded(trainer, pl_module, lambda: pictures.update(self._draw(stage, trainer, pl_module, shown)))
        for logger in trainer.loggers if logs else ():  # one that fails does not keep the others from theirs
            self._guarded(trainer, pl_module, partial(self._log, stage, trainer, logger, pictures))
        if self._since is not None:  # sanity checking is the warm-up, which says little of what follows
            self._budget.record(self._guard.seconds - spent, len(shown))

    def _guarded(self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None]) -> None:
        if not self._guard.run(trainer, pl_module, step):
            self.probe.forget()

    def _draw(self, stage: str, trainer: Trainer, pl_module: LightningModule, samples: Samples) -> dict[str, Tensor]:
        loaders = trainer.val_dataloaders if stage == "validate" else trainer.test_dataloaders
        return self.look.draw(
            samples,
            self.probe.explain(trainer, pl_module, samples),
            title=_title(stage, trainer),
            explained=self.probe.explained(samples),
            dataset=find_dataset(loaders, self.dataloader_idx),
        )

    def _log(self, stage: str, trainer: Trainer, logger: Any, pictures: dict[str, Tensor]) -> None:
        suffix = "" if stage == "validate" else f"/{stage}"
        for tag, picture in pictures.items():
            log_picture(logger, f"{self.name}/{tag}{suffix}", picture, scalar_step(trainer))

    def _affordable(self, num_samples: int) -> int:
        """How many samples the time budget allows now."""
        if self._since is None:  # training has not begun
            return num_samples
        was_thinned = self._budget.is_thinned
        rest = time.perf_counter() - self._since - self._guard.seconds
        planned = self._budget.plan(num_samples, rest)
        if self._budget.is_thinned and not was_thinned:
            rank_zero_warn(
                f"{type(self).__name__} would take more than {self.max_fraction:.0%} of the time, so it now shows "
                f"{self._budget.most} of {num_samples} samples"
                + (f", every {self._budget.every} validations." if self._budget.every > 1 else ".")
            )
        return planned

    def _refuse_loader(self, num_loaders: int) -> None:
        raise ValueError(
            f"Expected `dataloader_idx` to be below the number of loaders, {num_loaders}, got {self.dataloader_idx}."
        )

    @property
    def _tags(self) -> set[str]:
        overview = {"overview"} if len(self.methods) > 1 else set()
        return {f"{self.name}/{tag}" for tag in {*self.methods, *overview}}


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


def _check_count(option: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"Expected `{option}` to be a positive int, got {count!r}.")


def _sanity_sees_all(trainer: Trainer, dataloader_idx: int) -> bool:
    """Whether sanity checking ran over the whole validation stream."""
    ran, all_of_it = trainer.num_sanity_val_batches, trainer.num_val_batches
    return dataloader_idx < len(ran) and ran[dataloader_idx] >= all_of_it[dataloader_idx]


def _title(stage: str, trainer: Trainer) -> str:
    if trainer.sanity_checking:
        return "before training"
    if trainer.state.fn == "fit":
        return f"epoch {trainer.current_epoch} · step {scalar_step(trainer)}"
    return stage
