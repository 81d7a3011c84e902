"""Modules that keep state in Python objects, which each forward renews and every later step feels."""

import array
import functools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tiny import L, TinyClassifier
from torchmetrics import MetricCollection, SumMetric

from .recipe import THREE_METHODS, Recipe, call_module


class Keeps(TinyClassifier):
    """Tilts its images by what it keeps: a fraction that each forward renews."""

    def __init__(self, make: Callable[[], Any], renew: Callable[[Any], float]):
        super().__init__()
        self.kept = make()
        self.renew = renew

    def forward(self, images):
        return super().forward(tilted(images, self.renew(self.kept)))


def tilted(images: torch.Tensor, slope: float | torch.Tensor) -> torch.Tensor:
    """Return images that are brighter on the right, by a slope that training feels and class maps do not mind."""
    return images + slope * torch.linspace(0, 1, images.shape[-1]).to(images)


def fraction(count: float) -> float:
    """Return a fraction of a count, such that no two counts in a row share it."""
    return float(count) % 5 / 5


class Meter:
    """Counts, as a helper object of a user's own."""

    def __init__(self):
        self.count = 0

    def up(self) -> float:
        self.count += 1
        return fraction(self.count)


@dataclass
class MeterData:
    count: int = 0
    of: dict = field(default_factory=lambda: {"calls": [0]})

    def up(self) -> float:
        self.of["calls"][0] += 1
        return fraction(self.of["calls"][0])


class SlottedMeter:
    __slots__ = ("count",)
    __init__, up = Meter.__init__, Meter.up


class TensorMeter:
    """Keeps a tensor, which it writes in place."""

    def __init__(self):
        self.count = torch.zeros(())

    def up(self) -> float:
        return fraction(self.count.add_(1))


def count_in(container: Any, key: Any = "calls") -> float:
    container[key] += 1
    return fraction(container[key])


def add_to_nested(kept: list) -> float:
    kept[0][0].append(len(kept[0][0]))
    return fraction(len(kept[0][0]))


def add_to_set(kept: set) -> float:
    kept.add(len(kept))
    return fraction(len(kept))


def push(kept: deque) -> float:
    kept.append(fraction(2 + 5 * sum(kept)))
    return sum(kept) / len(kept)


def write_first(kept: Any) -> float:
    kept[0].add_(1)
    return fraction(kept[0])


def add_by_out(kept: list) -> float:
    torch.add(kept[0], 1, out=kept[0])
    return fraction(kept[0])


def metrics() -> MetricCollection:
    return MetricCollection({"sum": SumMetric()})


def update(metric: Any) -> float:
    metric.update(1)
    computed = metric.compute()
    return fraction(computed["sum"] if isinstance(computed, dict) else computed)


def value_now(module: L.LightningModule, size: int) -> float:
    """Return what a cache holds for a size, as of the step in which that size came."""
    return fraction(module.global_step)


class CachesBySize(TinyClassifier):
    """Tilts its images by a value for the size of the batch, which it caches in a dict: the latest size alone."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, images):
        return super().forward(tilted(images, self.by_size(len(images))))

    def by_size(self, size: int) -> float:
        if size not in self.cache:
            self.cache.clear()
            self.cache[size] = value_now(self, size)
        return self.cache[size]


class CachesMethod(CachesBySize):
    """The same through `functools.lru_cache` on a method."""

    by_size = functools.lru_cache(maxsize=1)(value_now)


class CachesBoundMethod(CachesBySize):
    """The same through a `functools.lru_cache` of each module's own."""

    def __init__(self):
        super().__init__()
        self.by_size = functools.lru_cache(maxsize=1)(partial(value_now, self))


class HidesModules(TinyClassifier):
    """Runs a teacher in train mode that it keeps where no module is looked for; it adds the teacher's statistics."""

    def __init__(self, hide: Callable[[Any], Any], find: Callable[[Any], Any]):
        super().__init__()
        self.hidden = hide(TinyClassifier().backbone)
        self.find = find

    def forward(self, images):
        teacher = self.find(self.hidden).to(images.device)
        mean = teacher[1].running_mean.mean()
        with torch.no_grad():
            taught = teacher(images)
        return super().forward(tilted(images, mean + taught.mean()))


