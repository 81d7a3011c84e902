"""Modules that hold what cannot be copied, refer to their trainer or parent, or speak to it from forward."""

import io
import os
import queue
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from tiny import CSVLogger, TinyClassifier, data, loader
from torch import nn

from .python_state import count_in, fraction, module, tilted
from .recipe import Recipe, no_loader


class Holds(TinyClassifier):
    """Holds something beside the dict in which it counts its calls, by which it tilts its images."""

    def __init__(self):
        super().__init__()
        self.counts = {"calls": 0}

    def forward(self, images):
        return super().forward(tilted(images, self.count()))

    def count(self) -> float:
        return count_in(self.counts)


class HoldsALock(Holds):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def count(self):
        with self.lock:
            return super().count()


class HoldsAFile(Holds):
    """Writes a line to a file in each training step."""

    def __init__(self):
        super().__init__()
        self.file = io.FileIO(os.devnull, "w")

    def training_step(self, batch, batch_idx):
        self.file.write(b"a line of a journal")
        return super().training_step(batch, batch_idx)

    def on_fit_end(self):
        self.file.close()


def noises():
    for seed in range(1000):
        yield random.Random(seed).random()


class HoldsAGenerator(Holds):
    """Draws from a generator function in each training step."""

    def __init__(self):
        super().__init__()
        self.noises = noises()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + next(self.noises))


class HoldsAThread(Holds):
    """Prepares numbers for its training steps in a thread of its own."""

    def __init__(self):
        super().__init__()
        self.wanted, self.made = queue.Queue(), queue.Queue()
        self.thread = threading.Thread(target=self.work, args=(self.wanted, self.made), daemon=True)
        self.thread.start()

    @staticmethod
    def work(wanted, made):
        while (index := wanted.get()) is not None:
            made.put(fraction(index))

    def training_step(self, batch, batch_idx):
        self.wanted.put(batch_idx)
        return super().training_step(batch, batch_idx) * (1 + self.made.get())

    def on_fit_end(self):
        self.wanted.put(None)
        self.thread.join()


class HoldsAPool(Holds):
    """Counts in a thread of a pool, from forward."""

    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor(1)

    def count(self):
        return self.pool.submit(count_in, self.counts).result()

    def on_fit_end(self):
        self.pool.shutdown()


class HoldsItsData(Holds):
    """Holds its data sets and makes the loaders of them, one of which it keeps."""

    def __init__(self):
        super().__init__()
        self.dataset = data()
        self.loaders = [loader(self.dataset, shuffle=True), loader(self.dataset)]

    def train_dataloader(self):
        return self.loaders[0]

    def val_dataloader(self):
        return self.loaders[1]


class HoldsAGraph(Holds):
    """Keeps what its last training step computed, graph and all."""

    def training_step(self, batch, batch_idx):
        self.last = self.backbone(batch[0])
        self.all = [self.last, {"logits": self(batch[0])}]
        return super().training_step(batch, batch_idx) + 0.1 * self.last.pow(2).mean()


class RefersToItsTrainer(Holds):
    """Keeps its trainer and logger as attributes of its own."""

    def on_fit_start(self):
        self.owner, self.journal = self.trainer, {"logger": self.logger}

    def count(self):
        return super().count() * (0.5 + 0.1 * self.owner.current_epoch)


class Part(nn.Module):
    """Counts in its parent, to which it keeps a reference that registers no module."""

    def __init__(self, parent: Any, find: Callable[[Any], Any]):
        super().__init__()
        self.parent = parent
        self.find = find

    def forward(self, images):
        return tilted(images, count_in(self.find(self.parent).counts))


class RefersToItsParent(TinyClassifier):
    def __init__(self, refer: Callable[[Any], Any], find: Callable[[Any], Any]):
        super().__init__()
        self.counts = {"calls": 0}
        self.part = Part(refer(self), find)

    def forward(self, images):
        return super().forward(self.part(images))


class ReadsItsTrainer(TinyClassifier):
    """Depends on the epoch and the step, as its trainer and as it tells them, and on the learning rate."""

    def forward(self, images):
        progress = (self.trainer.current_epoch + self.global_step / 10) * (1 + self.trainer.sanity_checking)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return super().forward(tilted(images, fraction(progress) + rate))


class LogsInForward(Holds):
    """Logs in forward, through Lightning and in the experiment itself, where a further picture would be seen."""

    def forward(self, images):
        logits = super().forward(images)
        self.log("mean_logit", logits.mean())
        self.log_dict({"highest_logit": logits.max()})
        self.logger.experiment.add_scalar("from_forward", logits.mean(), self.counts["calls"])
        return logits


class DrawsForPictures(CSVLogger):
    """Draws random numbers when it is given a picture, for a name of the file."""

    def __init__(self, folder):
        super().__init__(folder, name="", version="")
        self.names = []

    def log_image(self, key, images, step=None):
        self.names.append((torch.rand(()).item(), random.random(), np.random.rand()))


def refer(name: str, to: Callable[[Any], Any], find: Callable[[Any], Any], **options: Any) -> Recipe:
    return module(f"a part that counts in its parent: {name}", partial(RefersToItsParent, to, find), **options)


ROWS = [
    module("a lock", HoldsALock, daily=True),
    module("an open file", HoldsAFile, daily=True),
    module("a generator object", HoldsAGenerator),
    module("a running thread and its queues", HoldsAThread),
    module("a thread pool that forward uses", HoldsAPool),
    module("its data sets and loaders", HoldsItsData, train=no_loader, val=no_loader),
    module("features with a graph, kept by the training step", HoldsAGraph, daily=True),
    module("its trainer and its logger as attributes", RefersToItsTrainer),
    refer("weakref.ref", weakref.ref, lambda parent: parent(), daily=True),
    refer("weakref.proxy", lambda module: [weakref.proxy(module)], lambda parent: parent[0]),
    refer("in a tuple", lambda module: (module,), lambda parent: parent[0]),
    refer("in a closure", lambda module: lambda: module, lambda parent: parent()),
    refer("a bound method", lambda module: module.modules, lambda parent: next(parent())),
    Recipe("a forward that reads the epoch, the step and the learning rate", ReadsItsTrainer, daily=True),
    module("a forward that logs, in the experiment too", LogsInForward),
    Recipe(
        "a logger that draws random numbers when it is given a picture",
        logger=DrawsForPictures,
        pictures=None,
        daily=True,
    ),
]
