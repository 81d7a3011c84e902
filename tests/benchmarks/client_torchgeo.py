"""Clients with torchgeo: its own trainers, dict batches, satellite bands."""

from __future__ import annotations

from typing import Any

import torch
from client_kinds import CLASSES, COUNT, Case, Oracle, classes, client, dict_batches, images
from client_torchvision import best_boxes
from torch import Tensor
from torchgeo import trainers
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datamodules.utils import collate_fn_detection
from torchgeo.datasets import NonGeoDataset

_SOURCE = "torchgeo"
_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B08A", "B09", "B10", "B11", "B12")
_MANY = (torch.arange(COUNT)[:, None] * 3 % torch.arange(2, 2 + CLASSES) == 0).long()


class Scenes(NonGeoDataset):
    """Sentinel-2 scenes, as torchgeo's data sets give them."""

    all_bands = bands = _BANDS
    rgb_bands = ("B04", "B03", "B02")
    classes = ("forest", "highway", "lake", "pasture", "river")

    def __init__(self, split: str = "train", label: Tensor | None = None) -> None:
        self.images = 1000 + 300 * images(13, 32, 32, seed=int(split == "train"))
        self.labels = classes() if label is None else label

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": self.labels[index]}


class Sentinel(NonGeoDataModule):
    """Their data module, which normalizes after the transfer."""

    mean = torch.full((13,), 1000.0)
    std = torch.full((13,), 300.0)


def _scores(module: Any, batch: Any) -> Tensor:
    return module(batch["image"])


def _labels(batch: Any) -> Tensor:
    return batch["label"]


def _masks(batch: Any) -> Tensor:
    return batch["mask"]


def _data(channels: int = 3, size: int = 32, **columns: Tensor) -> tuple[Any, Any]:
    return tuple(dict_batches({"image": images(channels, size, size, seed=seed), **columns}) for seed in (0, 1))


@client(_SOURCE, "ClassificationTask, 13 bands of Sentinel-2, normalized after the transfer; `rgb_bands`, `classes`")
def sentinel_classification() -> Case:
    data = Sentinel(Scenes, batch_size=4)
    data.setup("fit")

    def answer(module: Any, batch: Any) -> Tensor:
        return module((batch["image"] - 1000) / 300)

    oracle = Oracle("classes", answer, _labels, names=Scenes.classes, pixels=lambda batch: batch["image"][:, [3, 2, 1]])
    module = trainers.ClassificationTask(model="resnet18", in_channels=13, num_classes=CLASSES)
    return Case(module, oracle, val=data.val_dataloader(), datamodule=data)


@client(_SOURCE, "ClassificationTask, `task='binary'`: one score, integer labels")
def binary_classification() -> Case:
    module = trainers.ClassificationTask(model="resnet18", task="binary", loss="bce")
    return Case(module, Oracle("classes", _scores, _labels), *_data(label=classes(2)))


@client(_SOURCE, "ClassificationTask, `task='multilabel'`")
def multi_label_classification() -> Case:
    module = trainers.ClassificationTask(model="resnet18", task="multilabel", num_labels=CLASSES, loss="bce")
    return Case(module, Oracle("classes", _scores, _labels, scale="sigmoid"), *_data(label=_MANY))


@client(_SOURCE, "RegressionTask: one value")
def regression() -> Case:
    oracle = Oracle("values", lambda module, batch: module(batch["image"])[:, 0], _labels)
    return Case(trainers.RegressionTask(model="resnet18"), oracle, *_data(label=torch.linspace(0, 4, COUNT)))


@client(_SOURCE, "PixelwiseRegressionTask: a map of values")
def pixelwise_regression() -> Case:
    module = trainers.PixelwiseRegressionTask(model="unet", backbone="resnet18")
    mask = images(64, 64, seed=5)
    return Case(module, Oracle("images", _scores, _masks), *_data(size=64, mask=mask))


def _segmentation(model: str, **options: Any) -> Case:
    module = trainers.SemanticSegmentationTask(
        model=model, backbone="resnet18", in_channels=4, num_classes=CLASSES, **options
    )
    mask = torch.randint(0, CLASSES, (COUNT, 64, 64), generator=torch.Generator().manual_seed(3))
    return Case(module, Oracle("masks", _scores, _masks), *_data(4, 64, mask=mask))


@client(_SOURCE, "SemanticSegmentationTask, U-Net, 4 bands")
def unet() -> Case:
    return _segmentation("unet", ignore_index=0)


@client(_SOURCE, "SemanticSegmentationTask, DeepLabV3+")
def deeplab() -> Case:
    return _segmentation("deeplabv3+")


@client(_SOURCE, "SemanticSegmentationTask, FCN")
def fcn() -> Case:
    return _segmentation("fcn", num_filters=8)


def _objects(with_masks: bool) -> tuple[Any, Any]:
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 16.0, 60.0, 60.0]]).expand(COUNT, 2, 4)
    masks = torch.zeros(COUNT, 2, 64, 64, dtype=torch.uint8)
    masks[:, 0, 4:44, 4:40] = masks[:, 1, 16:60, 20:60] = 1
    columns = {"bbox_xyxy": boxes, "label": torch.tensor([1, 2]).expand(COUNT, 2)} | (
        {"mask": masks} if with_masks else {}
    )
    sets = ({"image": images(3, 64, 64, seed=seed).sigmoid(), **columns} for seed in (0, 1))
    return tuple(dict_batches(columns, collate_fn_detection) for columns in sets)


@client(_SOURCE, "ObjectDetectionTask: `bbox_xyxy` and `label` in the batch, images of one size")
def object_detection() -> Case:
    module = trainers.ObjectDetectionTask(backbone="resnet18", num_classes=CLASSES)
    return Case(module, Oracle("boxes", lambda module, batch: best_boxes(module(batch["image"]))), *_objects(False))


@client(_SOURCE, "InstanceSegmentationTask: boxes and masks")
def instance_segmentation() -> Case:
    module = trainers.InstanceSegmentationTask(backbone="resnet50", num_classes=CLASSES)
    return Case(
        module, Oracle("boxes", lambda module, batch: best_boxes(module(batch["image"].unbind()))), *_objects(True)
    )


@client(_SOURCE, "SimCLRTask: `forward` gives projection and embedding, an empty validation step")
def simclr() -> Case:
    module = trainers.SimCLRTask(model="resnet18", size=32, memory_bank_size=0)
    return Case(module, Oracle("embedding", lambda module, batch: module(batch["image"])[0]), *_data())


@client(_SOURCE, "MoCoTask: a backbone and its momentum copy")
def moco() -> Case:
    module = trainers.MoCoTask(model="resnet18", size=32, hidden_dim=32, output_dim=16)
    return Case(module, Oracle("embedding", lambda module, batch: module(batch["image"])[0]), *_data())


@client(_SOURCE, "BYOLTask: a backbone, its momentum copy and a predictor")
def byol() -> Case:
    oracle = Oracle("embedding", lambda module, batch: module(batch["image"]))
    return Case(trainers.BYOLTask(model="resnet18"), oracle, *_data(size=64))
