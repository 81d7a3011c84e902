"""Data sets, batches and loaders of the recipes."""

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tiny import NUM_CLASSES, L, TinyClassifier, data, loader
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from .recipe import Recipe, no_loader

CombinedLoader = L.utilities.combined_loader.CombinedLoader


class Augmented(Dataset):
    """The tiny data, disturbed through torch's, Python's and NumPy's global random generators."""

    def __init__(self):
        self.images, self.labels = data()[:]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(3, 16, 16) * 0.1 + random.gauss(0, 0.1) + float(np.random.randn()) * 0.1
        return self.images[index] + noise, self.labels[index]


class Sizes(Dataset):
    """Images of three sizes."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 16 + 4 * (index % 3), 20, generator=generator), index % NUM_CLASSES


class Stream(IterableDataset):
    """The tiny data as a stream, whose order is drawn anew each epoch."""

    def __iter__(self):
        images, labels = data()[:]
        for index in torch.randperm(len(labels)):
            yield images[index], labels[index]


class Tiny(L.LightningDataModule):
    """A data module, whose loaders are made anew each epoch if the trainer asks for it."""

    def setup(self, stage):
        self.dataset = Augmented()

    def train_dataloader(self):
        return loader(self.dataset, shuffle=True)

    def val_dataloader(self):
        return loader(self.dataset)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 0.01 * torch.randn_like(batch[0]), batch[1]


def as_bytes() -> TensorDataset:
    images, labels = data()[:]
    return TensorDataset(((images + 1) * 80).clamp(0, 255).to(torch.uint8), labels)


def collate(kind: Callable, items):
    images, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return kind(image=images, label=labels)


def squares(batch) -> torch.Tensor:
    """Return where the bright squares of the tiny data are, as boxes."""
    return torch.stack([torch.tensor([1 + 5 * label, 1, 5 + 5 * label, 5]) for label in batch[1].tolist()])


Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Batch:
    image: torch.Tensor
    label: torch.Tensor


def as_pair(batch: Any):
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    return (batch.image, batch.label) if isinstance(batch, Batch) else tuple(batch)


class Structured(TinyClassifier):
    """Reads whatever its batches are."""

    def training_step(self, batch, batch_idx):
        return super().training_step(as_pair(batch), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(as_pair(batch), batch_idx)


class FromCombined(TinyClassifier):
    """Validates on one of two batches that come together."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch["a"], batch_idx)


class TrainsOnCombined(FromCombined):
    """Trains on two batches that come together, of which one may have ended."""

    def training_step(self, batch, batch_idx):
        batches = [part for part in batch.values() if part is not None]
        return sum(F.cross_entropy(self(images), labels) for images, labels in batches)


class PopsFromItsBatch(TinyClassifier):
    """Its forward takes the batch, and takes the images out of it."""

    def forward(self, batch):
        return super().forward(batch.pop("image"))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch), batch["label"]), batch_size=len(batch["label"]))
        assert "image" not in batch


class ConvertsBytes(TinyClassifier):
    """Takes uint8 images."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        return super().forward(images.to(self.head.linear.weight.dtype) / 80 - 1)


class AugmentsOnItsDevice(TinyClassifier):
    """Draws noise and flips where the batch has been moved to the device, in training and validation."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        images, labels = batch
        images = images.flip(-1) if torch.rand(()) < 0.5 else images
        return images + 0.1 * torch.randn_like(images), labels


class HasItsLoaders(TinyClassifier):
    """Makes its loaders itself."""

    def train_dataloader(self):
        return loader(Augmented(), shuffle=True)

    def val_dataloader(self):
        return loader(Augmented())


def both(make: Callable[..., Any], **options) -> dict[str, Callable[[], Any]]:
    """Loaders of training and validation that are made alike."""
    return {"train": lambda: make(shuffle=True, **options), "val": lambda: make(**options)}


def combined(mode: str) -> Callable[[], Any]:
    return lambda: CombinedLoader({"a": loader(), "b": loader(batch_size=4)}, mode)


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0, 2.0, 3.0] * 8, 24)


ROWS = [
    Recipe(
        "a forward that takes the images out of its batch",
        PopsFromItsBatch,
        **both(loader, collate_fn=partial(collate, dict)),
    ),
    Recipe("uint8 images", ConvertsBytes, **both(lambda **options: loader(as_bytes(), **options))),
    Recipe("images of several sizes", **both(lambda **options: loader(Sizes(), batch_size=1, **options))),
    Recipe("persistent workers", **both(loader, num_workers=1, persistent_workers=True), daily=True),
    Recipe("several validation loaders", val=lambda: [loader(), loader(batch_size=4)], daily=True),
    Recipe(
        "a CombinedLoader",
        FromCombined,
        val=lambda: CombinedLoader({"a": loader(), "b": loader()}, "min_size"),
    ),
    *(
        Recipe(f"{kind.__name__} batches", Structured, **both(loader, collate_fn=partial(collate, kind)))
        for kind in (dict, Pair, Batch)
    ),
    *(
        Recipe(
            f"a CombinedLoader in training too, {mode}",
            TrainsOnCombined,
            train=combined(mode),
            val=combined("min_size"),
        )
        for mode in ("min_size", "max_size_cycle", "max_size")
    ),
    Recipe(
        "a sequential CombinedLoader",
        val=lambda: CombinedLoader([loader()], "sequential"),
    ),
    Recipe("a data module that augments", train=Tiny, val=no_loader),
    Recipe("loaders of the module's own", HasItsLoaders, train=no_loader, val=no_loader),
    Recipe("an iterable data set that shuffles itself", train=lambda: loader(Stream()), val=lambda: loader(Stream())),
    Recipe("augmentation on the device, in validation too", AugmentsOnItsDevice),
    Recipe("a weighted random sampler", train=lambda: loader(sampler=weighted())),
    Recipe(
        "a sampler with a generator of its own",
        train=lambda: loader(sampler=RandomSampler(data(), generator=torch.Generator().manual_seed(5))),
    ),
    Recipe(
        "a batch sampler",
        train=lambda: loader(batch_size=1, batch_sampler=BatchSampler(RandomSampler(data()), 6, drop_last=True)),
    ),
    Recipe("shuffled validation", val=lambda: loader(shuffle=True)),
    Recipe("a last batch of one sample", val=lambda: loader(Subset(data(), range(17)))),
    Recipe("joined data sets", train=lambda: loader(ConcatDataset([data(), Augmented()]), shuffle=True)),
    Recipe(
        "worker processes started anew each epoch, which augment",
        **both(lambda **options: loader(Augmented(), num_workers=1, **options)),
    ),
]
