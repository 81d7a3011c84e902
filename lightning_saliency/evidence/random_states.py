"""The state of a process that code around a training may change: random states and torch's modes, put back after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states after the context, also after an error.

    Restored are those of torch on the CPU and on every CUDA device, once CUDA is in use, of Python and of NumPy.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with random_states_kept():
        ...     inside = torch.rand(1)
        >>> torch.equal(torch.rand(1), inside)
        True
    """
    python_state, numpy_state, cpu_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def process_kept() -> Iterator[None]:
    """Restore the random states, and torch's modes that other code may switch, after the context.

    The modes are whether gradients are computed, autocast on the CPU and on CUDA, the default dtype, the number of
    threads, whether algorithms are deterministic, and cuDNN's choice of them.

    Example:
        >>> with process_kept():
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.get_default_dtype()
        torch.float32
    """
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    autocast = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}
    deterministic = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn
    benchmark, is_cudnn_deterministic = cudnn.benchmark, cudnn.deterministic
    with random_states_kept():
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
