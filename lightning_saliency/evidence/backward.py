"""`differentiate`: the gradients of the scores, and the attentions that the backward passes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from lightning_saliency.evidence.attention import Attention, AttentionReader

Key = TypeVar("Key")

Wanted: TypeAlias = tuple[Tensor, int]
"""A tensor of the graph, and which of its axes is the batch's."""

_FLOAT16_SCALE = 2.0**12
"""The factor of the score for float16 gradients, so that they do not underflow; it is dropped where they overflow."""


@dataclass(frozen=True)
class Gradients(Generic[Key]):
    """What a backward has shown.

    Attributes:
        of: ∂score/∂tensor of each wanted tensor, at least float32.
        attentions: The attentions over the image's patches, in the order of the forward.
    """

    of: Mapping[Key, Tensor]
    attentions: tuple[Attention, ...] = ()


def differentiate(
    scores: Tensor,
    wanted: Mapping[Key, Wanted],
    dtype: torch.dtype,
    reader: Callable[[float], AbstractContextManager[AttentionReader | None]],
) -> Gradients[Key] | None:
    """Return ∂score/∂tensor of each wanted tensor, and the attentions; None where a score does not depend on one.

    Args:
        scores: `(N,)`, with their graph.
        wanted: The tensors.
        dtype: The precision in which the model computes the logits.
        reader: Returns, for the factor of the score, what reads the attentions in the backward.
    """
    if not wanted:
        return Gradients({})
    tensors = [tensor for tensor, _ in wanted.values()]
    if not scores.requires_grad or not all(tensor.requires_grad for tensor in tensors):
        return None

    def backward(scale: float, *, retain_graph: bool = False) -> Gradients[Key] | None:
        with reader(scale) as attention_reader:
            weights = torch.full_like(scores, scale)
            raw = torch.autograd.grad(scores, tensors, weights, retain_graph=retain_graph, allow_unused=True)
        if any(gradient is None for gradient in raw):
            return None
        gradients = [widen(gradient) if scale == 1 else widen(gradient) / scale for gradient in raw]
        of = dict(zip(wanted, gradients, strict=True))
        return Gradients(of, () if attention_reader is None else attention_reader.attentions())

    if torch.float16 not in (dtype, *(tensor.dtype for tensor in tensors)):
        return backward(1.0)
    scaled = backward(_FLOAT16_SCALE, retain_graph=True)
    if scaled is None or all(gradient.isfinite().all() for gradient in scaled.of.values()):
        return scaled
    plain = backward(1.0) or scaled
    return Gradients(
        {key: _finite_or(scaled.of[key], plain.of[key], axis) for key, (_, axis) in wanted.items()},
        tuple(map(_finite_attention, scaled.attentions, plain.attentions)),
    )


def _finite_or(large: Tensor, small: Tensor, axis: int = 0) -> Tensor:
    """Return the values with the scale, but for the images in which one of them overflows, those without it."""
    is_finite = large.isfinite().movedim(axis, 0).flatten(1).all(1)
    return large.where(is_finite.reshape([-1 if dim == axis else 1 for dim in range(large.dim())]), small)


def _finite_attention(large: Attention, small: Attention) -> Attention:
    parts = ((large.relevance, small.relevance), (large.weights, small.weights))
    relevance, weights = (None if part is None or plain is None else _finite_or(part, plain) for part, plain in parts)
    return replace(large, relevance=relevance, weights=weights)


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
