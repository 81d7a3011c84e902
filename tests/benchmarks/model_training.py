"""A training of one step of a published model, with the callback and without."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
from model_kinds import CLASSES, Size, logits_of, random_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyCallback


class Training(L.LightningModule):
    """Any classifier, trained as people do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(logits_of(self(images)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.log("val_loss", F.cross_entropy(logits_of(self(images)), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def train(model: nn.Module, size: Size) -> dict[str, Any]:
    """Train a copy of the model for a step with `SaliencyCallback()`, another without, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = fitted(copy.deepcopy(model), size, Path(folder), SaliencyCallback(samples=2))
        pictures = {
            tag
            for file in Path(folder).rglob("events*")
            for tag in EventAccumulator(str(file)).Reload().Tags()["images"]
        }
        plain = fitted(copy.deepcopy(model), size, Path(folder) / "plain")
    said = [str(warning.message) for warning in caught if "SaliencyCallback" in str(warning.message)]
    is_same = weights.keys() == plain.keys() and all(torch.equal(weights[key], plain[key]) for key in weights)
    return {"same_weights": is_same, "pictures": sorted(pictures), "said": said}


def fitted(model: nn.Module, size: Size, folder: Path, *callbacks: L.Callback) -> dict[str, Tensor]:
    """Return the weights after one step of training and a validation."""
    L.seed_everything(0)
    labels = torch.arange(4) % CLASSES
    data = DataLoader(TensorDataset(random_images(4, size), labels), batch_size=4)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=1,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=L.loggers.TensorBoardLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Training(model), data, data)
    return model.state_dict()
