"""`KeptSteps`: what was recorded in validation steps, kept until it is known what the loss does with the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.data import find_images, mapped
from lightning_saliency.evidence import RecordedCall

_MOST_BYTES = 2**30
"""The memory that they take at most, up to one step more; the steps that sanity checking runs by default are kept."""


class KeptSteps:
    """Batches and recorded calls of validation steps, on the CPU: a training step needs the device's memory.

    Attributes:
        num_samples: The number of samples in the steps, as far as calls with images tell.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self._num_bytes = 0
        self._steps: list[tuple[Any, dict[Any, torch.device]]] = []

    @property
    def is_full(self) -> bool:
        """Whether they take as much memory as they may."""
        return len(self._steps) >= 2 and self._num_bytes >= _MOST_BYTES

    def add(self, batch: Any, recorded: Mapping[str, RecordedCall]) -> None:
        """Keep a step."""
        devices: dict[Any, torch.device] = {}

        def kept(path: Any, value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            devices[path] = value.device
            copied = value.detach().to("cpu", copy=True)  # a loader may use the memory of its batch again
            self._num_bytes += copied.numel() * copied.element_size()
            return copied

        self._steps.append((mapped((batch, dict(recorded)), kept), devices))
        counts = [len(call.call) for call in recorded.values() if call.call is not None]
        if counts:
            with suppress(ValueError):  # a call may hold more, such as several windows of each image
                counts.append(len(find_images(batch, signals=True)))
        self.num_samples += min(counts, default=0)

    def take(self) -> Iterator[tuple[Any, Mapping[str, RecordedCall]]]:
        """Yield the batch and the recorded calls of each step, where they were, and drop them."""
        while self._steps:
            step, devices = self._steps.pop(0)

            def restored(path: Any, value: Any, devices: Mapping[Any, torch.device] = devices) -> Any:
                return value.to(devices[path]) if path in devices else value

            batch, recorded = mapped(step, restored)
            yield batch, recorded
