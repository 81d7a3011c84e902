"""Clients in the forms of lightly's documentation: self-supervised learning, usually without validation."""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as L
import torch
import torchvision
from client_kinds import CLASSES, Case, Client, Oracle, Samples, by_position, classes, client, image_batches, images
from lightly import loss as losses
from lightly.models import utils
from lightly.models.modules import heads, masked_autoencoder_timm, masked_vision_transformer_timm
from lightly.utils.benchmarking import LinearClassifier, OnlineLinearClassifier
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader

_SOURCE = "lightly"


def resnet_backbone() -> nn.Module:
    """Return ResNet-18 without its last layer, as each of the examples does."""
    return nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])


class Views(L.LightningModule):
    """A module of two views: `forward` projects one of them, the step compares them."""

    def __init__(self, head: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.backbone = resnet_backbone()
        self.projection_head = head
        self.criterion = criterion

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch: Any, _: int) -> Tensor:
        (x0, x1), _, _ = batch
        return self.criterion(self.forward(x0), self.forward(x1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.06)


def views(number: int = 2, size: int = 64) -> Any:
    """Return batches of views, a label and a file name, as lightly's data set gives them."""
    columns = zip(*(images(3, size, size, seed=seed) for seed in range(number)), strict=True)
    samples = [(list(views), label, f"{label}.png") for views, label in zip(columns, classes().tolist(), strict=True)]
    return DataLoader(Samples(samples), batch_size=4)


_TWO_VIEWS = {
    "simclr": lambda: Views(heads.SimCLRProjectionHead(512, 64, 16), losses.NTXentLoss()),
    "barlow_twins": lambda: Views(heads.BarlowTwinsProjectionHead(512, 64, 16), losses.BarlowTwinsLoss()),
}


def lightly_clients() -> list[Client]:
    """Return those of two equal views."""
    form = "`backbone` and `projection_head`, two views; no validation"
    return [
        Client(_SOURCE, name, form, lambda build=build: Case(build(), Oracle(), views()))
        for name, build in _TWO_VIEWS.items()
    ]


@client(_SOURCE, "a prediction head, a projection with stopped gradient; no validation")
def simsiam() -> Case:
    class SimSiam(Views):
        def __init__(self) -> None:
            super().__init__(heads.SimSiamProjectionHead(512, 32, 16), losses.NegativeCosineSimilarity())
            self.prediction_head = heads.SimSiamPredictionHead(16, 8, 16)

        def training_step(self, batch: Any, _: int) -> Tensor:
            z0, z1 = (self.forward(view) for view in batch[0])
            p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
            return 0.5 * (self.criterion(z0.detach(), p1) + self.criterion(z1.detach(), p0))

    return Case(SimSiam(), Oracle(), views())


@client(_SOURCE, "copies moved by momentum; no validation")
def byol() -> Case:
    class BYOL(Views):
        def __init__(self) -> None:
            super().__init__(heads.BYOLProjectionHead(512, 32, 16), losses.NegativeCosineSimilarity())
            self.prediction_head = heads.BYOLPredictionHead(16, 32, 16)
            self.backbone_momentum = copy.deepcopy(self.backbone)
            self.projection_head_momentum = copy.deepcopy(self.projection_head)
            utils.deactivate_requires_grad(self.backbone_momentum)
            utils.deactivate_requires_grad(self.projection_head_momentum)

        def forward_momentum(self, x: Tensor) -> Tensor:
            return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

        def training_step(self, batch: Any, _: int) -> Tensor:
            utils.update_momentum(self.backbone, self.backbone_momentum, m=0.99)
            utils.update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)
            x0, x1 = batch[0]
            p0, p1 = (self.prediction_head(self.forward(x)) for x in (x0, x1))
            return 0.5 * (self.criterion(p0, self.forward_momentum(x1)) + self.criterion(p1, self.forward_momentum(x0)))

    return Case(BYOL(), Oracle(), views())


@client(_SOURCE, "student and teacher, global and local views; no validation")
def dino() -> Case:
    class DINO(Views):
        def __init__(self) -> None:
            super().__init__(heads.DINOProjectionHead(512, 32, 16, 32), losses.DINOLoss(output_dim=32))
            self.teacher_backbone = copy.deepcopy(self.backbone)
            self.teacher_head = heads.DINOProjectionHead(512, 32, 16, 32)
            utils.deactivate_requires_grad(self.teacher_backbone)
            utils.deactivate_requires_grad(self.teacher_head)

        def training_step(self, batch: Any, _: int) -> Tensor:
            utils.update_momentum(self.backbone, self.teacher_backbone, m=0.99)
            views = batch[0]
            teacher = [self.teacher_head(self.teacher_backbone(view).flatten(start_dim=1)) for view in views[:2]]
            return self.criterion(teacher, [self.forward(view) for view in views], epoch=self.current_epoch)

        def on_after_backward(self) -> None:
            self.projection_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    return Case(DINO(), Oracle(), views(4))


