"""`class_model_image`: images that maximize the scores of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lightning_saliency._checks import OptionError, check_count, check_each, check_flag, check_number, refuse, shown
from lightning_saliency.evidence import Forward, as_forward, select_scores
from lightning_saliency.gradient_ascent.steps import (
    ascent_pass,
    check_images,
    directions,
    limits,
    per_image,
    stop_reasons,
    working_copy,
)

_NOISE = 0.1
"""Standard deviation of the noise that the regularized ascent starts from, in standard units."""

_JITTER = 1 / 16
"""The most by which the regularized ascent rolls an image, in heights and widths."""

_SATURATION = 0.3
"""The factor of a regularized step's color, which is what a channel differs by from the mean over the channels."""

_BLUR_SIGMA, _BLUR_LIMIT, _BLUR_EVERY = 1 / 128, 1.0, 10
"""σ of the regularized ascent's blur, in heights and widths, its limit in pixels, and after how many steps it comes."""


@dataclass(frozen=True)
class ClassModelImages:
    """The images that `class_model_image` returns, with their scores.

    Attributes:
        images: `(K, C, H, W)`, in the units of the model's input: to show them, undo the normalization.
        classes: The class of each image, `(K,)` int64.
        start_scores: S_c of the starting images, `(K,)`.
        scores: S_c of the images, `(K,)`.
        objectives: S_c − λ‖I‖² at the start and after each step, `(steps + 1, K)`.
        reasons: Why no step raises the score of an image, `"gradient 0"` or `"not finite"`; else None.
    """

    images: Tensor
    classes: Tensor
    start_scores: Tensor
    scores: Tensor
    objectives: Tensor
    reasons: list[str | None]


