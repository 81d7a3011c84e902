"""Callbacks that log images from gradient ascent: class model images and fooling images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_saliency._checks import check_count, check_each
from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.callbacks.base import LookCallback
from lightning_saliency.callbacks.model_part import ModelPart
from lightning_saliency.callbacks.options import Execution, Samples, check_group, parse_samples
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.data import FixedSamples
from lightning_saliency.evidence import Forward
from lightning_saliency.gradient_ascent import StepMethod, check_fooling, class_model_image, fooling_image
from lightning_saliency.visualization import (
    PixelScale,
    Style,
    class_model_caption,
    find_names,
    find_pixel_scale,
    fooling_caption,
    grid,
    to_rgb,
)


class _AscentCallback(LookCallback):
    """Base class of the callbacks whose output runs gradient ascent through the explained part of the module."""

    def __init__(
        self,
        output: Output,
        *,
        samples: Samples,
        model: str | None,
        every_n_epochs: int,
        execution: Execution,
        name: str,
    ) -> None:
        super().__init__(
            [output],
            samples=samples,
            part=ModelPart(model, samples.image, execution.output_fn),
            every_n_epochs=every_n_epochs,
            execution=execution,
            name=name,
        )

    def _check(self, pl_module: LightningModule) -> None:
        self._part.check(pl_module)

    def _explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: FixedSamples, at_once: int | None = None
    ) -> tuple[ExplainedSamples, ...]:
        return ()

    def _describe_target(self, samples: FixedSamples) -> str:
        return ""


class ClassModelCallback(_AscentCallback):
    """Logs, epoch after epoch, an image that maximizes the score of each class (Simonyan et al. 2014, section 2).

    Logged, with the same steps as Lightning's scalars:

    - `class_model/<class>`: one picture per class; see `lightning_saliency.class_model_image`.
    - `xai_class_model/seconds`, a scalar in `fit`: the time that this callback took since the last validation.

    The pixels stay between black and white where the normalization is known, else within the range of an image of the
    validation. It takes `steps` forwards and backwards of one image per class. Training is not touched.

    Args:
        classes: The classes. Default: all, if there are at most ten; else the first ten.
        steps: Steps of gradient ascent.
        dataloader_idx: The validation loader whose images give the size.
        model: Dotted name of the submodule that turns images into logits; see `SaliencyCallback`.
        every_n_epochs: The number of epochs from one time to the next.
        style: How the pictures look.
        execution: How the pass runs, and how errors are handled.
        name: First part of the tags.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> callback = ClassModelCallback(classes=[0, 3], every_n_epochs=5)
    """

    takes_samples = False

    def __init__(
        self,
        classes: list[int] | None = None,
        *,
        steps: int = 64,
        dataloader_idx: int = 0,
        model: str | None = None,
        every_n_epochs: int = 1,
        style: Style | None = None,
        execution: Execution | None = None,
        name: str = "class_model",
    ) -> None:
        indices = (
            None
            if classes is None
            else check_each("classes", classes, partial(check_count, least=0), of="class indices")
        )
        ascent = {"steps": check_count("steps", steps)}
        execution = check_group("execution", execution, Execution)
        super().__init__(
            _ClassModels(indices, ascent, check_group("style", style, Style)),
            samples=Samples(num=1, dataloader_idx=dataloader_idx),
            model=model,
            every_n_epochs=every_n_epochs,
            execution=execution,
            name=name,
        )

    @property
    def tags(self) -> set[str]:
        """The first part of the tags of the classes' pictures."""
        return {self.name}


class FoolingCallback(_AscentCallback):
    """Logs, epoch after epoch, the smallest change of the samples that makes the model predict another class.

    Logged, with the same steps as Lightning's scalars:

    - `fooling/samples`: the image, the change magnified, the image with the change; see
      `lightning_saliency.fooling_image`.
    - `xai_fooling/median_steps`, a scalar: the median number of steps until another class is predicted,
      `max_steps` for samples where it is not. The more, the more robust the model.
    - `xai_fooling/seconds`, a scalar in `fit`: the time that this callback took since the last validation.

    The pixels stay between black and white where the normalization is known, else within the range of the samples. It
    takes at most `max_steps` forwards and backwards of the samples. Training is not touched.

    Args:
        target: The class that is to be predicted for all samples. Default: each sample's second most probable one.
        method: `sign` (iterated fast gradient sign method) or `gradient`.
        step_size: Length of a step per pixel, in the units of the model's input.
        max_steps: The most steps per sample.
        samples: Which samples, as in `SaliencyCallback`.
        model: Dotted name of the submodule that turns images into logits; see `SaliencyCallback`.
        every_n_epochs: The number of epochs from one time to the next.
        style: How the pictures look.
        execution: How the pass runs, and how errors are handled.
        name: First part of the tags.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> callback = FoolingCallback(samples=4, step_size=0.02)
    """

    def __init__(
        self,
        target: int | None = None,
        *,
        method: StepMethod = "sign",
        step_size: float = 0.01,
        max_steps: int = 50,
        samples: int | list[int] | Samples | Tensor | tuple[Tensor, Tensor] = 8,
        model: str | None = None,
        every_n_epochs: int = 1,
        style: Style | None = None,
        execution: Execution | None = None,
        name: str = "fooling",
    ) -> None:
        index = None if target is None else check_count("target", target, least=0)
        steps = check_fooling(method=method, step_size=step_size, max_steps=max_steps)
        execution = check_group("execution", execution, Execution)
        super().__init__(
            _FoolingSheet(index, steps, check_group("style", style, Style)),
            samples=parse_samples(samples),
            model=model,
            every_n_epochs=every_n_epochs,
            execution=execution,
            name=name,
        )


