"""`pack`: images that were made of 8-bit pixels, in a quarter of their bytes and without any loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
_MOST_VALUES = 256
_MOST_CHANNELS = 64
_LEAST_SIZE = 2**12
"""Below it there is nothing to gain."""


def pack(values: Tensor) -> dict[str, Any] | None:
    """Return a tensor as indices into tables of its values; None where these would not be smaller.

    Pixels of 8 bits have at most 256 different values in each channel, also after a normalization. It is the bits of
    the numbers that are compared, so that `unpack` returns each of them as it was.

    Args:
        values: Floating point, its second axis the channels.

    Example:
        >>> pixels = torch.randint(0, 256, (1, 3, 64, 64)) / 255
        >>> packed = pack((pixels - 0.45) / 0.22)
        >>> packed["indices"].dtype, torch.equal(unpack(packed), (pixels - 0.45) / 0.22)
        (torch.uint8, True)
    """
    bits = _BITS.get(values.dtype)
    if bits is None or values.numel() < _LEAST_SIZE or values.dim() < 2 or values.shape[1] > _MOST_CHANNELS:
        return None
    tables, indices = [], []
    for channel in values.detach().cpu().contiguous().view(bits).unbind(1):
        table, index = channel.unique(return_inverse=True)
        if len(table) > _MOST_VALUES:
            return None
        tables.append(table.view(values.dtype))
        indices.append(index.to(torch.uint8))
    return {"tables": tables, "indices": torch.stack(indices, 1)}


def unpack(packed: Mapping[str, Any]) -> Tensor:
    """Return the tensor that `pack` was called with."""
    channels = zip(packed["tables"], packed["indices"].unbind(1), strict=True)
    return torch.stack([table[index.long()] for table, index in channels], 1)
