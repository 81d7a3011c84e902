"""`fooling_image`: images changed in steps until the model predicts another class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._checks import check_choice, check_count, check_number
from lightning_saliency.evidence import Forward, Target, as_forward, check_classes, predicted_classes
from lightning_saliency.gradient_ascent.steps import (
    STEP_METHODS,
    StepMethod,
    ascent_pass,
    check_images,
    directions,
    limits,
    per_image,
    stop_reasons,
    working_copy,
)


@dataclass(frozen=True)
class FoolingImages:
    """The images that `fooling_image` returns, with the changes and the steps that they took.

    Attributes:
        images: `(N, C, H, W)`, in the units of the model's input.
        changes: The difference to the original images, `(N, C, H, W)`.
        targets: The target class of each image, `(N,)` int64.
        fooled: Whether the model predicts the target class, `(N,)` bool.
        steps: The number of steps of each image, `(N,)` int64.
        logits: The logits of the images, `(N, K)`.
        reasons: Why an image was stopped before `max_steps`, not fooled: `"gradient 0"` or `"not finite"`; else None.
    """

    images: Tensor
    changes: Tensor
    targets: Tensor
    fooled: Tensor
    steps: Tensor
    logits: Tensor
    reasons: list[str | None]

    @property
    def l2_norms(self) -> Tensor:
        """The Euclidean norm of each change, `(N,)`."""
        return self.changes.square().sum((1, 2, 3)).sqrt()

    @property
    def linf_norms(self) -> Tensor:
        """The maximum norm of each change, `(N,)`."""
        return self.changes.abs().amax((1, 2, 3))


def fooling_image(
    model: nn.Module | Forward,
    images: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    method: StepMethod = "sign",
    step_size: float = 0.01,
    max_steps: int = 100,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
) -> FoolingImages:
    """Change images in small steps, as few as are needed, until the model predicts another class.

    x ← x + ε·d, with g = ∂(S_t − max_{j≠t} S_j)/∂x, the gradient of the target's lead over the best other class, and

    - `"sign"`: d = sign(g), the iterated fast gradient sign method (Goodfellow et al. 2015, "Explaining and Harnessing
      Adversarial Examples"; Kurakin et al. 2017, "Adversarial Examples in the Physical World");
    - `"gradient"`: d = g / rms(g) (after Szegedy et al. 2014, "Intriguing Properties of Neural Networks").

    So a step of either is ε long as a root mean square over the pixels. The lead of the scores stands for the papers'
    cross-entropy, whose gradient vanishes where the model is sure.

    Each image stops by itself, once the model predicts its target. If that is so for the original image, it counts as
    fooled in 0 steps. The model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: Any module that returns logits, or how it is run, as for `explain`.
        images: `(N, C, H, W)`, as the model takes them.
        target: The class that is to be predicted: a class, one per image `(N,)`, or None (each image's second most
            probable).
        method: `"sign"` or `"gradient"`.
        step_size: ε, in the units of the model's input.
        max_steps: The most steps per image.
        bounds: (low, high), between which pixels stay: numbers, or tensors that broadcast to `(C, H, W)`; for
            normalized pixels `((0 - mean) / std)[:, None, None]` and `((1 - mean) / std)[:, None, None]`.

    Returns:
        The images, their changes and steps, on the model's device, in its precision, but at least float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit, or the scores do not depend on the input.

    Example:
        >>> model = nn.Flatten()  # whose logits are the pixels
        >>> result = fooling_image(model, torch.tensor([[[[2.0, 0.0]]]]), step_size=0.3)
        >>> result.images, result.targets, result.steps
        (tensor([[[[0.8000, 1.2000]]]]), tensor([1]), tensor([4]))
    """
    forward = as_forward(model)
    check_images(images, "images")
    method, step_size, max_steps = check_fooling(method=method, step_size=step_size, max_steps=max_steps).values()
    chosen = None if isinstance(target, str) else Target(target).resolve(len(images))
    if isinstance(target, str) or (chosen is not None and not isinstance(chosen, Tensor)):
        got = "a callable" if callable(chosen) else repr(target)
        raise TypeError(f"Expected `target` to be None, a class index or one class index per image, got {got}.")
    if chosen is not None and (chosen < 0).any():
        raise ValueError(f"Expected `target` to hold class indices from 0, got {int(chosen.min())}.")

    def evaluate(isolated: Forward, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, _, gradients = ascent_pass(isolated, images, partial(_lead, targets=targets))
        return logits, gradients

    with forward.undisturbed() as isolated:
        originals = working_copy(isolated, images)
        low, high = limits(bounds, originals)
        # a copy, since autograd saves it, and refuses a tensor from inference mode
        chosen = None if chosen is None else chosen.to(originals.device, copy=True)
        new_logits, gradients = evaluate(isolated, originals, chosen)
        logits, last_gradients = new_logits.clone(), gradients.clone()
        targets = _second_best(new_logits) if chosen is None else chosen
        current, active = originals.clone(), torch.arange(len(originals), device=originals.device)
        steps, fooled = torch.zeros_like(active), torch.zeros_like(active, dtype=torch.bool)
        for step in range(max_steps + 1):
            if step:
                new_logits, gradients = evaluate(isolated, current[active], targets[active])
            logits[active], last_gradients[active] = new_logits, gradients
            fooled[active] = (predicted_classes(new_logits) == targets[active]) & ~new_logits.isnan().any(1)
            step_directions = directions(last_gradients, method)
            active = (~fooled & step_directions.flatten(1).any(1)).nonzero()[:, 0]
            if step == max_steps or not len(active):
                break
            current[active] = (current[active] + step_size * step_directions[active]).clamp(low, high)
            steps[active] += 1
        outcomes = zip(stop_reasons(last_gradients), fooled.tolist(), strict=True)
        reasons = [None if is_fooled else reason for reason, is_fooled in outcomes]
    changes = torch.where(per_image(steps > 0), current - originals, 0.0)  # 0 also for an image that is not finite
    return FoolingImages(current, changes, targets, fooled, steps, logits, reasons)


def check_fooling(*, method: str, step_size: float, max_steps: int) -> dict[str, Any]:
    """Return the options of `fooling_image`, or raise an error for one that does not fit."""
    return {
        "method": check_choice("method", method, STEP_METHODS),
        "step_size": check_number("step_size", step_size, "(0, inf)"),
        "max_steps": check_count("max_steps", max_steps),
    }


def _lead(logits: Tensor, targets: Tensor | None) -> Tensor:
    check_classes(targets, logits)
    scores = _two_class_scores(logits)
    chosen = (_second_best(logits) if targets is None else targets.to(logits.device))[:, None]
    return scores.gather(1, chosen)[:, 0] - scores.scatter(1, chosen, -torch.inf).amax(1)


def _second_best(logits: Tensor) -> Tensor:
    return _two_class_scores(logits.detach()).scatter(1, predicted_classes(logits)[:, None], -torch.inf).argmax(1)


def _two_class_scores(logits: Tensor) -> Tensor:
    """Return the logits, a single one as the scores of its two classes."""
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits
