"""Callbacks that show where a model looks while it trains: thin Lightning shells around `explain` and the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS, Normalize, parse_methods
from lightning_saliency.evidence import find_target_layer
from lightning_saliency.explain import Explanation, check_images, explain
from lightning_saliency.layers import TargetLayer, name_layer
from lightning_saliency.loggers import log_picture, scalar_step
from lightning_saliency.render import Caption, Channels, grid, shown_channels, to_rgb
from lightning_saliency.samples import (
    Choose,
    FixedBatch,
    Samples,
    find_class_names,
    find_dataset,
    find_normalization,
)
from lightning_saliency.targets import parse_target

OnError = Literal["warn", "raise"]
CallbackTarget = Literal["label", "predicted"] | int | list[int] | Callable[[Tensor], Tensor]

_SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


class SaliencyCallback(Callback):
    """Shows where the model looks, on a fixed validation batch, epoch after epoch.

    At the end of each validation, one forward and one backward serve all methods together, and a picture for each goes
    to every logger of the trainer. Training is not touched: the final weights are those of the training without it, bit
    for bit. Also works in `trainer.validate` and `trainer.test`.

    Logged, as pictures with the same steps as Lightning's scalars:
        - `saliency/<method>`: rows are samples; columns are the image and the overlay. In `trainer.test`,
          `saliency/<method>/test`.
        - `saliency/overview`: the image and the overlays of all methods, where there are several.

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
        chunk_size: At most so many images at a time, which bounds the memory.
        input_fn: Takes the images, or (images, labels), out of a batch that is not understood by itself.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        name: First part of the tags, so that two callbacks can share a logger.
        on_error: What a fault does once training has begun: `warn` (once for each cause) or `raise`.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> callback = SaliencyCallback(methods=["grad_cam", "saliency"], num_samples=4)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    default_methods: ClassVar[tuple[str, ...]] = ("grad_cam", "grad_cam_plus_plus", "saliency")

    def __init__(
        self,
        methods: str | Sequence[str] | None = None,
        *,
        num_samples: int = 8,
        samples: list[int] | Tensor | tuple[Tensor, Tensor] | None = None,
        choose: Choose = "first",
        dataloader_idx: int = 0,
        target: CallbackTarget = "label",
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
        chunk_size: int | None = None,
        input_fn: Callable[[Any], Any] | None = None,
        output_fn: Callable[[Any], Tensor] | None = None,
        name: str = "saliency",
        on_error: OnError = "warn",
    ) -> None:
        super().__init__()
        self.methods = parse_methods(self.default_methods if methods is None else methods)
        for option, count in (("num_samples", num_samples), ("every_n_epochs", every_n_epochs)):
            _check_count(option, count)
        if chunk_size is not None:
            _check_count("chunk_size", chunk_size)
        for option, value, allowed in (
            ("choose", choose, get_args(Choose)),
            ("normalize", normalize, get_args(Normalize)),
            ("channels", channels, get_args(Channels)),
            ("on_error", on_error, get_args(OnError)),
        ):
            if value not in allowed:
                raise ValueError(f"Expected `{option}` to be one of {', '.join(allowed)}, got {value!r}.")
        if isinstance(target, str) and target not in ("label", "predicted"):
            raise ValueError(f"Expected `target` to be 'label', 'predicted', an index or a callable, got {target!r}.")
        if layer is not None and not isinstance(layer, str):
            raise TypeError(f"Expected `layer` to be a dotted name or None, got {type(layer).__name__}.")
        if (mean is None) != (std is None):
            raise ValueError("Expected `mean` and `std` both or neither, got only one of them.")
        # fails here rather than at the end of the first epoch
        grid(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), {"": torch.zeros(1, 1, 1, 1)}, colormap=colormap, alpha=alpha)

        self.target = target
        self.layer = layer
        self.model = model
        self.every_n_epochs = every_n_epochs
        self.log_untrained = log_untrained
        self.mean, self.std = mean, std
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self.colormap, self.alpha, self.normalize, self.channels = colormap, alpha, normalize, channels
        self.chunk_size = chunk_size
        self.output_fn = output_fn
        self.dataloader_idx = dataloader_idx
        self.name = name
        self.on_error = on_error

        fixed, indices = _parse_samples(samples)
        self._batches = {
            stage: FixedBatch(num_samples, choose, indices, input_fn, fixed) for stage in ("validate", "test")
        }
        self._key = self._generate_state_key(
            name=name, methods=self.methods, num_samples=num_samples, choose=choose, layer=layer, target=str(target)
        )
        self._found_layer: TargetLayer | None = None
        self._faults: set[str] = set()

    @property
    def state_key(self) -> str:
        """Distinct for callbacks with different options, which may share a trainer."""
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
        if isinstance(trainer.strategy, _SHARDED):
            raise ValueError(
                f"{type(self).__name__} needs the whole model on one rank, which {type(trainer.strategy).__name__} "
                "does not keep. Use a strategy that does, such as 'ddp', or train without this callback."
            )
        self._found_layer = None
        self._faults.clear()
        if not trainer.loggers:
            rank_zero_warn(
                f"{type(self).__name__} has no logger to write pictures to, so it shows nothing. Give the Trainer one: "
                "`Trainer(logger=TensorBoardLogger('logs'))`."
            )
        is_built_later = type(pl_module).configure_model is not LightningModule.configure_model
        if not is_built_later:
            model = self._explained_module(pl_module)
            if self.layer is not None:
                name_layer(model, self.layer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where no validation will ever run."""
        if not trainer.enable_validation:
            rank_zero_warn(
                f"{type(self).__name__} works at the end of each validation, and this run has none: give the Trainer a "
                "validation loader, define `validation_step`, and leave `limit_val_batches` above 0."
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
        self._capture("validate", trainer, batch, dataloader_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the samples as the batch passes."""
        self._capture("test", trainer, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples and log the pictures."""
        if trainer.sanity_checking:
            # a resumed run is sanity checked too; there the pass only brings out errors before the first step
            logs = self.log_untrained and trainer.global_step == 0
            self._finish("validate", trainer, pl_module, logs=logs)
        elif trainer.state.fn != "fit" or (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._finish("validate", trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples of the test stream and log the pictures."""
        self._finish("test", trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the model."""
        self._found_layer = None

    def _capture(self, stage: str, trainer: Trainer, batch: Any, dataloader_idx: int) -> None:
        if trainer.is_global_zero and dataloader_idx == self.dataloader_idx:
            self._guarded(trainer, lambda: self._batches[stage].offer(batch))

    def _finish(self, stage: str, trainer: Trainer, pl_module: LightningModule, *, logs: bool = True) -> None:
        """The stream has passed: keep the samples, explain them and log the pictures."""
        if not trainer.is_global_zero:
            return
        whole = not trainer.sanity_checking or _sanity_sees_all(trainer, self.dataloader_idx)
        self._guarded(trainer, lambda: self._batches[stage].end(whole=whole))
        if trainer.loggers:
            self._guarded(trainer, lambda: self._show(stage, trainer, pl_module, logs=logs))

    def _guarded(self, trainer: Trainer, step: Callable[[], None]) -> None:
        """Run a step; a fault ends nothing that has begun, and is said once."""
        try:
            step()
        except Exception as fault:
            if trainer.sanity_checking or self.on_error == "raise":
                raise
            self._found_layer = None
            cause = f"{type(fault).__name__}: {fault}"
            if cause not in self._faults:
                self._faults.add(cause)
                rank_zero_warn(
                    f"{type(self).__name__} could not show its pictures (epoch {trainer.current_epoch}), and the run "
                    f"goes on without them. Said once for each cause; `on_error='raise'` stops instead. {cause}"
                )

    def _show(self, stage: str, trainer: Trainer, pl_module: LightningModule, *, logs: bool) -> None:
        samples = self._batches[stage].current()
        if samples is None:
            if trainer.sanity_checking and logs:
                rank_zero_info(
                    f"{type(self).__name__}: none of the samples is among the batches of sanity checking, so the "
                    "untrained network is not shown. `Trainer(num_sanity_val_steps=-1)` runs them all."
                )
            return
        explanation = self._explain(trainer, pl_module, samples)
        suffix = "" if stage == "validate" else f"/{stage}"
        step = scalar_step(trainer)
        for tag, picture in self._pictures(stage, trainer, samples, explanation).items():
            if logs:
                log_picture(trainer.loggers, f"{self.name}/{tag}{suffix}", picture, step)

    def _explain(self, trainer: Trainer, pl_module: LightningModule, samples: Samples) -> Explanation:
        model = self._explained_module(pl_module)
        images = samples.images.to(pl_module.device)
        run: dict[str, Any] = {
            "output_fn": self.output_fn,
            "forward_context": trainer.precision_plugin.forward_context,
        }
        reads_layer = any(METHODS[method].needs != {"input_grads"} for method in self.methods)
        if self.layer is None and self._found_layer is None and reads_layer:
            self._found_layer = find_target_layer(model, images, **run)
        target: Any = self.target
        if target == "label":
            target = samples.labels
        elif target == "predicted":
            target = None
        return explain(
            model,
            images,
            methods=self.methods,
            target=target,
            layer=self.layer or self._found_layer,
            chunk_size=self.chunk_size,
            **run,
        )

    def _explained_module(self, pl_module: LightningModule) -> nn.Module:
        if self.model is not None:
            return name_layer(pl_module, self.model, argument="model").module
        if type(pl_module).forward is not LightningModule.forward:
            return pl_module
        children = [name for name, child in pl_module.named_children() if any(True for _ in child.parameters())]
        if len(children) != 1:
            raise ValueError(
                f"{type(pl_module).__name__} defines no `forward`, so it is not clear what turns images into logits. "
                f"Define it, or name a submodule: `model=...`, one of {', '.join(children) or 'none'}."
            )
        return pl_module.get_submodule(children[0])

    def _pictures(self, stage: str, trainer: Trainer, samples: Samples, explanation: Explanation) -> dict[str, Tensor]:
        dataset = find_dataset(
            trainer.val_dataloaders if stage == "validate" else trainer.test_dataloaders, self.dataloader_idx
        )
        images = to_rgb(samples.images, *self._normalization(dataset, samples.images.shape[1]), self.channels)
        heatmaps, blanks = explanation.heatmaps(normalize=self.normalize), explanation.blanks(self.normalize)
        columns = {method: METHODS[method].title for method in self.methods}
        notes = [
            f"explained: {self._explained_class(samples)}",
            f"layer: {explanation.layer}" if explanation.layer else "",
            shown_channels(samples.images.shape[1], self.channels),
        ]

        def draw(methods: Sequence[str]) -> Tensor:
            return grid(
                images,
                {columns[method]: heatmaps[method].cpu() for method in methods},
                title=_title(stage, trainer),
                captions=self._captions(samples, explanation, self.class_names or find_class_names(dataset)),
                blanks={columns[method]: blanks[method] for method in methods},
                note=" · ".join(note for note in notes if note),
                colormap=self.colormap,
                alpha=self.alpha,
            )

        pictures = {method: draw([method]) for method in self.methods}
        return pictures | {"overview": draw(self.methods)} if len(self.methods) > 1 else pictures

    def _normalization(self, dataset: Any, num_channels: int) -> tuple[Any, Any]:
        if self.mean is not None:
            return self.mean, self.std
        found = find_normalization(dataset)
        fits = found is not None and len(found[0]) in (1, num_channels)
        return found if found is not None and fits else (None, None)

    def _explained_class(self, samples: Samples) -> str:
        if self.target == "label":
            return "true class" if samples.labels is not None else "predicted class"
        return {"predicted": "predicted class"}.get(str(self.target), "chosen target")

    def _captions(self, samples: Samples, explanation: Explanation, names: Sequence[str] | None) -> list[Caption]:
        def name(index: int) -> str:
            return names[index] if names is not None and index < len(names) else str(index)

        labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
        predictions = explanation.predictions.tolist()
        confidences = explanation.probabilities.amax(1).tolist()
        return [
            Caption(
                f"predicted {name(prediction)} {confidence:.0%}"
                if label is None
                else f"true {name(label)} · predicted {name(prediction)} {confidence:.0%}",
                None if label is None else label == prediction,
            )
            for label, prediction, confidence in zip(labels, predictions, confidences, strict=True)
        ]


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
    """`SaliencyCallback` with CAM (Zhou et al. 2016), for models whose head is global average pooling, then linear."""

    default_methods = ("cam",)


def _check_count(option: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"Expected `{option}` to be a positive int, got {count!r}.")


def _parse_samples(samples: Any) -> tuple[Samples | None, list[int] | None]:
    """Given samples, or positions in the stream."""
    if samples is None:
        return None, None
    if isinstance(samples, Tensor):
        samples = (samples, None)
    if isinstance(samples, tuple | list) and len(samples) == 2 and isinstance(samples[0], Tensor):
        images, labels = samples
        check_images(images)
        parsed = parse_target(labels, len(images))
        return Samples(images.detach().cpu(), parsed.cpu() if isinstance(parsed, Tensor) else None), None
    if not isinstance(samples, Sequence) or not all(isinstance(index, int) and index >= 0 for index in samples):
        raise TypeError(
            "Expected `samples` to be positions in the validation stream (non-negative ints), images (N, C, H, W), or "
            f"a pair of images and labels, got {samples!r}."
        )
    if not samples:
        raise ValueError("Expected `samples` to hold at least one position, got none.")
    return None, list(samples)


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