def class_model_image(
    model: nn.Module | Forward,
    classes: int | Sequence[int] | Tensor,
    image_size: Sequence[int] | None = None,
    *,
    start: Tensor | None = None,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
    steps: int = 64,
    step_size: float = 0.4,
    weight_decay: float = 1e-4,
    regularized: bool = True,
    seed: int = 0,
) -> ClassModelImages:
    """Return an image that maximizes a class's score (Simonyan et al. 2014, "Deep Inside Convolutional Networks").

    argmax_I S_c(I) − λ‖I‖₂², with S_c the score before the softmax, by gradient ascent. The first step changes the
    pixels by `step_size` (root mean square), however large the gradient is, each next one by a little less, and the
    last by `step_size / steps`.

    The maximum of the formula alone is noise that only this network takes for the class. What a person recognizes, too,
    comes of regularizing the steps, each one of which still raises the score, to first order:

    - The image is rolled at random before each step, by up to a sixteenth of its size (Mordvintsev et al. 2015,
      "Inceptionism"), and each tenth step ends in a Gaussian blur, σ = 1/128 of its size, but no more than 1 pixel
      (Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization").
    - Of a step's color, what a channel differs by from the mean over the channels, 30 % is left, since the channels of
      photographs rise and fall together (Olah et al. 2017, "Feature Visualization", by decorrelated colors).
    - It starts from faint noise. Where a ReLU lets nothing of an image's gradient through, as behind a logit that is 0,
      the gradient passes it unchanged (as in Lucid, the code of Olah et al. 2017).

    Each image is independent of the others. The model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: Any module that returns logits, or how it is run, as for `explain`.
        classes: A class, or K classes, whose images are optimized as one batch. A single logit has the classes 0 and 1.
        image_size: (C, H, W) of the images.
        start: The image to start from, `(C, H, W)` or `(K, C, H, W)`, instead of the noise, or of the zero image.
        bounds: (low, high), black and white in the units of the model's input, between which pixels stay: numbers, or
            tensors that broadcast to `(C, H, W)`; for normalized pixels `((0 - mean) / std)[:, None, None]` and
            `((1 - mean) / std)[:, None, None]`. I is then counted from the middle, in quarters of the range. None: I
            is the input itself, as fits inputs that are normalized to mean 0 and standard deviation 1.
        steps: The number of steps.
        step_size: Length of the first step, in the units of I.
        weight_decay: λ.
        regularized: Whether to regularize the steps. False: gradient ascent on the formula as it stands, from I = 0.
            Steps that are short enough then raise the objective each time: see `objectives`.
        seed: The seed of the noise and of the rolling: another one gives another image.

    Returns:
        The images, on the model's device, in its precision, but at least float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit, or the score does not depend on the input.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> result = class_model_image(model, [0, 3], image_size=(3, 16, 16), steps=10)
        >>> result.images.shape, result.objectives.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([11, 2]))
        >>> result.scores > result.start_scores
        tensor([True, True])
    """
    forward, indices = as_forward(model), _class_indices(classes)
    steps, step_size, weight_decay = check_ascent(steps=steps, step_size=step_size, weight_decay=weight_decay).values()
    regularized, seed = check_flag("regularized", regularized), check_count("seed", seed, least=0)
    initial = torch.zeros(_parse_image_size(image_size)) if start is None else start
    initial = initial[None] if isinstance(initial, Tensor) and initial.dim() == 3 else initial
    check_images(initial, "image_size" if start is None else "start", (1, len(indices)))
    generator = torch.Generator().manual_seed(seed)

    with forward.undisturbed() as isolated:
        initial = working_copy(isolated, initial)
        units = _Units.of(bounds, initial)
        if start is not None:
            points = units.points(initial)
        else:
            noise = torch.randn(initial.shape, generator=generator, dtype=torch.float64)
            points = noise.to(initial) * (_NOISE if regularized else 0)
        indices = indices.clone()  # autograd saves them, and refuses tensors from inference mode
        ascent = _Ascent(isolated, indices, units, weight_decay, regularized)
        state = ascent.evaluate(points.expand(len(indices), -1, -1, -1).clone())
        start_scores, objectives = state.scores, [state.objectives]
        for step in range(1, steps + 1):
            length, is_last = step_size * (steps + 1 - step) / steps, step == steps
            candidates = ascent.move(state, length, blurs=step % _BLUR_EVERY == 0 and not is_last)
            # the last scores are those of the images as they are returned
            next_state = ascent.evaluate(candidates, [0, 0] if is_last else ascent.draw_shift(initial, generator))
            finite = next_state.objectives.isfinite()
            state = _AscentState(*(new.where(finite, old) for new, old in zip(next_state, state, strict=True)))
            objectives.append(state.objectives)
    return ClassModelImages(
        images=units.pixels(state.points),
        classes=indices.to(state.points.device),
        start_scores=start_scores.flatten(),
        scores=state.scores.flatten(),
        objectives=torch.stack(objectives).flatten(1),
        reasons=stop_reasons(state.gradients),
    )


def check_ascent(*, steps: int, step_size: float, weight_decay: float) -> dict[str, Any]:
    """Return the options of `class_model_image`, or raise an error for one that does not fit."""
    return {
        "steps": check_count("steps", steps),
        "step_size": check_number("step_size", step_size, "(0, inf)"),
        "weight_decay": check_number("weight_decay", weight_decay, "[0, inf)"),
    }


class _Units(NamedTuple):
    """The standard units of the pixels, in which the ascent counts: each field `(C, H, W)`."""

    center: Tensor
    unit: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, bounds: tuple[float | Tensor, float | Tensor] | None, images: Tensor) -> _Units:
        low, high = limits(bounds, images)
        is_range = (high - low).isfinite()
        center, unit = ((low + high) / 2).where(is_range, 0.0), ((high - low) / 4).where(is_range, 1.0)
        return cls(center, unit, low, high)

    def pixels(self, points: Tensor) -> Tensor:
        return (self.center + self.unit * points).clamp(self.low, self.high)

    def points(self, pixels: Tensor) -> Tensor:
        return (pixels - self.center) / self.unit


