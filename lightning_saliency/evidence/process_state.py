"""The state of the process that code around a training may change: random states and torch's modes, kept around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.utils._python_dispatch import _pop_mode

from lightning_saliency.evidence.random_states import RandomStates
from lightning_saliency.evidence.signals import uninterrupted


class ProcessState:
    """The random states and torch's modes at the time when it is made.

    The random states are those of torch, on the CPU and on some CUDA devices, of Python and of NumPy. The modes:
    whether gradients are computed, autocast on the CPU and on CUDA, function and dispatch modes, the default dtype, the
    number of threads, whether algorithms are deterministic, and cuDNN's choice of them.

    Args:
        devices: Indices of the CUDA devices; None for every one, once CUDA is in use.
    """

    def __init__(self, devices: tuple[int, ...] | None = None) -> None:
        in_use = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        self._random = RandomStates(tuple(in_use) if devices is None else devices)
        self._grad = torch.is_grad_enabled()
        self._dtype, self._threads = torch.get_default_dtype(), torch.get_num_threads()
        self._autocast = {
            kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")
        }
        self._nesting = _autocast_nesting()
        self._function_modes = torch._C._len_torch_function_stack()
        self._dispatch_modes = torch._C._len_torch_dispatch_stack()
        self._deterministic = torch.get_deterministic_debug_mode()
        self._cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic

    def restore(self) -> None:
        """Set the random states and the modes to what they were."""
        while torch._C._len_torch_function_stack() > self._function_modes:  # interrupted in the exit of one
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack() > self._dispatch_modes:
            _pop_mode()
        torch.set_grad_enabled(self._grad)
        torch.set_default_dtype(self._dtype)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        for kind, (is_enabled, precision) in self._autocast.items():
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, precision)
        while _autocast_nesting() > self._nesting:
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()
        if torch.get_deterministic_debug_mode() != self._deterministic:
            torch.set_deterministic_debug_mode(self._deterministic)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = self._cudnn
        self._random.restore()


class ProcessKept:
    """Restores what code may change in the process, after the context, also after an error or Ctrl-C.

    See `ProcessState` for what that is.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with ProcessKept():
        ...     inside = torch.rand(1)
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.equal(torch.rand(1), inside), torch.get_default_dtype()
        (True, torch.float32)
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    @uninterrupted
    def __enter__(self) -> None:
        self._stack.callback(ProcessState().restore)

    @uninterrupted
    def __exit__(self, *error: object) -> None:
        self._stack.close()


@contextmanager
def evaluation_modes() -> Iterator[None]:
    """Neither build graphs nor compute in lower precision in the context, as outside of the steps of a training.

    Example:
        >>> with torch.autocast("cpu"), evaluation_modes():
        ...     (torch.ones(1, 1, requires_grad=True) @ torch.ones(1, 1))
        tensor([[1.]])
    """
    autocast = {kind: torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")}
    try:
        for kind in autocast:
            torch.set_autocast_enabled(kind, False)
        with torch.no_grad():
            yield
    finally:
        for kind, is_enabled in autocast.items():
            torch.set_autocast_enabled(kind, is_enabled)


def _autocast_nesting() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