class _AscentOutput(Output):
    """Base class of the outputs that run gradient ascent and draw its images."""

    def __init__(self, ascent: dict[str, Any], style: Style) -> None:
        self.ascent = ascent
        self.style = style


class _ClassModels(_AscentOutput):
    """The output of `ClassModelCallback`: one picture per class."""

    def __init__(self, classes: tuple[int, ...] | None, ascent: dict[str, Any], style: Style) -> None:
        super().__init__(ascent, style)
        self.classes = classes

    def __call__(self, look: Look) -> Logged:
        forward, call = look.forward, look.samples.samples[0].call
        num_classes = _num_classes(forward, look)
        classes = self.classes or tuple(range(min(num_classes, 10)))
        in_step = [sample.normalization for sample in look.samples.samples]
        scale = find_pixel_scale([call.images], self.style, look.dataset, look.modules, in_step)
        bounds = _pixel_bounds(scale, call.images)
        result = class_model_image(forward, classes, call.images.shape[1:], bounds=bounds, **self.ascent)
        images = scale(result.images.to(call.images.dtype))
        names = find_names(self.style, look.dataset, look.modules, num_classes)
        pictures: dict[str, Any] = {}
        scores = zip(result.start_scores.tolist(), result.scores.tolist(), strict=True)
        for row, (index, (before, after)) in enumerate(zip(classes, scores, strict=True)):
            tag = names[index].replace("/", "-")  # a slash would begin a group of its own
            is_taken = tag in pictures or tag == "seconds"
            pictures[f"{tag} ({index})" if is_taken else tag] = grid(
                images[row, None],
                {},
                title=look.title,
                captions=[class_model_caption(index, names, result.reasons[row])],
                note=f"score {before:.3g} → {after:.3g}",
            )
        return Logged(pictures=pictures)


class _FoolingSheet(_AscentOutput):
    """The output of `FoolingCallback`: a sheet of all samples."""

    def __init__(self, target: int | None, ascent: dict[str, Any], style: Style) -> None:
        super().__init__(ascent, style)
        self.target = target

    def tags(self) -> set[str]:
        return {"samples"}

    def worst(self) -> dict[str, float]:
        return {"median_steps": 0.0}

    def __call__(self, look: Look) -> Logged:
        batches = look.samples.batches()
        if len(batches) != 1:
            sizes = sorted({tuple(batch.call.images.shape[2:]) for batch in batches})
            raise ValueError(f"Expected `samples` to be images of one size, got {sizes}.")
        forward, images, labels = look.forward, batches[0].call.images, batches[0].labels
        scale = find_pixel_scale([images], self.style, look.dataset, look.modules, batches[0].normalizations)
        bounds = _pixel_bounds(scale, images)
        result = fooling_image(forward, forward.call_of(images).images, self.target, bounds=bounds, **self.ascent)
        steps = torch.where(result.fooled, result.steps, self.ascent["max_steps"])
        changes = result.changes.cpu()
        largest = changes.abs().amax((1, 2, 3), keepdim=True)
        magnified = torch.where(largest > 0, changes / largest, 0.0)
        names = find_names(self.style, look.dataset, look.modules, _num_classes(forward, look))
        outcomes = zip(
            labels, result.targets.tolist(), result.steps.tolist(), result.fooled.tolist(), result.reasons, strict=True
        )
        sheet = grid(
            scale(images),
            {
                "the change, magnified": to_rgb(magnified, 0.5, 0.5, scale.channels),
                "with the change": scale(result.images.cpu()),
            },
            title=look.title,
            captions=[fooling_caption(*outcome, names) for outcome in outcomes],
            note=f"steps of {self.ascent['step_size']:g} a pixel, method: {self.ascent['method']}",
        )
        return Logged({"samples": sheet}, {"median_steps": steps.float().median().item()})


def _pixel_bounds(scale: PixelScale, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return black and white in the units of the model's input; the images' own range where that is unknown."""
    if images.dtype == torch.uint8:
        return torch.tensor(0.0), torch.tensor(255.0)
    if scale.is_unknown:
        low, high = images.amin().float(), images.amax().float()
        return (low, high) if low < high else None
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in scale.normalization or ([0.0], [1.0]))
    return -mean / std, (1 - mean) / std


def _num_classes(forward: Forward, look: Look) -> int:
    """Return the number of classes of the model; a single logit has two."""
    with forward.undisturbed() as isolated:
        logits = isolated(isolated.on_device(look.samples.samples[0].call), warns=True)
    return max(logits.shape[1], 2)
