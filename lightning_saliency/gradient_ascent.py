"""Images made by gradient ascent: what a class looks like to the model, and what it takes to be another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lightning_saliency._checks import check_choice, check_count, check_number
from lightning_saliency.evidence import (
    Forward,
    Target,
    as_forward,
    check_classes,
    collect,
    predicted_classes,
    select_scores,
    undisturbed,
)

StepMethod: TypeAlias = Literal["sign", "gradient"]
"""Where a fooling step goes: along the gradient's signs, or along the gradient."""

STEP_METHODS: tuple[StepMethod, ...] = get_args(StepMethod)

_BLUR_EVERY = 10


@dataclass(frozen=True)
class ClassModelImages:
    """What `class_model_image` made.

    Attributes:
        images: `(K, C, H, W)`, in the units of the model's input: to show them, undo the normalisation.
        classes: The class of each, `(K,)` int64.
        start_scores: S_c of the start, `(K,)`.
        scores: S_c of the images, `(K,)`.
        objectives: S_c − λ‖I‖² at the start and after each step, `(steps + 1, K)`.
        reasons: Why an image has nowhere to go from where it is, `"gradient 0"` or `"not finite"`; else None.
    """

    images: Tensor
    classes: Tensor
    start_scores: Tensor
    scores: Tensor
    objectives: Tensor
    reasons: list[str | None]


