"""Copies of tensors that share the originals' memory until one side writes to it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

_COPIED_AT_ONCE = 2**16
"""The bytes of memory up to which it is copied at once: that costs no more, and shared memory cannot be resized."""


class LazyMemory:
    """Copies tensors such that the memory is shared until one of the two is written, and only then copied.

    Of tensors that are views of one another, the copies are such too.

    Example:
        >>> memory, original = LazyMemory(), torch.zeros(100_000)
        >>> copied = memory.copy(original)
        >>> original.add_(1).sum().item(), copied.sum().item()
        (100000.0, 0.0)
    """

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []  # whose ids must not be given to others
        self._first_shared: list[Any] = []  # the originals' memory that a copy of this object was the first to share

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a lazy copy of a tensor without a graph; a real one, where its memory cannot be shared."""
        if not _has_plain_memory(tensor):
            return tensor.clone()
        storage = tensor.untyped_storage()
        if storage._cdata not in self._copies:  # of tensors that are views of one another, the copies are such too
            self._originals.append(storage)
            was_shared = _is_shared(tensor)  # by an outer pass, or by torch itself
            self._copies[storage._cdata] = _lazy_storage(tensor)
            if _is_shared(tensor) and not was_shared:
                self._first_shared.append(storage)
        copied = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        copied.set_(self._copies[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
        return copied

    def hold(self, copied: Tensor) -> None:
        """Register a tensor that has the memory of a copy, to be released with it."""
        if _has_plain_memory(copied):
            self._held.append(copied)

    def release(self) -> None:
        """Let go of the copies: the originals' memory is ordinary again, which costs nothing."""
        for tensor in self._held:
            tensor.data = tensor.data.new_empty(0)
        self._held.clear()
        self._copies.clear()
        for storage in self._first_shared:
            storage.data_ptr()  # torch cannot resize what counts as shared
        self._first_shared.clear()


def _has_plain_memory(tensor: Tensor) -> bool:
    is_strided = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return is_strided and tensor.device.type != "meta" and not tensor.is_conj() and not tensor.is_neg()


def _is_shared(tensor: Tensor) -> bool:
    return bool(cast(Any, torch._C)._is_cow_tensor(tensor))


def _lazy_storage(tensor: Tensor) -> Any:
    """Return a lazy copy of a tensor's memory; a real one, where it is small or belongs to somebody else than torch."""
    if tensor.untyped_storage().nbytes() <= _COPIED_AT_ONCE:
        return tensor.untyped_storage().clone()
    try:
        return torch._lazy_clone(tensor).untyped_storage()
    except (RuntimeError, AttributeError):  # memory that is mapped from a file, NumPy's, or shared by processes
        return tensor.untyped_storage().clone()
