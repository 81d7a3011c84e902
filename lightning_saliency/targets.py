"""Which score is explained: from what a model returns to one number per image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Target: TypeAlias = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None
"""What a caller may ask for: the predicted class (None), a class, a class per image, or a function of the logits."""

Task: TypeAlias = Literal["multiclass", "multilabel"]
"""One class an image, or any number of them: what probabilities are made of logits."""

ParsedTarget: TypeAlias = Tensor | Callable[[Tensor], Tensor] | None
"""A checked target: classes `(N,)` int64, a function logits `(N, K)` -> scores `(N,)`, or None (predicted class)."""


def parse_target(target: Target, num_images: int) -> ParsedTarget:
    """Check a target as far as it can be without logits, and bring it into one of three forms.

    Args:
        target: None (the predicted class), an int (one class for all images), a sequence or integer tensor `(N,)`
            (one class per image), or a callable from logits `(N, K)` to scores `(N,)`.
        num_images: N.

    Returns:
        None, an int64 tensor `(N,)`, or the callable.

    Raises:
        TypeError: The labels are not integers.
        ValueError: There is not one class per image, or a class is negative.

    Example:
        >>> parse_target(3, num_images=2)
        tensor([3, 3])
    """
    if target is None or (callable(target) and not isinstance(target, Tensor)):
        return target
    if isinstance(target, bool):
        raise TypeError(f"Expected `target` to be a class index, got the bool {target}.")
    try:
        classes = torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Expected `target` to be None, a class index, one class index per image or a callable, got {target!r}."
        ) from error
    if classes.dim() == 0:
        classes = classes.expand(num_images)
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(
            f"Expected `target` to hold integer class indices, got dtype {classes.dtype}. "
            "For one-hot or soft labels pass `target=labels.argmax(1)`."
        )
    if classes.shape != (num_images,):
        raise ValueError(
            f"Expected `target` to hold one class for each of the {num_images} images, shape ({num_images},), "
            f"got shape {tuple(classes.shape)}."
        )
    if (classes < 0).any():
        raise ValueError(f"Expected `target` to hold class indices from 0, got {int(classes.min())}.")
    return classes.long()


def check_classes(target: ParsedTarget, logits: Tensor) -> None:
    """Refuse a class that the logits do not have.

    Args:
        target: What `parse_target` returned.
        logits: `(N, K)`; K = 1 is a binary model with the classes 0 and 1.

    Raises:
        ValueError: A class is out of range.
    """
    num_classes = max(logits.shape[1], 2)
    if isinstance(target, Tensor) and target.numel() and int(target.max()) >= num_classes:
        raise ValueError(
            f"Expected `target` to be below the model's {num_classes} classes (0 to {num_classes - 1}), "
            f"got {int(target.max())}."
        )


def select_scores(logits: Tensor, target: ParsedTarget) -> tuple[Tensor, Tensor | None]:
    """Take the one score per image that is explained.

    A single logit per image is a binary model: class 1 is explained by the logit, class 0 by its negative.

    Args:
        logits: `(N, K)`.
        target: What `parse_target` returned, for these N images.

    Returns:
        The scores `(N,)`, and the explained classes `(N,)`, None for a callable.

    Raises:
        ValueError: A callable returned something else than one score per image.

    Example:
        >>> scores, classes = select_scores(torch.tensor([[0.5, 2.0], [1.0, -1.0]]), None)
        >>> scores, classes
        (tensor([2., 1.]), tensor([1, 0]))
    """
    if target is not None and not isinstance(target, Tensor):
        scores = target(logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"Expected the callable `target` to turn logits {tuple(logits.shape)} into one score per image, "
                f"shape ({logits.shape[0]},), got {got}."
            )
        return scores, None
    classes = predicted_classes(logits) if target is None else target.to(logits.device)
    if logits.shape[1] == 1:
        return logits[:, 0] * (2 * classes - 1), classes
    return logits.gather(1, classes[:, None])[:, 0], classes


def predicted_classes(logits: Tensor) -> Tensor:
    """The predicted class per image: the largest logit, or for a single logit class 1 where it is positive."""
    if logits.shape[1] == 1:
        return (logits[:, 0].detach() > 0).long()
    return logits.detach().argmax(1)


def class_probabilities(logits: Tensor, task: Task = "multiclass") -> Tensor:
    """Probabilities `(N, max(K, 2))` of the classes: softmax, or for a single logit the sigmoid and its complement.

    For several labels an image, each class's sigmoid.
    """
    if logits.shape[1] == 1:
        positive = logits.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)
    return logits.sigmoid() if task == "multilabel" else logits.softmax(1)


def find_logits(output: Any, num_images: int, output_fn: Callable[[Any], Tensor] | None = None) -> Tensor:
    """Take the logits out of whatever a model returns.

    Args:
        output: A tensor, or a tuple, list, mapping or object that holds it: under `logits`, then under `out`, else the
            first tensor of the right shape.
        num_images: N, the number of images that went in.
        output_fn: Takes the logits out of `output` in place of this search.

    Returns:
        The logits `(N, K)`, as the model made them. `(N,)` and trailing ones, `(N, K, 1, 1)`, are brought to `(N, K)`;
        so is what a model that ends in `squeeze()` makes of a single image, `(K,)` or `()`.

    Raises:
        ValueError: No such tensor is found.

    Example:
        >>> find_logits({"features": torch.zeros(2, 8, 4, 4), "logits": torch.zeros(2, 5)}, 2).shape
        torch.Size([2, 5])
    """
    output = output_fn(output) if output_fn else output
    if isinstance(output, Tensor) and num_images == 1 and output.dim() < 2:
        output = output.reshape(1, -1)
    found = _first_logits([output] if output_fn else _candidates(output), num_images)
    if found is None:
        source = "`output_fn`" if output_fn else "the model"
        raise ValueError(
            f"Expected {source} to return logits of shape ({num_images}, classes), got {_describe(output)}. "
            "Pass an `output_fn` that takes the logits out of what the model returns."
        )
    return found


def _first_logits(candidates: Iterable[Any], num_images: int) -> Tensor | None:
    for value in candidates:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[:1] != (num_images,):
            continue
        if value.numel() and value.shape[2:].numel() == 1:
            return value.reshape(num_images, -1)
    return None


def _candidates(output: Any) -> Iterable[Any]:
    """What may be the logits, the most likely first."""
    if isinstance(output, Tensor):
        yield output
        return
    if isinstance(output, Mapping):
        parts = dict(output)
    elif is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in fields(output)}
    elif isinstance(output, tuple | list):
        parts = dict(enumerate(output))
    else:
        parts = {}
    for name in ("logits", "out"):
        # a named tuple and a plain object show their fields as attributes only
        part = parts[name] if name in parts else getattr(output, name, None)
        if part is not None:
            yield from _candidates(part)
    for part in parts.values():
        yield from _candidates(part)


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)} and dtype {output.dtype}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {list(output)}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {[_describe(part) for part in output]}"
    return f"a {type(output).__name__}"
