"""One step of gradient ascent: the pass, the direction, and what an argument must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency._checks import shown
from lightning_saliency.evidence import Forward, Rectifier, collect

StepMethod: TypeAlias = Literal["sign", "gradient"]
"""The direction of a fooling step: the signs of the gradient, or the gradient."""

STEP_METHODS: tuple[StepMethod, ...] = get_args(StepMethod)


def ascent_pass(
    forward: Forward, images: Tensor, score: Callable[[Tensor], Tensor], rectifier: Rectifier | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, scores and ∂score/∂image, the latter two NaN for an image where either is not finite."""
    call = forward.call_of(images)
    # one of hundreds of passes: without the warnings that `explain` gives once
    evidence = collect(
        forward, call, call.images, target=score, needs={"input_grads"}, rectifier=rectifier, is_repeated=True
    ).evidence
    gradients: Any = evidence.input_grads  # not None: asked for
    finite = evidence.scores.isfinite() & gradients.flatten(1).isfinite().all(1)
    return evidence.logits, evidence.scores.where(finite, torch.nan), gradients.where(per_image(finite), torch.nan)


def directions(gradients: Tensor, method: StepMethod = "gradient") -> Tensor:
    """Return the gradients scaled to a root mean square of 1 per image, or their signs; 0 where not finite."""
    # scaled to a maximum of 1 before it is squared, so that it does not underflow
    scaled = (gradients / gradients.abs().amax((1, 2, 3), keepdim=True)).nan_to_num(0.0)
    if method == "sign":
        return scaled.sign()
    return scaled / scaled.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def stop_reasons(gradients: Tensor) -> list[str | None]:
    """Return why each image's gradient shows no step: `"gradient 0"` or `"not finite"`; else None."""
    peaks = gradients.flatten(1).abs().amax(1).tolist()
    return ["not finite" if not math.isfinite(peak) else None if peak else "gradient 0" for peak in peaks]


def per_image(values: Tensor) -> Tensor:
    """Reshape one value per image to broadcast over its pixels: `(N,)` -> `(N, 1, 1, 1)`."""
    return values[:, None, None, None]


def working_copy(forward: Forward, images: Tensor) -> Tensor:
    """Return a copy on the model's device in its precision, but at least float32, so that small steps add up."""
    model_input = forward.call_of(images.detach()).images
    return images.detach().to(model_input.device, torch.promote_types(model_input.dtype, torch.float32), copy=True)


def limits(bounds: tuple[float | Tensor, float | Tensor] | None, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest value of each pixel, `(C, H, W)`, or raise an error for wrong bounds."""
    shape = images.shape[1:]
    try:
        both = [torch.as_tensor(bound) for bound in ((-torch.inf, torch.inf) if bounds is None else bounds)]
        low, high = (bound.to(images).expand(shape) for bound in both)
        fits = bool((low < high).all()) and not any(bound.dtype == torch.bool for bound in both)
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(
            "Expected `bounds` to be (low, high), low below high, each a number or a tensor that broadcasts to "
            f"{tuple(shape)}, got {shown(bounds)}. For one per channel pass `bound[:, None, None]`."
        )
    return low, high


def check_images(images: Tensor, name: str, counts: Sequence[int] = ()) -> None:
    """Raise an error unless the images are `(N, C, H, W)`, floating point, and as many as one of the counts."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"Expected `{name}` to be a floating-point tensor, as the model takes it, got {kind}.")
    if images.dim() != 4 or not images.numel() or len(images) not in (counts or [len(images)]):
        shape = "(C, H, W), or one image per class" if name == "start" else "(C, H, W)" if counts else "(N, C, H, W)"
        raise ValueError(f"Expected `{name}` to be {shape}, got shape {tuple(images.shape)}.")
