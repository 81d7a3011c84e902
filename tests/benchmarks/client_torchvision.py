"""Clients with torchvision's models: classification, segmentation, detection and video."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as tv
from client_kinds import (
    CLASSES,
    Case,
    Client,
    Oracle,
    Samples,
    Step,
    batches,
    by_position,
    classes,
    image_batches,
    images,
    listed,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import detection, segmentation, video
from torchvision.models.video.mvit import MSBlockConfig


class Classifier(Step):
    """The module of most tutorials."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)


class AuxiliaryClassifier(Classifier):
    """With auxiliary logits in training, in a named tuple."""

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, y = batch
        output = self(x)
        return sum(F.cross_entropy(logits, y) for logits in output if logits is not None)


class Segmenter(Classifier):
    """The logits are in a dict."""

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x)["out"], y, ignore_index=255)


class Detector(Classifier):
    """Losses in training, predictions in validation; images in lists, boxes in dicts."""

    def forward(self, images: Any, targets: Any = None) -> Any:
        return self.model(images, targets)

    def training_step(self, batch: Any, _: int) -> Tensor:
        images, targets = batch
        losses = self(list(images), list(targets))
        return sum(losses.values())

    def validation_step(self, batch: Any, _: int) -> None:
        images, _ = batch
        found = self(list(images))
        self.log("found", float(sum(len(boxes["labels"]) for boxes in found)), batch_size=4)


def _classifier(build: Callable[[], nn.Module], *shape: int, module: type[Classifier] = Classifier) -> Case:
    return Case(module(build()), by_position(), *image_batches(*shape))


def _segmenter(build: Callable[[], nn.Module]) -> Case:
    masks = torch.randint(0, CLASSES, (8, 64, 64), generator=torch.Generator().manual_seed(3))
    masks[:, :8] = 255
    oracle = Oracle("masks", lambda module, batch: module(batch[0])["out"], lambda batch: batch[1])
    data = (batches(images(3, 64, 64, seed=seed), masks) for seed in (0, 1))
    return Case(Segmenter(build()), oracle, *data)


def best_boxes(found: list[dict[str, Tensor]]) -> Tensor:
    """Return the class and the score of each image's best box, `(N, 2)`."""
    best = [
        torch.stack([boxes["labels"][0].float(), boxes["scores"][0]])
        if len(boxes["labels"])
        else torch.tensor([-1.0, 0])
        for boxes in found
    ]
    return torch.stack(best)


def detection_batches(with_masks: bool) -> tuple[Any, Any]:
    """Return images of two sizes, each with two boxes."""

    def target(row: int) -> dict[str, Tensor]:
        boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 16.0, 60.0, 60.0]])
        masks = torch.zeros(2, 64, 64 + row % 2 * 16, dtype=torch.uint8)
        masks[0, 4:44, 4:40] = masks[1, 16:60, 20:60] = 1
        labels = torch.tensor([1 + row % 3, 2])
        return {"boxes": boxes, "labels": labels, **({"masks": masks} if with_masks else {})}

    sets = []
    for seed in (0, 1):
        pictures = [images(3, 64, 64 + row % 2 * 16, seed=seed + row, count=1)[0].sigmoid() for row in range(8)]
        samples = [(picture, target(row)) for row, picture in enumerate(pictures)]
        sets.append(DataLoader(Samples(samples), batch_size=4, collate_fn=listed))
    return sets[0], sets[1]


def _detector(build: Callable[[], nn.Module], with_masks: bool = False) -> Case:
    oracle = Oracle("boxes", lambda module, batch: best_boxes(module(list(batch[0]))))
    return Case(Detector(build()), oracle, *detection_batches(with_masks))


def _video(model: nn.Module) -> Case:
    data = (batches(images(3, 4, 32, 32, seed=seed), classes()) for seed in (0, 1))
    return Case(Classifier(model), by_position(), *data)


def _mvit() -> nn.Module:
    def block(dim: int, outputs: int, stride: list[int]) -> MSBlockConfig:
        return MSBlockConfig(1, dim, outputs, [3, 3, 3], [3, 3, 3], stride, [1, 2, 2])

    blocks = [block(8, 8, [1, 1, 1]), block(8, 16, [1, 2, 2]), block(16, 16, [1, 1, 1])]
    return video.MViT((32, 32), 4, blocks, True, False, True, True, patch_embed_stride=(2, 4, 4), num_classes=CLASSES)


_K = {"num_classes": CLASSES}
_PLAIN = {"weights": None, "weights_backbone": None, **_K}
_SIZE = {**_PLAIN, "min_size": 64, "max_size": 96}

_CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": partial(tv.resnet18, **_K),
    "vgg11_bn": partial(tv.vgg11_bn, **_K),
    "densenet121": partial(tv.densenet121, **_K),
    "convnext_tiny": partial(tv.convnext_tiny, **_K),
    "vit": partial(tv.VisionTransformer, 64, 8, 2, 2, 32, 64, **_K),
    "swin_t": partial(tv.swin_t, **_K),
}
_SEGMENTERS: dict[str, Callable[[], nn.Module]] = {
    "fcn_resnet50": partial(segmentation.fcn_resnet50, **_PLAIN),
    "deeplabv3_mobilenet": partial(segmentation.deeplabv3_mobilenet_v3_large, **_PLAIN, aux_loss=True),
}
_DETECTORS: dict[str, Callable[[], nn.Module]] = {
    "faster_rcnn": partial(detection.fasterrcnn_mobilenet_v3_large_320_fpn, **_SIZE),
    "retinanet": partial(detection.retinanet_resnet50_fpn, **_SIZE),
    "ssdlite": partial(detection.ssdlite320_mobilenet_v3_large, **_PLAIN),
}


def torchvision_clients() -> list[Client]:
    """Return the clients."""
    inception = partial(tv.inception_v3, weights=None, init_weights=False, **_K)
    masks = partial(detection.maskrcnn_resnet50_fpn, **_SIZE, box_detections_per_img=5, rpn_post_nms_top_n_train=50)
    boxes = "detection: lists of images of two sizes; losses in training, boxes in validation"
    auxiliary = "auxiliary logits, in a named tuple in training"
    rows: list[tuple[str, str, Callable[[], Case]]] = [
        *((name, "classification", partial(_classifier, build, 3, 64, 64)) for name, build in _CLASSIFIERS.items()),
        ("inception_v3", auxiliary, partial(_classifier, inception, 3, 299, 299, module=AuxiliaryClassifier)),
        *((name, "segmentation: `out` of a dict", partial(_segmenter, build)) for name, build in _SEGMENTERS.items()),
        *((name, boxes, partial(_detector, build)) for name, build in _DETECTORS.items()),
        ("mask_rcnn", "detection with masks", partial(_detector, masks, with_masks=True)),
        ("r3d_18", "video (N, C, T, H, W)", lambda: _video(video.r3d_18(**_K))),
        ("mvit", "video (N, C, T, H, W), a transformer", lambda: _video(_mvit())),
    ]
    return [Client("torchvision", name, form, build) for name, form, build in rows]
