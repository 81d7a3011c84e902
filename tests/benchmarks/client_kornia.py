"""Clients with kornia: augmentation and normalization on the batch."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import lightning.pytorch as L
import torch
import torch.nn.functional as F
import torchvision
from client_kinds import CLASSES, Case, batches, by_position, classes, client, image_batches, images, small_net
from kornia.enhance import Normalize
from kornia.models.vit import VisionTransformer
from torch import Tensor, nn

_SOURCE = "kornia"


class Classifier(L.LightningModule):
    """What each of them has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, _: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def _transferred(module: Any, batch: Any) -> Tensor:
    return module(module.on_after_batch_transfer(batch, 0)[0])


@client(_SOURCE, "Lightning's kornia tutorial: augmentation in `on_after_batch_transfer`, while training")
def augmentation_on_transfer() -> Case:
    class CoolSystem(Classifier):
        def __init__(self) -> None:
            super().__init__(torchvision.models.resnet18(num_classes=10))
            self.transform = nn.Sequential(K.RandomHorizontalFlip(p=0.75), K.ColorJitter(0.5, 0.5, 0.5, 0.5))

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            return (self.transform(x) if self.trainer.training else x), y

    data = (batches(images(3, 64, 64, seed=seed).sigmoid(), classes(10)) for seed in (0, 1))
    return Case(CoolSystem(), by_position(), *data)


@client(_SOURCE, "normalization in `on_after_batch_transfer`, in validation too")
def normalize_on_transfer() -> Case:
    class Module(Classifier):
        def __init__(self) -> None:
            super().__init__(small_net())
            self.normalize = K.Normalize(mean=torch.tensor([0.4, 0.5, 0.6]), std=torch.tensor([0.2, 0.25, 0.3]))

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            x, y = batch
            return self.normalize(x), y

    data = (batches(images(seed=seed).sigmoid(), classes()) for seed in (0, 1))
    return Case(Module(), by_position(_transferred), *data)


@client(_SOURCE, "normalization within `forward`, as a layer")
def normalize_in_forward() -> Case:
    model = nn.Sequential(Normalize(0.5, 0.25), small_net())
    data = (batches(images(seed=seed).sigmoid(), classes()) for seed in (0, 1))
    return Case(Classifier(model), by_position(), *data)


@client(_SOURCE, "kornia's Vision Transformer and a linear head on its class token")
def kornia_vit() -> Case:
    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = VisionTransformer(image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
            self.head = nn.Linear(32, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x)[:, 0])

    return Case(Classifier(ViT()), by_position(), *image_batches())
