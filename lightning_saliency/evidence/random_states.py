"""The random states of the process, kept around what may draw random numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class RandomStates:
    """The random states of torch, Python and NumPy at the time when it is made.

    Args:
        devices: Indices of the CUDA devices whose states are read, besides the CPU's.

    Example:
        >>> states = RandomStates()
        >>> first = torch.rand(1)
        >>> states.restore()
        >>> torch.equal(torch.rand(1), first)
        True
    """

    devices: tuple[int, ...] = ()
    _states: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cuda = [torch.cuda.get_rng_state(device) for device in self.devices]
        states = (torch.get_rng_state(), cuda, random.getstate(), np.random.get_state())
        object.__setattr__(self, "_states", states)

    def restore(self) -> None:
        """Set the states to what they were."""
        cpu, cuda, python, numpy = self._states
        torch.set_rng_state(cpu)
        for device, state in zip(self.devices, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
        random.setstate(python)
        np.random.set_state(numpy)


def cuda_devices(model: nn.Module) -> tuple[int, ...]:
    """Return the indices of the CUDA devices that a model is on."""
    devices = {parameter.device for parameter in model.parameters()}
    return tuple(sorted(device.index for device in devices if device.type == "cuda"))
