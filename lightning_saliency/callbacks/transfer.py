"""`find_transfer_normalization`: what a module's hooks do to the pixels of a batch before its step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency._lightning import LightningModule, Trainer, overrides
from lightning_saliency.callbacks.surroundings import quiet_surroundings
from lightning_saliency.data import PIXELS, Normalization, channels_first, mapped
from lightning_saliency.data.datasets import attempt
from lightning_saliency.data.trees import Path, at_path, leaves
from lightning_saliency.evidence import Undisturbed

_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")

_SCALES = ((torch.float32, 1.0), (torch.float32, 255.0), (torch.uint8, 255.0))
"""What pixels a loader may give: their data type, and the value of white."""

_GRAYS = (64 / 255, 128 / 255, 192 / 255)
"""The shades, from black to white, on which the hooks are tried."""

_TOLERANCE = 1e-4
"""How far a response may be from an affine function of the shade, relative to the largest of them."""


def find_transfer_normalization(
    trainer: Trainer,
    pl_module: LightningModule,
    batch: Any,
    images: Tensor,
    dataloader_idx: int,
    buffers: Mapping[str, Tensor] | None = None,
) -> Normalization | None:
    """Return what the module's own transfer hooks subtract from pixels, and divide them by, before the step.

    The batch before these hooks is never seen by a callback. So they are tried, in a shadow of the module, on gray
    images in place of the batch's: what answers with an affine function of the shade is a normalization, if the images
    are pixels with it undone.

    Args:
        trainer: The trainer.
        pl_module: Its module.
        batch: The batch of a step, as the hooks left it.
        images: `(N, C, H, W)` or `(N, C, D, H, W)`, those of the batch that the model was called with.
        dataloader_idx: The index of the loader that the batch is from.
        buffers: The buffers that the module had in the step; None for the present ones.
    """
    hooks = [name for name in _HOOKS if overrides(pl_module, name)]
    if not hooks or images.dim() < 4 or not images.is_floating_point() or PIXELS.fits([images]):
        return None
    path = next((path for path, value in leaves(batch) if _are_these(value, images)), None)
    if path is None:
        return None
    surroundings = quiet_surroundings(trainer, pl_module, buffers)
    with warnings.catch_warnings(), Undisturbed(pl_module, surroundings, lambda shadow: shadow.module) as module:
        warnings.simplefilter("ignore")
        calls = [partial(_call_hook, module, name, dataloader_idx) for name in hooks]
        found = [attempt(partial(_try_hooks, calls, batch, path, dtype=dtype, white=white)) for dtype, white in _SCALES]
    return next((one for one in found if one is not None and one.fits([images])), None)


def _are_these(value: Any, images: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.dim() != images.dim():
        return False
    given = channels_first(value)
    return given.shape == images.shape and torch.equal(given, images)


def _call_hook(module: nn.Module, name: str, dataloader_idx: int, batch: Any) -> Any:
    return getattr(module, name)(batch, dataloader_idx)


def _try_hooks(
    hooks: Sequence[Callable[[Any], Any]], batch: Any, path: Path, *, dtype: torch.dtype, white: float
) -> Normalization | None:
    """Return the normalization that hooks are, by their responses to gray images; None for any other."""
    responses = []
    for gray in _GRAYS:

        def given(at: Path, value: Any, gray: float = gray) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.full_like(value, gray * white, dtype=dtype) if at == path else value.clone()

        response = mapped(batch, given)
        for hook in hooks:
            response = hook(response)
        channels = channels_first(at_path(response, path)).double().transpose(0, 1).flatten(1)
        low, high = channels.aminmax(dim=1)
        responses.append(torch.stack([low, high]))
    values = torch.stack(responses).cpu()  # (shades, 2, C)
    first, last = values[0].mean(0), values[-1].mean(0)
    slope = (last - first) / (_GRAYS[-1] - _GRAYS[0])
    grays = torch.tensor(_GRAYS, dtype=torch.float64)[:, None, None]
    residual = (values - first - slope * (grays - _GRAYS[0])).abs().max()
    if not bool((slope > 0).all() and residual <= _TOLERANCE * values.abs().max()):
        return None
    std = 1 / slope
    return Normalization((_GRAYS[0] - first * std).tolist(), std.tolist())
