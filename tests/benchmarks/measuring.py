"""Medians of interleaved rounds, and the peak of memory."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Contenders = Mapping[str, Callable[[], Any]]


def medians(contenders: Contenders, rounds: int, device: torch.device) -> dict[str, float]:
    """Run all contenders, `rounds` times after a warm-up, and return the median of each in seconds.

    Each round has another order: what ran before leaves its mark on the caches and the allocator.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    shuffled = random.Random(0)
    for turn in range(rounds + 1):
        for name in shuffled.sample(list(contenders), len(contenders)):
            synchronize(device)
            start = time.perf_counter()
            contenders[name]()
            synchronize(device)
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU is still doing."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Return the most that torch holds while something runs, beyond what it held before."""
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def in_turn(*calls: Callable[[], Any]) -> Callable[[], Any]:
    """Return all of them, one after the other."""

    def run() -> None:
        for call in calls:
            call()

    return run