@client(_SOURCE, "prototypes, several crops; no validation")
def swav() -> Case:
    class SwaV(Views):
        def __init__(self) -> None:
            super().__init__(heads.SwaVProjectionHead(512, 32, 16), losses.SwaVLoss())
            self.prototypes = heads.SwaVPrototypes(16, n_prototypes=8)

        def forward(self, x: Tensor) -> Tensor:
            return self.prototypes(nn.functional.normalize(super().forward(x), dim=1, p=2))

        def training_step(self, batch: Any, _: int) -> Tensor:
            self.prototypes.normalize()
            crops = [self.forward(view) for view in batch[0]]
            return self.criterion(crops[:2], crops[2:])

    return Case(SwaV(), Oracle(), views(4))


@client(_SOURCE, "masked autoencoder: encoder, decoder, random masks; no validation")
def mae() -> Case:
    class MAE(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
            self.patch_size, self.length = 8, 17
            self.backbone = masked_vision_transformer_timm.MaskedVisionTransformerTIMM(vit=vit)
            self.decoder = masked_autoencoder_timm.MAEDecoderTIMM(
                num_patches=16,
                patch_size=8,
                embed_dim=32,
                decoder_embed_dim=16,
                decoder_depth=1,
                decoder_num_heads=2,
            )
            self.criterion = nn.MSELoss()

        def training_step(self, batch: Any, _: int) -> Tensor:
            x = batch[0][0]
            keep, mask = utils.random_token_mask(size=(len(x), self.length), mask_ratio=0.75, device=x.device)
            encoded = self.backbone.encode(images=x, idx_keep=keep)
            decoded = self.decoder.embed(encoded)
            tokens = utils.repeat_token(self.decoder.mask_token, (len(x), self.length))
            decoded = self.decoder.decode(utils.set_at_index(tokens, keep, decoded.type_as(tokens)))
            predicted = self.decoder.predict(utils.get_at_index(decoded, mask))
            patches = utils.patchify(x, self.patch_size)
            return self.criterion(predicted, utils.get_at_index(patches, mask - 1))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1.5e-4)

    return Case(MAE(), Oracle(), views(1, 32))


@client(_SOURCE, "its benchmarks: SimCLR with an online linear classifier, whose validation step has labels")
def simclr_with_online_classifier() -> Case:
    class SimCLR(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            resnet = torchvision.models.resnet18()
            resnet.fc = nn.Identity()
            self.backbone = resnet
            self.projection_head = heads.SimCLRProjectionHead(512, 64, 16)
            self.criterion = losses.NTXentLoss()
            self.online_classifier = OnlineLinearClassifier(512, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone(x)

        def training_step(self, batch: Any, index: int) -> Tensor:
            views, targets = batch[0], batch[1]
            features = self.forward(torch.cat(views)).flatten(start_dim=1)
            z = self.projection_head(features)
            loss = self.criterion(*z.chunk(len(views)))
            class_loss, _ = self.online_classifier.training_step((features.detach(), targets.repeat(len(views))), index)
            return loss + class_loss

        def validation_step(self, batch: Any, index: int) -> Tensor:
            features = self.forward(batch[0]).flatten(start_dim=1)
            class_loss, metrics = self.online_classifier.validation_step((features.detach(), batch[1]), index)
            self.log_dict(metrics, prog_bar=True, batch_size=len(batch[1]))
            return class_loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.06)

    def answer(module: Any, batch: Any) -> Tensor:
        return module.online_classifier.classification_head(module(batch[0]).flatten(start_dim=1))

    return Case(SimCLR(), by_position(answer), views(), image_batches(3, 64, 64)[1])


@client(_SOURCE, "its benchmarks: LinearClassifier on a frozen backbone")
def linear_classifier() -> Case:
    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    module = LinearClassifier(resnet, batch_size_per_device=4, feature_dim=512, num_classes=CLASSES)
    return Case(module, by_position(), *image_batches(3, 64, 64))
