"""What a client is: someone's module with its data, and an oracle that says what is true of its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytorch_lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

CLASSES = 5
COUNT = 8
"""The number of samples to train with, and to validate with."""

Kind = Literal["classes", "ranks", "values", "masks", "boxes", "embedding", "images", "none"]
Scale = Literal["softmax", "sigmoid", "probabilities"]


@dataclass(frozen=True)
class Oracle:
    """What a model says of a validation batch, as its own author reads it.

    Attributes:
        kind: What the answer holds: class scores `(N, K)`, `(N, 1)` or `(N,)` for one score; the logits of exceeding
            each rank but the last `(N, K - 1)`; values `(N,)` or `(N, V)`; mask logits `(N, K, H, W)`; the class and
            the score of each image's best box `(N, 2)`, class −1 where there is none; an embedding `(N, D)`; images,
            whose mean is a value; or nothing to explain.
        answer: Returns it, from the trained module in eval mode and a batch.
        labels: Returns what is true: classes `(N,)`, −1 where none is known, or 0 and 1 `(N, K)`; values; masks.
        scale: How the class scores become the probabilities that the author means; of mask logits, sigmoid where
            several classes may have a pixel.
        names: The names of the classes, where the data set tells them.
        pixels: Returns what the images show, `(N, 3, H, W)`, of a batch: from 0 to 1, or in the sensor's own units.
    """

    kind: Kind = "none"
    answer: Callable[[Any, Any], Tensor] | None = None
    labels: Callable[[Any], Tensor] | None = None
    scale: Scale = "softmax"
    names: tuple[str, ...] | None = None
    pixels: Callable[[Any], Tensor] | None = None


@dataclass(frozen=True)
class Case:
    """A client as it is run.

    Attributes:
        module: The LightningModule.
        oracle: What is true of its answers.
        train: The batches of the training; not used where there is a data module.
        val: The validation batches, also those of the data module; None without validation.
        datamodule: A data module to train with.
        trainer: What trains, if not the module's own `Trainer`.
        options: Further options of the trainer.
        shown: In which order the first validation samples are shown; None for their own.
    """

    module: Any
    oracle: Oracle
    train: Any = None
    val: Any = None
    datamodule: Any = None
    trainer: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: Sequence[int] | None = None


@dataclass(frozen=True)
class Client:
    """A published form of training code.

    Attributes:
        source: The library, tutorial or template that publishes it.
        name: Its name in the table.
        form: What is special about it.
        build: Builds it anew.
    """

    source: str
    name: str
    form: str
    build: Callable[[], Case]


def client(source: str, form: str) -> Callable[[Callable[[], Case]], Client]:
    """Turn a function that builds a case into a client of the function's name."""

    def named(build: Callable[[], Case]) -> Client:
        return Client(source, build.__name__, form, build)

    return named


class Step(L.LightningModule, ABC):
    """The usual steps around `loss`."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=4)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.loss(batch), batch_size=4)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Samples(Dataset[Any]):
    """A data set of samples, with what data sets of the field have beside them."""

    def __init__(self, samples: list[Any], **about: Any) -> None:
        self.samples = samples
        vars(self).update(about)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Data(L.LightningDataModule):
    """A data module of two loaders."""

    def __init__(self, train: Any, val: Any) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> Any:
        return self.train

    def val_dataloader(self) -> Any:
        return self.val


def images(*shape: int, seed: int = 0, count: int = COUNT) -> Tensor:
    """Return noise, each sample brighter than the one before: `(N, *shape)`, by default 3×32×32."""
    noise = torch.randn(count, *(shape or (3, 32, 32)), generator=torch.Generator().manual_seed(seed))
    return noise + torch.linspace(-1, 1, count).reshape(-1, *[1] * len(shape or (3, 32, 32)))


def classes(count: int = CLASSES, samples: int = COUNT) -> Tensor:
    """Return a label for each sample, `(N,)`."""
    return torch.arange(samples) * 3 % count


def batches(*columns: Tensor, **about: Any) -> Any:
    """Return a loader of tuples; a data set with these attributes, where there are any."""
    dataset: Any = TensorDataset(*columns)
    vars(dataset).update(about)
    return DataLoader(dataset, batch_size=4)


def dict_batches(columns: Mapping[str, Tensor], collate: Any = None, **about: Any) -> Any:
    """Return a loader of dicts."""
    count = len(next(iter(columns.values())))
    samples = [{key: values[row] for key, values in columns.items()} for row in range(count)]
    return DataLoader(Samples(samples, **about), batch_size=4, collate_fn=collate)


def listed(batch: list[Any]) -> Any:
    """Collate pairs into two tuples, as detection does."""
    return tuple(zip(*batch, strict=True))


def image_batches(*shape: int, count: int = CLASSES, **about: Any) -> tuple[Any, Any]:
    """Return the training and the validation batches of an image classifier."""
    return tuple(batches(images(*shape, seed=seed), classes(count), **about) for seed in (0, 1))


def by_position(answer: Callable[[Any, Any], Any] | None = None, **oracle: Any) -> Oracle:
    """Return the oracle of a classifier whose batch is `(images, labels)`, and whose forward gives the logits."""
    return Oracle("classes", answer or (lambda module, batch: module(batch[0])), lambda batch: batch[1], **oracle)


def small_net(outputs: int = CLASSES, channels: int = 3, width: int = 8) -> nn.Sequential:
    """Return a small convolutional network."""
    return nn.Sequential(features(channels, width), nn.Linear(2 * width, outputs))


def features(channels: int = 3, width: int = 8) -> nn.Sequential:
    """Return its body, which gives `(N, 2 · width)`."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
