"""The state of a process that code around a training may change: random states and torch's modes, kept around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lightning_saliency.evidence.random_states import RandomStates


@contextmanager
def process_kept() -> Iterator[None]:
    """Restore what other code may change in the process, after the context and also after an error.

    These are the random states of torch, on the CPU and on every CUDA device once CUDA is in use, of Python and of
    NumPy; and torch's modes: whether gradients are computed, autocast on the CPU and on CUDA, the default dtype, the
    number of threads, whether algorithms are deterministic, and cuDNN's choice of them.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with process_kept():
        ...     inside = torch.rand(1)
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.equal(torch.rand(1), inside), torch.get_default_dtype()
        (True, torch.float32)
    """
    states = RandomStates(tuple(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else ())
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    autocast = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}
    deterministic = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn
    benchmark, is_cudnn_deterministic = cudnn.benchmark, cudnn.deterministic
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for kind, (is_enabled, precision) in autocast.items():
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, precision)
        if torch.get_deterministic_debug_mode() != deterministic:
            torch.set_deterministic_debug_mode(deterministic)
        cudnn.benchmark, cudnn.deterministic = benchmark, is_cudnn_deterministic
        states.restore()
