"""Finding the logits in a model's output, also where the model ends in a softmax."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import OptionError, call_option
from lightning_saliency.data import children, describe

_SOFTMAX = frozenset({"softmax", "log_softmax"})


def find_logits(output: Any, num_images: int, output_fn: Callable[[Any], Tensor] | None = None) -> Tensor:
    """Find the logits in the output of a model.

    Args:
        output: A tensor, or a tuple, list, mapping or object that holds one: under `logits`, then under `out`, else the
            first tensor of the right shape.
        num_images: N, the number of images that went in.
        output_fn: Returns the logits of `output`, in place of this search.

    Returns:
        The logits `(N, K)`, as the model computed them. The shapes `(N,)` and `(N, K, 1, 1)` become `(N, K)`; so do
        `(K,)` and `()`, which a model that ends in `squeeze()` returns for a single image.

    Raises:
        ValueError: The output holds no such tensor.

    Example:
        >>> find_logits({"features": torch.zeros(2, 8, 4, 4), "logits": torch.zeros(2, 5)}, 2).shape
        torch.Size([2, 5])
    """
    output = call_option("output_fn", output_fn, output) if output_fn else output
    if isinstance(output, Tensor) and num_images == 1 and output.dim() < 2:
        output = output.reshape(1, -1)
    logits = _first_logits([output] if output_fn else _candidates(output), num_images)
    if logits is None:
        source = "`output_fn`" if output_fn else "the model"
        raise OptionError(
            f"Expected {source} to return logits of shape ({num_images}, classes), got {describe(output)}. "
            "Pass an `output_fn` that takes the logits out of what the model returns.",
            "output_fn" if output_fn else "methods",
        )
    return logits


class LogitsReader(TorchFunctionMode):
    """Reads the logits of a model's output; where the model returns probabilities, the input of their softmax.

    A saturated probability has no gradient that could be shown. If the softmax cannot be intercepted (it is written
    out, or inside a scripted module), the logits are the logarithm of the probabilities.

    Args:
        num_images: N.
        output_fn: Returns the logits of the model's output.
        warns: Whether to warn about probabilities: the first pass does, repeated ones need not.
    """

    def __init__(self, num_images: int, output_fn: Callable[[Any], Tensor] | None, *, warns: bool) -> None:
        super().__init__()
        self.num_images = num_images
        self.output_fn = output_fn
        self.warns = warns
        self._softmaxes: list[tuple[Tensor, Tensor]] = []

    def read(self, output: Any) -> Tensor:
        """Return the logits `(N, K)` of the output of a model that ran inside this context."""
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
    """Whether all finite rows are probabilities: not negative, and of sum 1 up to the rounding of a softmax."""
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
    """Yield the parts of an output that may be the logits, the most likely first."""
    if isinstance(output, Tensor):
        yield output
        return
    # the fields of a named tuple are attributes too, so its `logits` are read by `getattr`
    entries = children(output)
    for name in ("logits", "out"):
        value = entries[name] if isinstance(output, Mapping) and name in entries else getattr(output, name, None)
        if value is not None:
            yield from _candidates(value)
    for value in entries.values():
        yield from _candidates(value)
