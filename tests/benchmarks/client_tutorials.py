"""Classifiers in the forms of Lightning's tutorials, the UvA Deep Learning course among them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
import torchvision
from client_kinds import Case, by_position, client, image_batches
from torch import Tensor, nn

COURSE = "Lightning tutorials: UvA course"
TUTORIALS = "Lightning tutorials"


class Tutorial(L.LightningModule):
    """What each of them has."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[100, 150])]


class CIFARModule(Tutorial):
    """The module of three of its tutorials."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["model"])
        self.model = model
        self.loss_module = nn.CrossEntropyLoss()
        self.example_input_array = torch.zeros((1, 3, 32, 32), dtype=torch.float32)

    def forward(self, imgs: Tensor) -> Tensor:
        return self.model(imgs)

    def training_step(self, batch: Any, _: int) -> Tensor:
        imgs, labels = batch
        preds = self.model(imgs)
        self.log("train_acc", (preds.argmax(dim=-1) == labels).float().mean(), on_step=False, on_epoch=True)
        return self.loss_module(preds, labels)

    def validation_step(self, batch: Any, _: int) -> None:
        imgs, labels = batch
        preds = self.model(imgs).argmax(dim=-1)
        self.log("val_acc", (labels == preds).float().mean())


class Joined(nn.Module):
    """Modules beside each other, or a module and its input: an Inception block, a dense or a residual layer."""

    def __init__(self, *branches: nn.Module, dim: int | None = 1) -> None:
        super().__init__()
        self.branches, self.dim = nn.ModuleList(branches), dim

    def forward(self, x: Tensor) -> Tensor:
        outputs = [branch(x) for branch in self.branches]
        return torch.stack(outputs).sum(0) if self.dim is None else torch.cat(outputs, self.dim)


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _cifar(*blocks: nn.Module, width: int) -> Case:
    head = nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(width, 10)
    return Case(CIFARModule(nn.Sequential(_conv(3, 8), *blocks, *head)), by_position(), *image_batches(count=10))


@client(COURSE, "four branches; validation without a loss")
def inception() -> Case:
    pool = nn.Sequential(nn.MaxPool2d(3, padding=1, stride=1), _conv(8, 4, 1))
    return _cifar(Joined(_conv(8, 4, 1), _conv(8, 4), _conv(8, 4, 5), pool), nn.MaxPool2d(2), _conv(16, 16), width=16)


@client(COURSE, "DenseNet of its own")
def densenet() -> Case:
    return _cifar(Joined(_conv(8, 8), nn.Identity()), nn.MaxPool2d(2), Joined(_conv(16, 8), nn.Identity()), width=24)


@client(COURSE, "own patches by reshape, class token, blocks on (L, N, D)")
def vision_transformer() -> Case:
    class AttentionBlock(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.attn = nn.MultiheadAttention(dim, 4)
            self.linear = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

        def forward(self, x: Tensor) -> Tensor:
            inputs = self.layer_norm_1(x)
            x = x + self.attn(inputs, inputs, inputs)[0]
            return x + self.linear(self.layer_norm_2(x))

    class VisionTransformer(nn.Module):
        def __init__(self, dim: int = 32, patch: int = 4) -> None:
            super().__init__()
            self.patch = patch
            self.input_layer = nn.Linear(3 * patch**2, dim)
            self.transformer = nn.Sequential(*(AttentionBlock(dim) for _ in range(3)))
            self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))
            self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
            self.pos_embedding = nn.Parameter(torch.randn(1, 65, dim))

        def forward(self, x: Tensor) -> Tensor:
            count, channels, height, width = x.shape
            x = x.reshape(count, channels, height // self.patch, self.patch, width // self.patch, self.patch)
            x = self.input_layer(x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2, 4))
            x = torch.cat([self.cls_token.repeat(count, 1, 1), x], dim=1) + self.pos_embedding
            return self.mlp_head(self.transformer(x.transpose(0, 1))[0])

    class ViT(Tutorial):
        def __init__(self) -> None:
            super().__init__()
            self.model = VisionTransformer()

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def training_step(self, batch: Any, _: int) -> Tensor:
            imgs, labels = batch
            return F.cross_entropy(self.model(imgs), labels)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.training_step(batch, 0))

    return Case(ViT(), by_position(), *image_batches(count=10))


@client(COURSE, "SimCLR's supervised baseline: `model` is a torchvision ResNet, no `forward`")
def supervised_resnet() -> Case:
    class ResNet(Tutorial):
        def __init__(self) -> None:
            super().__init__()
            self.model = torchvision.models.resnet18(num_classes=10)

        def training_step(self, batch: Any, _: int) -> Tensor:
            imgs, labels = batch
            return F.cross_entropy(self.model(imgs), labels)

        def validation_step(self, batch: Any, _: int) -> None:
            imgs, labels = batch
            self.log("val_acc", (self.model(imgs).argmax(dim=-1) == labels).float().mean())

    oracle = by_position(lambda module, batch: module.model(batch[0]))
    return Case(ResNet(), oracle, *image_batches(3, 64, 64, count=10))


@client(TUTORIALS, "torchvision ResNet with another stem, `log_softmax` and `nll_loss`")
def cifar10_baseline() -> Case:
    def create_model() -> nn.Module:
        model = torchvision.models.resnet18(weights=None, num_classes=10)
        model.conv1 = nn.Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
        model.maxpool = nn.Identity()
        return model

    class LitResnet(L.LightningModule):
        def __init__(self, lr: float = 0.05) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = create_model()

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.model(x), dim=1)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return F.nll_loss(self(x), y)

        def validation_step(self, batch: Any, _: int) -> None:
            x, y = batch
            self.log("val_loss", F.nll_loss(self(x), y), prog_bar=True)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9, weight_decay=5e-4)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Case(LitResnet(), by_position(), *image_batches(3, 16, 16, count=10))
