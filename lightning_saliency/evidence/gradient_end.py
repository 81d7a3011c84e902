"""`find_gradient_end`: the operation at which the gradient of a score ends, where a map shows nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_saliency.data import Call
from lightning_saliency.evidence.backward import widen
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.graph import ancestors, is_learned, operation
from lightning_saliency.evidence.isolation import graph_everywhere
from lightning_saliency.evidence.targets import ParsedTarget, select_scores

_MOST_NODES = 10_000
"""The most nodes that are watched: torch frees longer chains that Python has seen by recursion."""


@dataclass(frozen=True)
class GradientEnd:
    """An operation at which the gradient of a score ends.

    Attributes:
        operation: Its name, such as `clamp`.
        kind: Whether the gradient is zero before it, as where a clamp limits its result, or not finite.
        has_zero_weights: Whether that is since it is a convolution or linear layer whose weights are 0.
    """

    operation: str
    kind: Literal["zero", "not finite"]
    has_zero_weights: bool = False


def find_gradient_end(forward: Forward, call: Call, target: ParsedTarget) -> GradientEnd | None:
    """Return the operation next to the score behind which its gradient is something, and before which it is nothing.

    It takes a run of the model, in which all operations have a graph, and a backward.

    Args:
        forward: How the model is run; to be called inside `Forward.undisturbed`.
        call: What the model is called with, for one image.
        target: Which class is explained.

    Returns:
        None where there is none: the gradient comes to nothing bit by bit, or the score has no graph.

    Example:
        >>> from lightning_saliency.data import plain_call
        >>> class Clamped(torch.nn.Linear):
        ...     def forward(self, images):
        ...         return super().forward(images.flatten(1)).clamp(0, 1)
        >>> forward = Forward(Clamped(4, 1))
        >>> call = plain_call(torch.ones(1, 1, 2, 2))
        >>> _ = torch.nn.init.constant_(forward.model.weight, 2.0)
        >>> with forward.undisturbed() as isolated:
        ...     find_gradient_end(isolated, call, None)
        GradientEnd(operation='clamp', kind='zero')
    """
    images = forward.floating_point_images(call)
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), graph_everywhere(forward.model):
        reading = forward.read(call, leaf)
        scores, _ = select_scores(widen(reading.logits), target, reading.task, reading.predictions)
    if not scores.requires_grad:
        return None
    ends: list[GradientEnd] = []
    nodes = list(ancestors([scores.grad_fn]))[:_MOST_NODES]
    handles = [node.register_hook(partial(_note, ends, node)) for node in nodes if node.next_functions]
    try:
        torch.autograd.grad(scores, leaf, torch.ones_like(scores), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return ends[0] if ends else None


def _note(ends: list[GradientEnd], node: Any, before: Sequence[Tensor | None], behind: Sequence[Tensor | None]) -> None:
    """Append the operation of a node, if the gradient of its result is something, and those of its inputs nothing."""
    given = [gradient for gradient in behind if gradient is not None]
    passed = [gradient for gradient in before if gradient is not None]
    if not passed or not all(map(_is_finite, given)):
        return
    if not all(map(_is_finite, passed)):  # also where zero is multiplied by what is not: see `torch.where`
        ends.append(GradientEnd(_name(node), "not finite"))
    elif any(map(_is_something, given)) and not any(map(_is_something, passed)):
        ends.append(GradientEnd(_name(node), "zero", has_zero_weights=is_learned(node) and "Bmm" not in node.name()))


def _is_finite(gradient: Tensor) -> bool:
    return bool(gradient.isfinite().all())


def _is_something(gradient: Tensor) -> bool:
    return bool((gradient != 0).any())


def _name(node: Any) -> str:
    """Return the name of a node's operation as a function has it: `log_softmax` for LogSoftmaxBackward0."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation(node)).lower()
