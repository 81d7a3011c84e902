"""What a model returns before its last softmax: a saturated probability has no gradient that could be shown."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency.targets import find_logits

_SOFTMAX = frozenset({"softmax", "log_softmax"})


class Unsoftened(TorchFunctionMode):
    """Takes the logits out of what a model returns; where these are probabilities, what went into their softmax.

    If the softmax is not seen (it is written out, or inside a scripted module), it is the probabilities' logarithm.

    Args:
        num_images: N.
        output_fn: Takes the logits out of what the model returns.
        warns: Whether a warning says so: the first pass does, further ones need not.
    """

    def __init__(
        self, num_images: int, output_fn: Callable[[Any], Tensor] | None = None, *, warns: bool = True
    ) -> None:
        super().__init__()
        self.num_images = num_images
        self.output_fn = output_fn
        self.warns = warns
        self.softened: list[tuple[Tensor, Tensor]] = []

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        """The logits `(N, K)` of images `(N, C, H, W)`."""
        with self:
            output = model(images)
        found = find_logits(output, self.num_images, self.output_fn)
        if found.shape[1] == 1:
            return found
        for logits, result in reversed(self.softened):
            if result.shape == found.shape and torch.allclose(result, found, rtol=0, atol=0, equal_nan=True):
                self._warn("what goes into its softmax is explained instead")
                return logits
        if _are_probabilities(found.detach()):
            self._warn("their logarithm is explained instead; better return the logits (`output_fn`)")
            return found.clamp(min=torch.finfo(found.dtype).tiny).log()
        return found

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
                self.softened.append((logits.reshape(rows), result.reshape(rows)))
        return result


def _are_probabilities(rows: Tensor) -> bool:
    """Whether all rows are not negative and sum to 1, as near as a softmax comes to that; but for those not finite."""
    tolerance = min(50 * torch.finfo(rows.dtype).eps, 0.02)  # in half precision 50 eps would be 0.05, and 0.4
    wide = rows[rows.isfinite().all(1)].to(torch.promote_types(rows.dtype, torch.float32))
    return len(wide) > 0 and bool((wide >= 0).all() and ((wide.sum(1) - 1).abs() < tolerance).all())
