"""What a model returns: the logits in it, also where it ends in a softmax."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency.data import children, describe

_SOFTMAX = frozenset({"softmax", "log_softmax"})


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
    logits = _first_logits([output] if output_fn else _candidates(output), num_images)
    if logits is None:
        source = "`output_fn`" if output_fn else "the model"
        raise ValueError(
            f"Expected {source} to return logits of shape ({num_images}, classes), got {describe(output)}. "
            "Pass an `output_fn` that takes the logits out of what the model returns."
        )
    return logits


class LogitsReader(TorchFunctionMode):
    """Takes the logits out of what a model returns; where these are probabilities, what went into their softmax.

    A saturated probability has no gradient that could be shown. If the softmax is not seen (it is written out, or
    inside a scripted module), the logits are the probabilities' logarithm.

    Args:
        num_images: N.
        output_fn: Takes the logits out of what the model returns.
        warns: Whether a warning says so: the first pass does, repeated ones need not.
    """

    def __init__(self, num_images: int, output_fn: Callable[[Any], Tensor] | None, *, warns: bool) -> None:
        super().__init__()
        self.num_images = num_images
        self.output_fn = output_fn
        self.warns = warns
        self._softmaxes: list[tuple[Tensor, Tensor]] = []

    def read(self, output: Any) -> Tensor:
        """The logits `(N, K)` in what the model returned, after it ran inside this context."""
        logits = find_logits(output, self.num_images, self.output_fn)
        if logits.shape[1] == 1:
            return logits
        for before, after in reversed(self._softmaxes):
            if after.shape == logits.shape and torch.allclose(after, logits, rtol=0, atol=0, equal_nan=True):
                self._warn("what goes into its softmax is explained instead")
                return before
        if _are_probabilities(logits.detach()):
            self._warn("their logarithm is explained instead; better return the logits (`output_fn`)")
            return logits.clamp(min=torch.finfo(logits.dtype).tiny).log()
        return logits

    def _warn(self, what: str) -> None:
        if self.warns:
            warnings.warn(
                f"The model returns probabilities, whose gradient vanishes where it is sure: {what}.", stacklevel=2
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _SOFTMAX and isinstance(result, Tensor):
            logits = args[0] if args else (kwargs or {})["input"]
            if result.shape[:1] == (self.num_images,) and result.dim() > 1 and result.shape[2:].numel() == 1:
                rows = (self.num_images, -1)
                self._softmaxes.append((logits.reshape(rows), result.reshape(rows)))
        return result


def _are_probabilities(rows: Tensor) -> bool:
    """Whether all rows are not negative and sum to 1, as near as a softmax comes to that; but for those not finite."""
    tolerance = min(50 * torch.finfo(rows.dtype).eps, 0.02)  # in half precision 50 eps would be 0.05, and 0.4
    wide = rows[rows.isfinite().all(1)].to(torch.promote_types(rows.dtype, torch.float32))
    return len(wide) > 0 and bool((wide >= 0).all() and ((wide.sum(1) - 1).abs() < tolerance).all())


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
    # a named tuple is taken as a tuple, whose fields are attributes: `logits` of one means what it says
    parts = children(output)
    for name in ("logits", "out"):
        part = parts[name] if isinstance(output, Mapping) and name in parts else getattr(output, name, None)
        if part is not None:
            yield from _candidates(part)
    for part in parts.values():
        yield from _candidates(part)
