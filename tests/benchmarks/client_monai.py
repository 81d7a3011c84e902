"""Clients with MONAI's networks: medical images, volumes and signals, dict batches of meta tensors."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from client_kinds import COUNT, Case, Oracle, classes, client, images
from monai.data import DataLoader, Dataset, decollate_batch, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss, DiceLoss
from monai.metrics import DiceMetric
from monai.networks import nets
from monai.transforms import AsDiscrete, EnsureTyped
from torch import Tensor, nn

_SOURCE = "MONAI"


class Net(L.LightningModule):
    """What each of them has."""

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self._model = model
        self.loss_function = loss

    def forward(self, x: Tensor) -> Any:
        return self._model(x)

    def training_step(self, batch: Any, _: int) -> Any:
        return self.loss_function(self.forward(batch["image"]), batch["label"])

    def validation_step(self, batch: Any, _: int) -> Any:
        loss = self.loss_function(self.forward(batch["image"]), batch["label"])
        self.log("val_loss", loss, batch_size=len(batch["image"]))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self._model.parameters(), 1e-4)


class Segmenting(Net):
    """Validated window by window, as MONAI's segmentation tutorials do."""

    def __init__(self, model: nn.Module, roi: tuple[int, ...], loss: nn.Module | None = None) -> None:
        super().__init__(model, DiceLoss(to_onehot_y=True, softmax=True) if loss is None else loss)
        self.roi = roi
        self.post_pred = AsDiscrete(argmax=True, to_onehot=2)
        self.post_label = AsDiscrete(to_onehot=2)
        self.dice_metric = DiceMetric(include_background=False, reduction="mean")

    def validation_step(self, batch: Any, _: int) -> Any:
        outputs = sliding_window_inference(batch["image"], self.roi, 4, self.forward)
        if outputs.shape[1] == 2:
            predicted = [self.post_pred(one) for one in decollate_batch(outputs)]
            self.dice_metric(predicted, [self.post_label(one) for one in decollate_batch(batch["label"])])
        self.log("val_loss", self.loss_function(outputs, batch["label"]), batch_size=len(outputs))

    def on_validation_epoch_end(self) -> None:
        self.dice_metric.reset()


def _data(*shape: int, labels: Tensor) -> tuple[Any, Any]:
    sets = []
    for seed in (0, 1):
        samples = [
            {"image": image, "label": label} for image, label in zip(images(*shape, seed=seed), labels, strict=True)
        ]
        dataset = Dataset(samples, transform=EnsureTyped(keys=["image"]))
        sets.append(DataLoader(dataset, batch_size=4, collate_fn=list_data_collate))
    return sets[0], sets[1]


def _scores(module: Any, batch: Any) -> Tensor:
    return module(batch["image"].as_tensor())


_CLASSES = Oracle("classes", _scores, lambda batch: batch["label"])
_MASKS = Oracle("masks", _scores, lambda batch: batch["label"])


def _masks(*shape: int) -> Tensor:
    return torch.randint(0, 2, (COUNT, 1, *shape), generator=torch.Generator().manual_seed(3))


@client(_SOURCE, "DenseNet121, gray images")
def densenet_2d() -> Case:
    model = nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=6)
    return Case(Net(model, nn.CrossEntropyLoss()), _CLASSES, *_data(1, 64, 64, labels=classes(6)))


@client(_SOURCE, "DenseNet121, volumes (N, 1, D, H, W)")
def densenet_3d() -> Case:
    model = nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
    return Case(Net(model, nn.CrossEntropyLoss()), _CLASSES, *_data(1, 32, 32, 32, labels=classes(2)))


@client(_SOURCE, "EfficientNetBN")
def efficientnet() -> Case:
    model = nets.EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=3, num_classes=4)
    return Case(Net(model, nn.CrossEntropyLoss()), _CLASSES, *_data(3, 64, 64, labels=classes(4)))


@client(_SOURCE, "ViT: logits and a list of hidden states in a tuple")
def vit() -> Case:
    class First(Net):
        def training_step(self, batch: Any, _: int) -> Any:
            logits, _states = self(batch["image"])
            return self.loss_function(logits, batch["label"])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.training_step(batch, 0), batch_size=4)

    options = {"hidden_size": 32, "mlp_dim": 64, "num_layers": 2, "num_heads": 2, "post_activation": ""}
    model = nets.ViT(3, (32, 32), (8, 8), spatial_dims=2, classification=True, num_classes=4, **options)
    oracle = Oracle("classes", lambda module, batch: _scores(module, batch)[0], lambda batch: batch["label"])
    return Case(First(model, nn.CrossEntropyLoss()), oracle, *_data(3, 32, 32, labels=classes(4)))


@client(_SOURCE, "U-Net, masks (N, 1, H, W), validated window by window")
def unet_2d() -> Case:
    model = nets.UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    return Case(Segmenting(model, (32, 32)), _MASKS, *_data(1, 48, 48, labels=_masks(48, 48)))


@client(_SOURCE, "spleen tutorial: a U-Net on volumes, validated window by window")
def unet_3d() -> Case:
    model = nets.UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2
    )
    return Case(Segmenting(model, (16, 16, 16)), _MASKS, *_data(1, 24, 24, 24, labels=_masks(24, 24, 24)))


@client(_SOURCE, "SegResNet on 4 MR sequences, 3 overlapping classes by sigmoid")
def segresnet() -> Case:
    model = nets.SegResNet(spatial_dims=3, init_filters=8, in_channels=4, out_channels=3)
    module = Segmenting(model, (16, 16, 16), DiceLoss(sigmoid=True))
    labels = torch.cat([_masks(16, 16, 16)] * 3, 1)
    oracle = Oracle("masks", _scores, lambda batch: batch["label"], scale="sigmoid")
    return Case(module, oracle, *_data(4, 16, 16, 16, labels=labels))


@client(_SOURCE, "UNETR on volumes, not windowed")
def unetr() -> Case:
    options = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}
    model = nets.UNETR(in_channels=1, out_channels=2, img_size=(32, 32, 32), **options)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    return Case(Net(model, loss), _MASKS, *_data(1, 32, 32, 32, labels=_masks(32, 32, 32)))


@client(_SOURCE, "Swin UNETR on images, not windowed")
def swin_unetr() -> Case:
    model = nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1))
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    return Case(Net(model, loss), _MASKS, *_data(1, 64, 64, labels=_masks(64, 64)))


@client(_SOURCE, "a classifier of signals (N, 1, T)")
def signals() -> Case:
    model = nets.DenseNet(1, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2))
    return Case(Net(model, nn.CrossEntropyLoss()), _CLASSES, *_data(1, 128, labels=classes(3)))
