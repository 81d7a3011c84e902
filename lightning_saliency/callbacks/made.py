"""Callbacks that show images made by gradient ascent: what a class looks like to the model, and what fools it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_saliency._compat import LightningModule, Trainer, muted
from lightning_saliency.callbacks.base import (
    OnError,
    PictureCallback,
    Pictures,
    Turn,
    check_names,
)
from lightning_saliency.checks import check_choice, check_count, check_function
from lightning_saliency.explain import explain
from lightning_saliency.optimize import StepMethod, class_model_image, fooling_image
from lightning_saliency.probe import find_model
from lightning_saliency.samples import Choose
from lightning_saliency.visualization import (
    Channels,
    Style,
    class_model_caption,
    find_names,
    fooling_caption,
    grid,
    to_pictures,
    to_rgb,
)


class _AscentCallback(PictureCallback):
    """What runs gradient ascent through the explained part of the module."""

    def __init__(
        self, look: Style, *, model: str | None, output_fn: Callable[[Any], Tensor] | None, **shared: Any
    ) -> None:
        check_function("output_fn", output_fn)
        self.model = model
        self.output_fn = output_fn
        super().__init__(look, **shared)

    def _check(self, pl_module: LightningModule) -> None:
        find_model(pl_module, self.model)

    def _run(self, trainer: Trainer) -> dict[str, Any]:
        """How the model is run."""
        return {"output_fn": self.output_fn, "forward_context": trainer.precision_plugin.forward_context}


class ClassModelCallback(_AscentCallback):
    """Shows, epoch after epoch, the image that each class's score is highest for (Simonyan et al. 2014, section 2).

    Logged, with the same steps as Lightning's scalars:
        - `class_model/<class>`: a picture a class; see `lightning_saliency.class_model_image`.
        - `class_model/seconds`, a scalar in `fit`: the time that this callback took since the last validation.

    It takes `steps` forwards and backwards of one image a class. Training is not touched.

    Args:
        classes: Which classes. Default: all, if there are at most ten; else the first ten.
        steps: Steps of gradient ascent.
        step_size: Length of the first step, in the units of the model's input; see `class_model_image`.
        weight_decay: λ of the penalty λ‖I‖².
        jitter: Each step sees the image rolled by up to so many pixels.
        blur: Each tenth step ends in a Gaussian blur of this σ, in pixels.
        dataloader_idx: The validation loader whose images the made ones are like in size.
        model: Dotted name of the submodule that turns images into logits; see `SaliencyCallback`.
        every_n_epochs: Show only every so many epochs.
        log_untrained: Also show the untrained network, from sanity checking.
        mean: To show the images, as in `SaliencyCallback`.
        std: To show the images.
        class_names: Names of the classes. Default: the validation data set's `.classes`; else their numbers.
        channels: What to show of images with more than three channels: the `first` three, or the `mean`.
        input_fn: Takes the images out of a batch that is not understood by itself.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        name: First part of the tags.
        on_error: What a fault does once training has begun: `warn` (once for each cause) or `raise`.
        max_fraction: The largest share of the training's time that this callback may take.
        audit: Check before and after each call that nothing of the training has changed.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> callback = ClassModelCallback(classes=[0, 3], every_n_epochs=5)
    """

    def __init__(
        self,
        classes: list[int] | None = None,
        *,
        steps: int = 50,
        step_size: float = 0.1,
        weight_decay: float = 1e-3,
        jitter: int = 0,
        blur: float = 0.0,
        dataloader_idx: int = 0,
        model: str | None = None,
        every_n_epochs: int = 1,
        log_untrained: bool = True,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        channels: Channels = "first",
        input_fn: Callable[[Any], Any] | None = None,
        output_fn: Callable[[Any], Tensor] | None = None,
        name: str = "class_model",
        on_error: OnError = "warn",
        max_fraction: float | None = None,
        audit: bool = False,
    ) -> None:
        check_count("steps", steps)
        if not step_size > 0:
            raise ValueError(f"Expected `step_size` to be above 0, got {step_size!r}.")
        for option, number in (("weight_decay", weight_decay), ("jitter", jitter), ("blur", blur)):
            if not number >= 0:
                raise ValueError(f"Expected `{option}` not to be negative, got {number!r}.")
        if classes is not None and (not classes or not all(type(index) is int and index >= 0 for index in classes)):
            raise ValueError(f"Expected `classes` to be class indices from 0, got {classes!r}.")
        self.classes = classes
        self.ascent: dict[str, Any] = {
            "steps": steps,
            "step_size": step_size,
            "weight_decay": weight_decay,
            "jitter": jitter,
            "blur": blur,
        }
        super().__init__(
            Style(mean, std, check_names(class_names), channels=channels),
            model=model,
            output_fn=output_fn,
            num_samples=1,
            samples=None,
            choose="first",
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            log_untrained=log_untrained,
            input_fn=input_fn,
            name=name,
            on_error=on_error,
            max_fraction=max_fraction,
            audit=audit,
        )

    @property
    def _tags(self) -> set[str]:
        return {self.name}

    def _draw(self, turn: Turn) -> Pictures:
        model = find_model(turn.pl_module, self.model)
        sample = turn.samples.images[:1].to(turn.pl_module.device)
        run = self._run(turn.trainer)
        with muted(turn.pl_module):
            classes = self.classes or list(
                range(min(explain(model, sample, methods="saliency", **run).probabilities.shape[1], 10))
            )
            made = class_model_image(model, classes, sample.shape[1:], **self.ascent, **run)
        images = to_pictures(made.images.cpu(), self.look, turn.dataset)
        names = find_names(self.look, turn.dataset)
        pictures: Pictures = {}
        for row, (index, before, after) in enumerate(
            zip(classes, made.start_scores.tolist(), made.scores.tolist(), strict=True)
        ):
            reason = made.reasons[row]
            tag = names[index].replace("/", "-")  # a slash would begin a group of its own
            taken = tag in pictures or tag == "seconds"
            pictures[f"{tag} ({index})" if taken else tag] = grid(
                images[row, None],
                {},
                title=turn.title,
                captions=[class_model_caption(index, names, reason)],
                note=f"score {before:.3g} → {after:.3g}",
            )
        return pictures


class FoolingCallback(_AscentCallback):
    """Shows, epoch after epoch, how little it takes until the model takes the samples for another class.

    Logged, with the same steps as Lightning's scalars:
        - `fooling/samples`: the image, the change magnified, the image with the change; see
          `lightning_saliency.fooling_image`.
        - `fooling/median_steps`, a scalar: the median number of steps until a sample is taken for another
          class, `max_steps` for those that are not. The more, the more robust the model.
        - `fooling/seconds`, a scalar in `fit`: the time that this callback took since the last validation.

    It takes at most `max_steps` forwards and backwards of the samples. Training is not touched.

    Args:
        target: The class that all samples are to be taken for. Default: each sample's second most probable one.
        method: `sign` (iterated fast gradient sign method) or `gradient`.
        step_size: Length of a step per pixel, in the units of the model's input.
        max_steps: After so many steps a sample is given up.
        num_samples: How many images are shown.
        samples: Which ones, as in `SaliencyCallback`.
        choose: `first`: the first of the validation stream; `per_class`: as evenly over the classes as they come.
        dataloader_idx: Which validation loader the samples are taken from.
        model: Dotted name of the submodule that turns images into logits; see `SaliencyCallback`.
        every_n_epochs: Show only every so many epochs.
        log_untrained: Also show the untrained network, from sanity checking.
        mean: To show the images, as in `SaliencyCallback`.
        std: To show the images.
        class_names: Names of the classes. Default: the validation data set's `.classes`; else their numbers.
        channels: What to show of images with more than three channels: the `first` three, or the `mean`.
        input_fn: Takes the images, or (images, labels), out of a batch that is not understood by itself.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        name: First part of the tags.
        on_error: What a fault does once training has begun: `warn` (once for each cause) or `raise`.
        max_fraction: The largest share of the training's time that this callback may take.
        audit: Check before and after each call that nothing of the training has changed.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> callback = FoolingCallback(num_samples=4, step_size=0.02)
    """

    def __init__(
        self,
        target: int | None = None,
        *,
        method: StepMethod = "sign",
        step_size: float = 0.01,
        max_steps: int = 50,
        num_samples: int = 8,
        samples: list[int] | Tensor | tuple[Tensor, Tensor] | None = None,
        choose: Choose = "first",
        dataloader_idx: int = 0,
        model: str | None = None,
        every_n_epochs: int = 1,
        log_untrained: bool = True,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        channels: Channels = "first",
        input_fn: Callable[[Any], Any] | None = None,
        output_fn: Callable[[Any], Tensor] | None = None,
        name: str = "fooling",
        on_error: OnError = "warn",
        max_fraction: float | None = None,
        audit: bool = False,
    ) -> None:
        check_count("max_steps", max_steps)
        check_choice("method", method, get_args(StepMethod))
        if not step_size > 0:
            raise ValueError(f"Expected `step_size` to be above 0, got {step_size!r}.")
        if target is not None and (type(target) is not int or target < 0):
            raise ValueError(f"Expected `target` to be a class index from 0 or None, got {target!r}.")
        self.target = target
        self.ascent: dict[str, Any] = {"method": method, "step_size": step_size, "max_steps": max_steps}
        super().__init__(
            Style(mean, std, check_names(class_names), channels=channels),
            model=model,
            output_fn=output_fn,
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
        )

    @property
    def _tags(self) -> set[str]:
        return {f"{self.name}/samples"}

    def _draw(self, turn: Turn) -> Pictures:
        samples, pl_module = turn.samples, turn.pl_module
        model = find_model(pl_module, self.model)
        with muted(pl_module):
            made = fooling_image(
                model, samples.images.to(pl_module.device), self.target, **self.ascent, **self._run(turn.trainer)
            )
        steps = torch.where(made.fooled, made.steps, self.ascent["max_steps"])
        self._scalars["median_steps"] = steps.float().median().item()
        changes = made.changes.cpu()
        largest = changes.abs().amax((1, 2, 3), keepdim=True)
        names = find_names(self.look, turn.dataset)
        columns = {
            "the change, magnified": to_rgb(
                torch.where(largest > 0, changes / largest, 0.0), 0.5, 0.5, self.look.channels
            ),
            "with the change": to_pictures(made.images.cpu(), self.look, turn.dataset),
        }
        captions = [
            fooling_caption(label, to, steps, fooled, reason, names)
            for label, to, steps, fooled, reason in zip(
                [None] * len(samples) if samples.labels is None else samples.labels.tolist(),
                made.targets.tolist(),
                made.steps.tolist(),
                made.fooled.tolist(),
                made.reasons,
                strict=True,
            )
        ]
        images = to_pictures(samples.images, self.look, turn.dataset)
        note = f"steps of {self.ascent['step_size']:g} a pixel, method: {self.ascent['method']}"
        return {"samples": grid(images, columns, title=turn.title, captions=captions, note=note)}
