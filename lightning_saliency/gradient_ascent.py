"""Gradient ascent on images: class model images, which maximize a class's score, and fooling images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lightning_saliency._checks import OptionError, check_choice, check_count, check_each, check_number, refuse, shown
from lightning_saliency.evidence import (
    Forward,
    Target,
    as_forward,
    check_classes,
    collect,
    predicted_classes,
    select_scores,
)

StepMethod: TypeAlias = Literal["sign", "gradient"]
"""The direction of a fooling step: the signs of the gradient, or the gradient."""

STEP_METHODS: tuple[StepMethod, ...] = get_args(StepMethod)

_BLUR_EVERY = 10


@dataclass(frozen=True)
class ClassModelImages:
    """The images that `class_model_image` returns, with their scores.

    Attributes:
        images: `(K, C, H, W)`, in the units of the model's input: to show them, undo the normalization.
        classes: The class of each image, `(K,)` int64.
        start_scores: S_c of the starting images, `(K,)`.
        scores: S_c of the images, `(K,)`.
        objectives: S_c − λ‖I‖² at the start and after each step, `(steps + 1, K)`.
        reasons: Why no further step is possible for an image, `"gradient 0"` or `"not finite"`; else None.
    """

    images: Tensor
    classes: Tensor
    start_scores: Tensor
    scores: Tensor
    objectives: Tensor
    reasons: list[str | None]


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


def class_model_image(
    model: nn.Module | Forward,
    classes: int | Sequence[int] | Tensor,
    image_size: Sequence[int] | None = None,
    *,
    start: Tensor | None = None,
    steps: int = 100,
    step_size: float = 0.1,
    weight_decay: float = 1e-3,
    jitter: int = 0,
    blur: float = 0.0,
    seed: int = 0,
) -> ClassModelImages:
    """Return an image that maximizes a class's score (Simonyan et al. 2014, "Deep Inside Convolutional Networks").

    argmax_I S_c(I) − λ‖I‖₂², with S_c the score before the softmax, by gradient ascent from the zero image, which is
    the mean image where inputs are normalized. The first step along the gradient changes the pixels by `step_size`
    (root mean square), however large the gradient is, each next one by a little less, and the last by
    `step_size / steps`. Steps that are short enough raise the objective each time: see `objectives`.

    Each image is independent of the others. The model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: Any module that returns logits, or how it is run, as for `explain`.
        classes: A class, or K classes, whose images are optimized as one batch. A single logit has the classes 0 and 1.
        image_size: (C, H, W) of the zero image.
        start: The image to start from instead, `(C, H, W)` or `(K, C, H, W)`: for instance faint noise for a model
            without biases, which has no gradient at the zero image.
        steps: The number of steps.
        step_size: Length of the first step, in the units of the model's input.
        weight_decay: λ.
        jitter: The most pixels by which the image is rolled, at random, before each step (Mordvintsev et al. 2015,
            "Inceptionism").
        blur: σ in pixels of the Gaussian blur that ends each tenth step but the last (Yosinski et al. 2015,
            "Understanding Neural Networks Through Deep Visualization").
        seed: The seed of the jitter.

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
    forward = as_forward(model)
    steps, step_size, weight_decay, jitter, blur = check_ascent(
        steps=steps, step_size=step_size, weight_decay=weight_decay, jitter=jitter, blur=blur
    ).values()
    seed = check_count("seed", seed, least=0)
    indices = _class_indices(classes)
    initial = torch.zeros(_parse_image_size(image_size)) if start is None else start
    initial = initial[None] if isinstance(initial, Tensor) and initial.dim() == 3 else initial
    _check_images(initial, "image_size" if start is None else "start", (1, len(indices)))
    jitter = min(jitter, max(initial.shape[2:]))  # by more it is rolled around
    shifts = torch.randint(-jitter, jitter + 1, (steps + 1, 2), generator=torch.Generator().manual_seed(seed))
    shifts[0] = shifts[steps] = 0  # the scores of the start and of the end are those of the unshifted images

    def evaluate(isolated: Forward, images: Tensor, shift: list[int]) -> _AscentState:
        score = partial(_class_scores, classes=indices)
        _, scores, gradients = _pass(isolated, images.roll(shift, (2, 3)), score)
        return _AscentState(
            images,
            gradients.roll([-by for by in shift], (2, 3)) - 2 * weight_decay * images,
            _per_image(scores),
            _per_image(scores) - weight_decay * images.square().sum((1, 2, 3), keepdim=True),
        )

    with forward.undisturbed() as isolated:
        indices = indices.clone()  # autograd saves them, and refuses tensors from inference mode
        state = evaluate(isolated, _working_copy(isolated, initial.expand(len(indices), -1, -1, -1)), [0, 0])
        start_scores, objectives = state.scores, [state.objectives]
        for step in range(1, steps + 1):
            length = step_size * (steps + 1 - step) / steps
            candidates = state.images + length * _directions(state.gradients)
            if blur and step % _BLUR_EVERY == 0 and step < steps:
                candidates = _blurred(candidates, blur)
            next_state = evaluate(isolated, candidates, shifts[step].tolist())
            finite = next_state.objectives.isfinite()
            state = _AscentState(*(new.where(finite, old) for new, old in zip(next_state, state, strict=True)))
            objectives.append(state.objectives)
    return ClassModelImages(
        images=state.images,
        classes=indices.to(state.images.device),
        start_scores=start_scores.flatten(),
        scores=state.scores.flatten(),
        objectives=torch.stack(objectives).flatten(1),
        reasons=_stop_reasons(state.gradients),
    )


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
    _check_images(images, "images")
    method, step_size, max_steps = check_fooling(method=method, step_size=step_size, max_steps=max_steps).values()
    chosen = None if isinstance(target, str) else Target(target).resolve(len(images))
    if isinstance(target, str) or (chosen is not None and not isinstance(chosen, Tensor)):
        got = "a callable" if callable(chosen) else repr(target)
        raise TypeError(f"Expected `target` to be None, a class index or one class index per image, got {got}.")
    if chosen is not None and (chosen < 0).any():
        raise ValueError(f"Expected `target` to hold class indices from 0, got {int(chosen.min())}.")

    def evaluate(isolated: Forward, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, _, gradients = _pass(isolated, images, partial(_lead, targets=targets))
        return logits, gradients

    with forward.undisturbed() as isolated:
        originals = _working_copy(isolated, images)
        low, high = _limits(bounds, originals)
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
            directions = _directions(last_gradients, method)
            active = (~fooled & directions.flatten(1).any(1)).nonzero()[:, 0]
            if step == max_steps or not len(active):
                break
            current[active] = (current[active] + step_size * directions[active]).clamp(low, high)
            steps[active] += 1
        outcomes = zip(_stop_reasons(last_gradients), fooled.tolist(), strict=True)
        reasons = [None if is_fooled else reason for reason, is_fooled in outcomes]
    changes = torch.where(_per_image(steps > 0), current - originals, 0.0)  # 0 also for an image that is not finite
    return FoolingImages(current, changes, targets, fooled, steps, logits, reasons)


def check_ascent(*, steps: int, step_size: float, weight_decay: float, jitter: int, blur: float) -> dict[str, Any]:
    """Return the options of `class_model_image`, or raise an error for one that does not fit."""
    return {
        "steps": check_count("steps", steps),
        "step_size": check_number("step_size", step_size, "(0, inf)"),
        "weight_decay": check_number("weight_decay", weight_decay, "[0, inf)"),
        "jitter": check_count("jitter", jitter, least=0),
        "blur": check_number("blur", blur, "[0, inf)"),
    }


def check_fooling(*, method: str, step_size: float, max_steps: int) -> dict[str, Any]:
    """Return the options of `fooling_image`, or raise an error for one that does not fit."""
    return {
        "method": check_choice("method", method, STEP_METHODS),
        "step_size": check_number("step_size", step_size, "(0, inf)"),
        "max_steps": check_count("max_steps", max_steps),
    }


class _AscentState(NamedTuple):
    """The state of the ascent: images and gradients `(K, C, H, W)`, scores and objectives `(K, 1, 1, 1)`."""

    images: Tensor
    gradients: Tensor
    scores: Tensor
    objectives: Tensor


def _pass(forward: Forward, images: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, scores and ∂score/∂image, the latter two NaN for an image where either is not finite."""
    call = forward.call_of(images)
    # one of hundreds of passes: without the warnings that `explain` gives once
    evidence = collect(forward, call, call.images, target=score, needs={"input_grads"}, is_repeated=True).evidence
    gradients: Any = evidence.input_grads  # not None: asked for
    finite = evidence.scores.isfinite() & gradients.flatten(1).isfinite().all(1)
    return evidence.logits, evidence.scores.where(finite, torch.nan), gradients.where(_per_image(finite), torch.nan)


def _class_scores(logits: Tensor, classes: Tensor) -> Tensor:
    num_classes = max(logits.shape[1], 2)
    if int(classes.max()) >= num_classes:
        raise OptionError(
            f"Expected `classes` to be below the model's {num_classes} classes (0 to {num_classes - 1}), "
            f"got {int(classes.max())}.",
            "classes",
        )
    return select_scores(logits, classes)[0]


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


def _directions(gradients: Tensor, method: StepMethod = "gradient") -> Tensor:
    """Return the gradients scaled to a root mean square of 1 per image, or their signs; 0 where not finite."""
    # scaled to a maximum of 1 before it is squared, so that it does not underflow
    scaled = (gradients / gradients.abs().amax((1, 2, 3), keepdim=True)).nan_to_num(0.0)
    if method == "sign":
        return scaled.sign()
    return scaled / scaled.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _stop_reasons(gradients: Tensor) -> list[str | None]:
    peaks = gradients.flatten(1).abs().amax(1).tolist()
    return ["not finite" if not math.isfinite(peak) else None if peak else "gradient 0" for peak in peaks]


def _blurred(images: Tensor, sigma: float) -> Tensor:
    # the kernel reaches to 3σ, and its reflected border no further than the image
    radii = [min(math.ceil(3 * sigma), size - 1) for size in (images.shape[3], images.shape[2])]
    blurred: Tensor = gaussian_blur(images, [2 * radius + 1 for radius in radii], [sigma, sigma])
    return blurred


def _per_image(values: Tensor) -> Tensor:
    """Reshape one value per image to broadcast over its pixels: `(N,)` -> `(N, 1, 1, 1)`."""
    return values[:, None, None, None]


def _working_copy(forward: Forward, images: Tensor) -> Tensor:
    """Return a copy on the model's device in its precision, but at least float32, so that small steps add up."""
    model_input = forward.call_of(images.detach()).images
    return images.detach().to(model_input.device, torch.promote_types(model_input.dtype, torch.float32), copy=True)


def _limits(bounds: tuple[float | Tensor, float | Tensor] | None, images: Tensor) -> tuple[Tensor, Tensor]:
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


def _check_images(images: Tensor, name: str, counts: Sequence[int] = ()) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"Expected `{name}` to be a floating-point tensor, as the model takes it, got {kind}.")
    if images.dim() != 4 or not images.numel() or len(images) not in (counts or [len(images)]):
        shape = "(C, H, W), or one image per class" if name == "start" else "(C, H, W)" if counts else "(N, C, H, W)"
        raise ValueError(f"Expected `{name}` to be {shape}, got shape {tuple(images.shape)}.")
