"""`of_the_batch`: of a call with more images than the batch has, those that are the batch's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data.trees import leaves, mapped
from lightning_saliency.evidence import RecordedCall


def of_the_batch(recorded: RecordedCall, batch: Any) -> RecordedCall:
    """Return a recorded call without the images that the step itself has made, such as noise for an energy model.

    Args:
        recorded: The call, as it is where all its images are in the batch, or none is: the step may change all of them.
        batch: The batch of the step.

    Example:
        >>> from lightning_saliency.data import plain_call
        >>> images = torch.rand(2, 3, 8, 8)
        >>> both = torch.cat([images, torch.rand(2, 3, 8, 8)])
        >>> recorded = RecordedCall("net", plain_call(both), output=torch.arange(4.0), problem=None)
        >>> of_the_batch(recorded, (images, torch.tensor([0, 1]))).output
        tensor([0., 1.])
    """
    call = recorded.call
    if call is None or not isinstance(call.given, Tensor):
        return recorded
    rows = _rows_in(batch, call.given)
    if len(rows) in (0, len(call)):
        return recorded

    def selected(_: Any, value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) and value.shape[:1] == (len(call),) else value

    return replace(recorded, call=call[rows], output=mapped(recorded.output, selected))


def _rows_in(batch: Any, images: Tensor) -> list[int]:
    """Return the rows of images that a batch holds, where it has fewer of them."""
    shape = images.shape[1:]
    held = [leaf for _, leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.shape[1:] == shape]
    if not held or sum(map(len, held)) >= len(images):
        return []
    whole = torch.cat([leaf.to(images) for leaf in held])
    return [row for row, image in enumerate(images) if _holds(whole, image)]


def _holds(whole: Tensor, image: Tensor) -> bool:
    # first by one pixel of each, since most rows differ in it
    candidates: Sequence[int] = (whole.flatten(1)[:, 0] == image.flatten()[0]).nonzero()[:, 0].tolist()
    return any(torch.equal(whole[row], image) for row in candidates)