class ViewsItsBuffer(TinyClassifier):
    """Writes a buffer through a NumPy array that shares its memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.view = self.count.numpy()

    def forward(self, images):
        self.view += 1
        return super().forward(tilted(images, fraction(self.count)))


class SharesItsState(TinyClassifier):
    """Two parts write into one dict, which each of them keeps."""

    def __init__(self):
        super().__init__()
        self.shared = {"calls": 0}
        self.backbone.shared = self.shared

    def forward(self, images):
        count_in(self.backbone.shared)
        return super().forward(tilted(images, fraction(self.shared["calls"])))


class KeepsFeatures(TinyClassifier):
    """Keeps the mean features of earlier batches, and tilts its images by them."""

    def __init__(self, queue: Any):
        super().__init__()
        self.queue = queue

    def forward(self, images):
        features = self.backbone(tilted(images, sum(kept.mean() for kept in self.queue)))
        self.queue.append(features.detach().mean((0, 2, 3)))
        return self.head(features)


def state(name: str, make: Callable[[], Any], renew: Callable[[Any], float], **options: Any) -> Recipe:
    """Return the recipe of a module that keeps something."""
    return module(name, partial(Keeps, make, renew), **options)


def module(name: str, module: Callable[[], L.LightningModule], **options: Any) -> Recipe:
    """Return the recipe of a module whose state a plain forward changes."""
    return Recipe(name, module, **({"careless": call_module, "methods": THREE_METHODS} | options))


def hidden(name: str, hide: Callable[[Any], Any], find: Callable[[Any], Any], **options: Any) -> Recipe:
    """Return the recipe of a module that keeps a module where none is looked for."""
    return module(name, partial(HidesModules, hide, find), **options)


ROWS = [
    state("a torch.Generator", torch.Generator, lambda kept: float(torch.rand((), generator=kept)), daily=True),
    state("a NumPy Generator", lambda: np.random.default_rng(0), lambda kept: kept.random(), daily=True),
    state("a NumPy RandomState", lambda: np.random.RandomState(0), lambda kept: kept.rand()),
    state("a random.Random", lambda: random.Random(0), lambda kept: kept.random()),
    state("a generator in a dict", lambda: {"noise": random.Random(0)}, lambda kept: kept["noise"].random()),
    state("a counter in a dict", lambda: {"calls": 0}, count_in, daily=True),
    state("a counter in a defaultdict", partial(defaultdict, int), count_in),
    state("a collections.Counter", Counter, count_in),
    state("the last values in a deque", lambda: deque([0.1], maxlen=3), push, daily=True),
    state("a set", set, add_to_set),
    state("a nested list", lambda: [[[]]], add_to_nested),
    state("a list in a tuple in a dict", lambda: {"a": ([0],)}, lambda kept: count_in(kept["a"][0], 0)),
    state("a NumPy array written in place", lambda: np.zeros(1), lambda kept: count_in(kept, 0), daily=True),
    state("a bytearray", lambda: bytearray(1), lambda kept: count_in(kept, 0)),
    state("an array.array", lambda: array.array("d", [0]), lambda kept: count_in(kept, 0)),
    state("a list iterator", lambda: iter([n * 7 for n in range(999)]), lambda kept: fraction(next(kept))),
    state("a helper object", Meter, Meter.up, daily=True),
    state("a helper object in a list", lambda: [Meter()], lambda kept: kept[0].up()),
    state("a dataclass with a dict of lists", MeterData, MeterData.up),
    state("a helper object with slots", SlottedMeter, SlottedMeter.up),
    state("a SimpleNamespace", lambda: SimpleNamespace(calls=0), lambda kept: count_in(vars(kept))),
    state("a helper object with a tensor written in place", TensorMeter, TensorMeter.up),
    state("a bound method of a helper object", lambda: Meter().up, lambda kept: kept()),
    state("a tensor in a list, written in place", lambda: [torch.zeros(())], write_first, daily=True),
    state("a tensor in a tuple, written in place", lambda: (torch.zeros(()),), write_first),
    state("a tensor in a list, written by out=", lambda: [torch.zeros(())], add_by_out),
    state("a metric in a plain dict", lambda: {"sum": SumMetric()}, lambda kept: update(kept["sum"]), daily=True),
    state("a metric in a helper object", lambda: SimpleNamespace(sum=SumMetric()), lambda kept: update(kept.sum)),
    state("a MetricCollection in a list", lambda: [metrics()], lambda kept: update(kept[0])),
    module("a dict that two parts share", SharesItsState),
    module("a buffer written through a NumPy view", ViewsItsBuffer, on_gpu=False),
    module("the features of the last batches in a deque", lambda: KeepsFeatures(deque(maxlen=3))),
    module("the features of all batches in a list", lambda: KeepsFeatures([])),
    module("a cache by size in a dict", CachesBySize, daily=True),
    module("functools.lru_cache on a method", CachesMethod),
    module("functools.lru_cache on a bound method", CachesBoundMethod),
    hidden("a teacher in train mode in a plain list", lambda part: [part], lambda kept: kept[0], daily=True),
    hidden("modules in a plain dict", lambda part: {"teacher": part}, lambda kept: kept["teacher"]),
    hidden("a module in a helper object", lambda part: SimpleNamespace(part=part), lambda kept: kept.part),
    hidden("a module in a closure", lambda part: lambda: part, lambda kept: kept()),
]