@dataclass(frozen=True)
class FoolingImages:
    """What `fooling_image` made.

    Attributes:
        images: `(N, C, H, W)`, in the units of the model's input.
        changes: What was added to the images as they were given, `(N, C, H, W)`.
        targets: The class that each is to be taken for, `(N,)` int64.
        fooled: Whether the model takes it for that, `(N,)` bool.
        steps: How many were taken, `(N,)` int64.
        logits: Of the images, `(N, K)`.
        reasons: Why an image was given up before `max_steps`, `"gradient 0"` or `"not finite"`; else None.
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
        """The largest change of a value in each image, `(N,)`."""
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
    """Make the image that a class's score is highest for (Simonyan et al. 2014, "Deep Inside Convolutional Networks").

    argmax_I S_c(I) − λ‖I‖₂², with S_c the score before the softmax, by gradient ascent from the zero image, which is
    the mean image where inputs are normalised. The first step along the gradient changes the pixels by `step_size`
    (root mean square), however large the gradient is, each next one by a little less, and the last by
    `step_size / steps`. Steps that are short for the model each raise the objective: `objectives` shows it.

    Each image is what it would be alone. The model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: Any module that returns logits, or how it is run, as for `explain`.
        classes: A class, or K classes, whose images are optimised as one batch. A single logit has the classes 0 and 1.
        image_size: (C, H, W), for the zero image.
        start: Where to start instead, `(C, H, W)` or `(K, C, H, W)`: faint noise, say, for a model without biases,
            which has no gradient at the zero image.
        steps: How many.
        step_size: Length of the first step, in the units of the model's input.
        weight_decay: λ.
        jitter: Each step sees the image rolled by up to so many pixels (Mordvintsev et al. 2015, "Inceptionism").
        blur: Each tenth step but the last ends in a Gaussian blur of this σ, in pixels (Yosinski et al. 2015,
            "Understanding Neural Networks Through Deep Visualization").
        seed: Of the jitter.

    Returns:
        The images, on the model's device, in its precision, but at least float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit, or the score does not depend on the input.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> made = class_model_image(model, [0, 3], image_size=(3, 16, 16), steps=10)
        >>> made.images.shape, made.objectives.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([11, 2]))
        >>> made.scores > made.start_scores
        tensor([True, True])
    """
    forward = as_forward(model)
    check_ascent(steps=steps, step_size=step_size, weight_decay=weight_decay, jitter=jitter, blur=blur)
    check_count("seed", seed, least=0)
    indices = _class_indices(classes)
    first = torch.zeros(image_size or ()) if start is None else start
    first = first[None] if isinstance(first, Tensor) and first.dim() == 3 else first
    _check_images(first, "image_size" if start is None else "start", (1, len(indices)))
    shifts = torch.randint(-jitter, jitter + 1, (steps + 1, 2), generator=torch.Generator().manual_seed(seed))
    shifts[0] = shifts[steps] = 0  # what is told of the start and of the end is of the images as they are

    def evaluate(images: Tensor, shift: list[int]) -> _Point:
        score = partial(_class_scores, classes=indices)
        _, scores, gradients = _pass(forward, images.roll(shift, (2, 3)), score)
        return _Point(
            images,
            gradients.roll([-by for by in shift], (2, 3)) - 2 * weight_decay * images,
            _each(scores),
            _each(scores) - weight_decay * images.square().sum((1, 2, 3), keepdim=True),
        )

    with undisturbed(forward.model):
        indices = indices.clone()  # autograd saves them: refused if they were made in inference mode
        point = evaluate(_working_copy(forward, first.expand(len(indices), -1, -1, -1)), [0, 0])
        start_scores, objectives = point.scores, [point.objectives]
        for step in range(1, steps + 1):
            length = step_size * (steps + 1 - step) / steps
            candidates = point.images + length * _directions(point.gradients)
            if blur and step % _BLUR_EVERY == 0 and step < steps:
                candidates = _blurred(candidates, blur)
            found = evaluate(candidates, shifts[step].tolist())
            finite = found.objectives.isfinite()
            point = _Point(*(new.where(finite, old) for new, old in zip(found, point, strict=True)))
            objectives.append(point.objectives)
    return ClassModelImages(
        images=point.images,
        classes=indices.to(point.images.device),
        start_scores=start_scores.flatten(),
        scores=point.scores.flatten(),
        objectives=torch.stack(objectives).flatten(1),
        reasons=_dead_ends(point.gradients),
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
    """Change images in as few small steps as it takes until the model takes them for another class.

    x ← x + ε·d, with g = ∂(S_t − max_{j≠t} S_j)/∂x, the gradient of the target's lead over the best other class, and

    - `"sign"`: d = sign(g), the iterated fast gradient sign method (Goodfellow et al. 2015, "Explaining and Harnessing
      Adversarial Examples"; Kurakin et al. 2017, "Adversarial Examples in the Physical World");
    - `"gradient"`: d = g / rms(g) (after Szegedy et al. 2014, "Intriguing Properties of Neural Networks").

    So a step of either is ε long as a root mean square over the pixels. The lead of the scores stands for the papers'
    cross-entropy, whose gradient vanishes where the model is sure.

    Each image stops on its own, once the model takes it for its target. One that it takes for that as given counts as
    fooled in 0 steps. The model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: Any module that returns logits, or how it is run, as for `explain`.
        images: `(N, C, H, W)`, as the model takes them.
        target: What they are to be taken for: a class, one per image `(N,)`, or None (each one's second most probable).
        method: `"sign"` or `"gradient"`.
        step_size: ε, in the units of the model's input.
        max_steps: After so many an image is given up.
        bounds: (low, high), which steps stay within: numbers, or tensors that broadcast to `(C, H, W)`; for normalised
            pixels `((0 - mean) / std)[:, None, None]` and `((1 - mean) / std)[:, None, None]`.

    Returns:
        The images and what it took, on the model's device, in its precision, but at least float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit, or the scores do not depend on the input.

    Example:
        >>> model = nn.Flatten()  # whose logits are the pixels
        >>> made = fooling_image(model, torch.tensor([[[[2.0, 0.0]]]]), step_size=0.3)
        >>> made.images, made.targets, made.steps
        (tensor([[[[0.8000, 1.2000]]]]), tensor([1]), tensor([4]))
    """
    forward = as_forward(model)
    _check_images(images, "images")
    check_fooling(method=method, step_size=step_size, max_steps=max_steps)
    chosen = Target(target).resolve(len(images))
    if isinstance(target, str) or (chosen is not None and not isinstance(chosen, Tensor)):
        got = "a callable" if callable(chosen) else repr(target)
        raise TypeError(f"Expected `target` to be None, a class index or one class index per image, got {got}.")

    def look(images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, _, gradients = _pass(forward, images, partial(_lead, targets=targets))
        return logits, gradients

    with undisturbed(forward.model):
        given = _working_copy(forward, images)
        low, high = _limits(bounds, given)
        # a copy, since autograd saves it: refused if it was made in inference mode
        chosen = None if chosen is None else chosen.to(given.device, copy=True)
        found, gradients = look(given, chosen)
        logits, last = found.clone(), gradients.clone()
        targets = _second_best(found) if chosen is None else chosen
        current, going = given.clone(), torch.arange(len(given), device=given.device)
        steps, fooled = torch.zeros_like(going), torch.zeros_like(going, dtype=torch.bool)
        for taken in range(max_steps + 1):
            if taken:
                found, gradients = look(current[going], targets[going])
            logits[going], last[going] = found, gradients
            fooled[going] = (predicted_classes(found) == targets[going]) & ~found.isnan().any(1)
            directions = _directions(last, method)
            going = (~fooled & directions.flatten(1).any(1)).nonzero()[:, 0]
            if taken == max_steps or not len(going):
                break
            current[going] = (current[going] + step_size * directions[going]).clamp(low, high)
            steps[going] += 1
        reasons = [None if done else why for why, done in zip(_dead_ends(last), fooled.tolist(), strict=True)]
    changes = torch.where(_each(steps > 0), current - given, 0.0)  # also of an image that is not finite
    return FoolingImages(current, changes, targets, fooled, steps, logits, reasons)


def check_ascent(*, steps: int, step_size: float, weight_decay: float, jitter: int, blur: float) -> None:
    """Refuse options of `class_model_image` that do not fit."""
    check_count("steps", steps)
    check_number("step_size", step_size, "(0, inf)")
    check_number("weight_decay", weight_decay, "[0, inf)")
    check_count("jitter", jitter, least=0)
    check_number("blur", blur, "[0, inf)")


def check_fooling(*, method: str, step_size: float, max_steps: int) -> None:
    """Refuse options of `fooling_image` that do not fit."""
    check_choice("method", method, STEP_METHODS)
    check_number("step_size", step_size, "(0, inf)")
    check_count("max_steps", max_steps)


class _Point(NamedTuple):
    """Where the ascent is: images and gradients `(K, C, H, W)`, scores and objectives `(K, 1, 1, 1)`."""

    images: Tensor
    gradients: Tensor
    scores: Tensor
    objectives: Tensor


def _pass(forward: Forward, images: Tensor, score: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, scores and ∂score/∂image, the latter two NaN for an image where either is not finite."""
    call = forward.call_of(images)
    # hundreds of passes; `explain` says what there is to say
    evidence = collect(forward, call, call.images, target=score, needs={"input_grads"}, is_repeated=True)[0]
    gradients: Any = evidence.input_grads  # not None: asked for
    finite = evidence.scores.isfinite() & gradients.flatten(1).isfinite().all(1)
    return evidence.logits, evidence.scores.where(finite, torch.nan), gradients.where(_each(finite), torch.nan)


def _class_scores(logits: Tensor, classes: Tensor) -> Tensor:
    num_classes = max(logits.shape[1], 2)
    if int(classes.max()) >= num_classes:
        raise ValueError(
            f"Expected `classes` to be below the model's {num_classes} classes (0 to {num_classes - 1}), "
            f"got {int(classes.max())}."
        )
    return select_scores(logits, classes)[0]


def _lead(logits: Tensor, targets: Tensor | None) -> Tensor:
    check_classes(targets, logits)
    scores = _of_both(logits)
    chosen = (_second_best(logits) if targets is None else targets.to(logits.device))[:, None]
    return scores.gather(1, chosen)[:, 0] - scores.scatter(1, chosen, -torch.inf).amax(1)


def _second_best(logits: Tensor) -> Tensor:
    return _of_both(logits.detach()).scatter(1, predicted_classes(logits)[:, None], -torch.inf).argmax(1)


def _of_both(logits: Tensor) -> Tensor:
    """A single logit as the scores of its two classes."""
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


def _directions(gradients: Tensor, method: StepMethod = "gradient") -> Tensor:
    """With a root mean square of 1 for each image, or its signs; 0 where the gradient is 0 or not finite."""
    # brought to 1 before it is squared, lest it underflow
    scaled = (gradients / gradients.abs().amax((1, 2, 3), keepdim=True)).nan_to_num(0.0)
    if method == "sign":
        return scaled.sign()
    return scaled / scaled.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _dead_ends(gradients: Tensor) -> list[str | None]:
    top = gradients.flatten(1).abs().amax(1).tolist()
    return ["not finite" if not math.isfinite(size) else None if size else "gradient 0" for size in top]


def _blurred(images: Tensor, sigma: float) -> Tensor:
    # the kernel reaches to 3σ, and its reflected border no further than the image
    radii = [min(math.ceil(3 * sigma), size - 1) for size in (images.shape[3], images.shape[2])]
    blurred: Tensor = gaussian_blur(images, [2 * radius + 1 for radius in radii], [sigma, sigma])
    return blurred


def _each(values: Tensor) -> Tensor:
    """One value per image, for its pixels: `(N,)` -> `(N, 1, 1, 1)`."""
    return values[:, None, None, None]


def _working_copy(forward: Forward, images: Tensor) -> Tensor:
    """On the model's device and in its precision, but at least float32, so that small steps add up."""
    seen = forward.call_of(images.detach()).images
    return images.detach().to(seen.device, torch.promote_types(seen.dtype, torch.float32), copy=True)


def _limits(bounds: tuple[float | Tensor, float | Tensor] | None, images: Tensor) -> tuple[Tensor, Tensor]:
    shape = images.shape[1:]
    try:
        low, high = (torch.as_tensor(bound).to(images).expand(shape) for bound in bounds or (-torch.inf, torch.inf))
        fits = bool((low < high).all())
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(
            "Expected `bounds` to be (low, high), low below high, each a number or a tensor that broadcasts to "
            f"{tuple(shape)}, got {bounds}. For one per channel pass `bound[:, None, None]`."
        )
    return low, high


def _class_indices(classes: int | Sequence[int] | Tensor) -> Tensor:
    try:
        indices = torch.as_tensor(classes).detach()
    except (TypeError, ValueError, RuntimeError):
        indices = torch.empty(0)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"Expected `classes` to be a class index or a sequence of them, got {classes!r}.")
    if indices.dim() > 1 or not indices.numel() or (indices < 0).any():
        raise ValueError(f"Expected `classes` to be one class index or more, from 0, got {classes!r}.")
    return indices.reshape(-1).long()


def _check_images(images: Tensor, name: str, counts: Sequence[int] = ()) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"Expected `{name}` to be a floating-point tensor, as the model takes it, got {kind}.")
    if images.dim() != 4 or not images.numel() or len(images) not in (counts or [len(images)]):
        shape = "(C, H, W), or one image per class" if name == "start" else "(C, H, W)" if counts else "(N, C, H, W)"
        raise ValueError(f"Expected `{name}` to be {shape}, got shape {tuple(images.shape)}.")
