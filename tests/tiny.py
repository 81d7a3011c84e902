"""A tiny classifier and data set that the callback tests train in a second."""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_saliency._lightning import PACKAGES
from lightning_saliency.attribution import ExplainedSamples, HeatmapStage
from lightning_saliency.callbacks import Samples
from lightning_saliency.data import SampleBatch
from lightning_saliency.models import GAPHead

L = PACKAGES[0]  # whose Trainer runs the tests: the first that is installed, or the one that conftest.py imported
CSVLogger, Logger, TensorBoardLogger = L.loggers.CSVLogger, L.loggers.Logger, L.loggers.TensorBoardLogger

NUM_CLASSES = 3


class TinyClassifier(L.LightningModule):
    """Convolutions, BatchNorm, dropout and a GAP head, so that there is something a careless callback could change."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.2),
            nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = GAPHead(12, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def classifier_of(package) -> type:
    """Return `TinyClassifier` as a LightningModule of this Lightning package."""
    members = {
        name: member
        for name, member in vars(TinyClassifier).items()
        if name in ("forward", "training_step", "validation_step", "configure_optimizers")
    }

    def initialize(self) -> None:
        package.LightningModule.__init__(self)
        like = TinyClassifier()
        self.backbone, self.head = like.backbone, like.head

    return type("Classifier", (package.LightningModule,), members | {"__init__": initialize, "__module__": __name__})


def data(num: int = 24, channels: int = 3, size: int = 16) -> TensorDataset:
    """Noise with a bright square whose place is the class; the classes come in turn: 0, 1, 2, 0, 1, 2 …"""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num, channels, size, size, generator=generator) * 0.3
    labels = torch.arange(num) % NUM_CLASSES
    for image, label in zip(images, labels, strict=True):
        image[:, 1:5, 1 + 5 * label : 5 + 5 * label] += 2
    return TensorDataset(images, labels)


def loader(dataset: Dataset | None = None, *, batch_size: int = 8, shuffle: bool = False, **options) -> DataLoader:
    return DataLoader(dataset if dataset is not None else data(), batch_size=batch_size, shuffle=shuffle, **options)


def is_own(key: str) -> bool:
    """Whether a key of `callback_metrics` is of a callback of ours that is called `saliency`, or begins so."""
    return key.startswith(("xai_saliency", "saliency_"))


def first(num: int, **options) -> Samples:
    """The first samples of the validation stream, which the tests know."""
    return Samples(num=num, choose="first", **options)


def trainer(folder: Path, *callbacks: L.Callback, **options) -> L.Trainer:
    defaults = {
        "max_epochs": 2,
        "logger": TensorBoardLogger(folder, name="", version=""),
        "default_root_dir": folder,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
    }
    return L.Trainer(callbacks=list(callbacks), **(defaults | options))


def sheets(folder: Path) -> set[str]:
    """The tags of the pictures that are drawn each time; not those of the run so far."""
    tags = events(folder).Tags()["images"]
    return {tag for tag in tags if not tag.endswith(("/filmstrip", "/animation"))}


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def picture(event) -> Tensor:
    """The decoded picture of an image event, uint8 (3, H, W)."""
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def explained_samples(explanation, positions, labels=None, masks=None) -> ExplainedSamples:
    """Samples of one size as a look has them."""
    known = [None] * len(explanation) if labels is None else list(labels)
    samples = SampleBatch(explanation.call.to("cpu"), tuple(known), tuple(positions), masks)
    return ExplainedSamples(samples, explanation, HeatmapStage(explanation))