class _AscentState(NamedTuple):
    """The state of the ascent: points and their scores' gradients `(K, C, H, W)`, the others `(K, 1, 1, 1)`."""

    points: Tensor
    gradients: Tensor
    scores: Tensor
    objectives: Tensor


@dataclass(frozen=True)
class _Ascent:
    """The steps of the ascent, in standard units, and what regularizes them."""

    forward: Forward
    classes: Tensor
    units: _Units
    weight_decay: float
    regularized: bool

    def draw_shift(self, images: Tensor, generator: torch.Generator) -> list[int]:
        """Return by how many pixels the images are rolled along their height and their width."""
        most = [round(size * _JITTER) if self.regularized else 0 for size in images.shape[2:]]
        return [int(torch.randint(-by, by + 1, (), generator=generator)) for by in most]

    def evaluate(self, points: Tensor, shift: Sequence[int] = (0, 0)) -> _AscentState:
        """Return the state at points of which the model sees the images rolled."""
        images = self.units.pixels(points).roll(list(shift), (2, 3))
        _, scores, gradients = ascent_pass(self.forward, images, partial(_class_scores, classes=self.classes))
        is_blocked = ~gradients.flatten(1).any(1)
        if self.regularized and is_blocked.any():
            score = partial(_class_scores, classes=self.classes[is_blocked.to(self.classes.device)])
            gradients[is_blocked] = ascent_pass(self.forward, images[is_blocked], score, "redirected")[2]
        return _AscentState(
            points,
            self.units.unit * gradients.roll([-by for by in shift], (2, 3)),
            per_image(scores),
            per_image(scores) - self.weight_decay * points.square().sum((1, 2, 3), keepdim=True),
        )

    def move(self, state: _AscentState, length: float, *, blurs: bool) -> Tensor:
        """Return the points after a step along the objective's gradient, within the bounds."""
        climbs = state.gradients.flatten(1).any(1)  # else the decay alone would move an image
        gradients = (state.gradients - 2 * self.weight_decay * state.points) * per_image(climbs)
        if self.regularized:
            gradients = torch.lerp(gradients.mean(1, keepdim=True), gradients, _SATURATION)
        points = state.points + length * directions(gradients)
        if self.regularized and blurs:
            points = _blurred(points)
        return self.units.points(self.units.pixels(points))


def _class_scores(logits: Tensor, classes: Tensor) -> Tensor:
    num_classes = max(logits.shape[1], 2)
    if int(classes.max()) >= num_classes:
        raise OptionError(
            f"Expected `classes` to be below the model's {num_classes} classes (0 to {num_classes - 1}), "
            f"got {int(classes.max())}.",
            "classes",
        )
    return select_scores(logits, classes)[0]


def _blurred(images: Tensor) -> Tensor:
    sizes = [images.shape[3], images.shape[2]]
    sigmas = [min(size * _BLUR_SIGMA, _BLUR_LIMIT) for size in sizes]
    # the kernel reaches to 3σ, and its reflected border no further than the image
    radii = [min(math.ceil(3 * sigma), size - 1) for sigma, size in zip(sigmas, sizes, strict=True)]
    blurred: Tensor = gaussian_blur(images, [2 * radius + 1 for radius in radii], sigmas)
    return blurred


def _class_indices(classes: int | Sequence[int] | Tensor) -> Tensor:
    try:
        indices = torch.as_tensor(classes).detach()
    except (TypeError, ValueError, RuntimeError):
        indices = torch.empty(0)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"Expected `classes` to be a class index or a sequence of them, got {shown(classes)}.")
    if indices.dim() > 1 or not indices.numel() or (indices < 0).any():
        raise ValueError(f"Expected `classes` to be one class index or more, from 0, got {shown(classes)}.")
    return indices.reshape(-1).long()


def _parse_image_size(size: Sequence[int] | None) -> tuple[int, ...]:
    if not isinstance(size, Sequence) or len(size) != 3:
        refuse("image_size", "(C, H, W)", shown(size))
    return check_each("image_size", size, check_count, of="sizes")
