"""Clients with timm's models."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from client_kinds import (
    CLASSES,
    COUNT,
    Case,
    Oracle,
    Samples,
    Step,
    batches,
    by_position,
    classes,
    client,
    image_batches,
    images,
)
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image

_SOURCE = "timm"


class Model(Step):
    """A model made by name."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = timm.create_model(name, pretrained=False, **{"num_classes": CLASSES, **options})

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


@client(_SOURCE, "`create_model`, `timm.data` transforms with the model's own mean and deviation; `classes`")
def resnet18() -> Case:
    names = ("ant", "bee", "cat", "dog", "eel")
    module = Model("resnet18")
    config = resolve_model_data_config(module.model) | {"input_size": (3, 48, 48)}
    transform = create_transform(**config, is_training=False)

    class Folder(Samples):
        def __getitem__(self, index: int) -> Any:
            image, label = self.samples[index]
            return self.transform(image), label

    def loader(seed: int) -> Any:
        pictures = [to_pil_image(picture.sigmoid()) for picture in images(3, 48, 48, seed=seed)]
        samples = list(zip(pictures, classes().tolist(), strict=True))
        return DataLoader(Folder(samples, transform=transform, classes=list(names)), batch_size=4)

    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    return Case(module, by_position(names=names, pixels=lambda batch: batch[0] * std + mean), loader(0), loader(1))


@client(_SOURCE, "several labels: `BCEWithLogitsLoss` on labels of 0 and 1")
def multi_label() -> Case:
    class MultiLabel(Model):
        def __init__(self) -> None:
            super().__init__("resnet18")
            self.criterion = nn.BCEWithLogitsLoss()

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return self.criterion(self(x), y)

    labels = (torch.arange(COUNT)[:, None] * 3 % torch.arange(2, 2 + CLASSES) == 0).float()
    data = (batches(images(3, 64, 64, seed=seed), labels) for seed in (0, 1))
    return Case(MultiLabel(), by_position(scale="sigmoid"), *data)


@client(_SOURCE, "regression: `num_classes=1`, mean squared error, float targets (N,)")
def regression() -> Case:
    class Regression(Model):
        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.mse_loss(self(x).squeeze(1), y)

    data = (batches(images(3, 64, 64, seed=seed), torch.linspace(0, 4, COUNT)) for seed in (0, 1))
    oracle = Oracle("values", lambda module, batch: module(batch[0])[:, 0], lambda batch: batch[1])
    return Case(Regression("resnet18", num_classes=1), oracle, *data)


@client(_SOURCE, "`features_only`: a pyramid of maps, pooled by the module's own head")
def features_only() -> Case:
    class Pyramid(Model):
        def __init__(self) -> None:
            super().__init__("resnet18", features_only=True, num_classes=0)
            self.head = nn.Linear(sum(self.model.feature_info.channels()[-2:]), CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            *_, coarse, last = self.model(x)
            return self.head(torch.cat([coarse.mean((2, 3)), last.mean((2, 3))], dim=1))

    return Case(Pyramid(), by_position(), *image_batches(3, 64, 64))


@client(_SOURCE, "ViT without a head, `num_classes=0`: features, then a head of the module's own")
def vit_backbone() -> Case:
    class Backbone(Model):
        def __init__(self) -> None:
            options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
            super().__init__("vit_tiny_patch16_224", num_classes=0, **options)
            self.fc = nn.Linear(self.model.num_features, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.model(x))

    return Case(Backbone(), by_position(), *image_batches())
