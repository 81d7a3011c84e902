"""`NormalizationReader`: what goes into the normalization in which embeddings end.

Embeddings of a fixed length say nothing by how similar they are to themselves: the score has no gradient. Seen through
are divisions by a length (`F.normalize`, `x / x.norm(dim=1, keepdim=True)`, also written as a product), and layer and
RMS normalization, whose results too are nearly of one length: of those, x − mean(x) times the layer's weights, or x
times the weights, without the division and the bias.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_KEPT = 4
"""How many normalizations are remembered: the last ones of a forward, of which one may be its end."""

_Before: TypeAlias = Callable[[], Tensor | None]
"""A function that returns what goes into a normalization; None where it is none."""


class NormalizationReader(TorchFunctionMode):
    """Remembers the last normalizations of a forward that runs inside this context.

    Args:
        num_samples: N, the number of samples that go in.

    Example:
        >>> with NormalizationReader(1) as reader:
        ...     normalized = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0]]))
        >>> reader.before(normalized)
        tensor([[3., 4.]])
    """

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self._num_samples = num_samples
        self._ends: deque[tuple[Tensor, _Before]] = deque(maxlen=_KEPT)

    def before(self, embeddings: Tensor) -> Tensor | None:
        """Return what goes into the normalization that ends in these embeddings `(N, K)`; None where none does.

        They may be its result, or one token of it, such as the class token.
        """
        for after, before in reversed(self._ends):
            for take in _takes(after, embeddings):
                if torch.allclose(take(after), embeddings, rtol=0, atol=0, equal_nan=True):
                    found = before()
                    return None if found is None else take(found)
        return None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = _NORMALIZATIONS.get(getattr(func, "__name__", ""))
        if read is not None and isinstance(result, Tensor) and result.dim() > 1 and len(result) == self._num_samples:
            before = read(args, kwargs or {}, result)
            if before is not None:
                self._ends.append((result, before))
        return result


def is_of_fixed_length(embeddings: Tensor) -> bool:
    """Whether different embeddings all have the same length, or one has the length 1, or √K by a layer norm."""
    rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    rows = rows[rows.isfinite().all(1)]
    lengths, width = rows.norm(dim=1), rows.shape[1]
    if not len(rows) or not bool((lengths > 0).all()) or width == 1:
        return False
    tolerance = _tolerance(embeddings)
    if min((lengths - fixed).abs().max() / fixed for fixed in (1.0, width**0.5)) < tolerance:
        return True
    differ = (rows - rows[0]).abs().max() > 0.01 * lengths.max()
    return bool(differ and lengths.max() - lengths.min() < tolerance * lengths.max())


def _takes(after: Tensor, embeddings: Tensor) -> Sequence[Callable[[Tensor], Tensor]]:
    """Return how embeddings of this shape may be taken from a normalization's result: as it is, or one of its tokens.

    Of the tokens it is the first, or the last.
    """
    if after.numel() == embeddings.numel():
        return [lambda tensor: tensor.reshape(embeddings.shape)]
    if after.dim() == 3 and after[:, 0].numel() == embeddings.numel():
        return [
            lambda tensor: tensor[:, 0].reshape(embeddings.shape),
            lambda tensor: tensor[:, -1].reshape(embeddings.shape),
        ]
    return []


def _tolerance(embeddings: Tensor) -> float:
    """Return how far lengths may differ that are the same, in relation to them: by rounding, or a layer norm's ε."""
    return max(1e-4, 8 * torch.finfo(embeddings.dtype).eps)


def _of_unit_length(result: Tensor, before: Callable[[], Tensor], dim: int = -1) -> Tensor | None:
    """Return what went in, if all that came out has the length 1, or 0 where it was."""
    lengths = result.detach().to(torch.promote_types(result.dtype, torch.float32)).norm(dim=dim)
    is_fixed = ((lengths - 1).abs() < _tolerance(result)) | (lengths == 0) | ~lengths.isfinite()
    return before() if bool(is_fixed.all()) else None


def _by_its_length(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> _Before:
    x: Tensor = args[0] if args else kwargs["input"]
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 1)
    return partial(_of_unit_length, result, lambda: x, dim)


def _times_a_number(
    args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor, *, is_division: bool
) -> _Before | None:
    """Return what was multiplied with, or divided by, one number for each sample."""
    factors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if len(factors) != 2 or result.shape[1:].numel() == 1:
        return None
    factor = next((factor for factor in factors[::-1] if factor.numel() == len(result) == len(factor)), None)
    if factor is None or (is_division and factor is not factors[1]):
        return None
    scale = factor.reshape(-1, *[1] * (result.dim() - 1))
    # not the function's other input, into which it may have written
    return partial(_of_unit_length, result.flatten(1), lambda: result * scale if is_division else result / scale)


def _layer_norm(args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor, *, is_centered: bool) -> _Before | None:
    named = dict(zip(("input", "normalized_shape", "weight"), args, strict=False)) | dict(kwargs)
    x: Tensor = named["input"]
    weight: Tensor | None = named.get("weight")
    if tuple(named["normalized_shape"]) != tuple(result.shape[-1:]):
        return None

    def before() -> Tensor:
        centered: Tensor = x - x.mean(-1, keepdim=True) if is_centered else x
        return centered if weight is None else centered * weight

    return before


_NORMALIZATIONS: dict[str, Callable[[Sequence[Any], Mapping[str, Any], Tensor], _Before | None]] = {
    "normalize": _by_its_length,
    **dict.fromkeys(["div", "div_", "true_divide", "true_divide_"], partial(_times_a_number, is_division=True)),
    **dict.fromkeys(["mul", "mul_", "multiply"], partial(_times_a_number, is_division=False)),
    "layer_norm": partial(_layer_norm, is_centered=True),
    "rms_norm": partial(_layer_norm, is_centered=False),
}
"""By the name of the function: how what goes in is read from its inputs and its result."""
