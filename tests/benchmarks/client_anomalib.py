"""Clients with anomalib: its own models and engine, on a folder of normal and abnormal images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib import models
from anomalib.data import Folder
from anomalib.engine import Engine
from client_kinds import COUNT, Case, Client, Oracle, images
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

NOT_RUN = {
    "anomalib: Stfpm": "its teacher is always a pretrained network, which is downloaded",
    "anomalib: EfficientAd": "the weights of its teacher and the images of Imagenette are downloaded",
}


class Parts(Folder):
    """A folder of normal images to train with, and of both kinds to validate with; iterated, its validation batches."""

    def __init__(self) -> None:
        self.temporary = TemporaryDirectory()
        root = Path(self.temporary.name)
        for seed, name in enumerate(("train", "good", "bad")):
            (root / name).mkdir()
            for row, picture in enumerate(images(3, 64, 64, seed=seed)):
                to_pil_image(picture.sigmoid()).save(root / name / f"{row}.png")
        (root / "mask").mkdir()
        for row in range(COUNT):
            mask = torch.zeros(1, 64, 64)
            mask[:, 8:32, 4 * row : 4 * row + 24] = 1.0
            to_pil_image(mask).save(root / "mask" / f"{row}.png")
        super().__init__(
            "parts",
            root=root,
            normal_dir="train",
            normal_test_dir="good",
            abnormal_dir="bad",
            mask_dir="mask",
            train_batch_size=4,
            eval_batch_size=4,
            num_workers=0,
            seed=0,
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self.val_dataloader())


def _score(module: Any, batch: Any) -> Tensor:
    return module.model(module.pre_processor.transform(batch.image)).pred_score.reshape(-1)


def _case(model: Any, **options: Any) -> Case:
    data = Parts()
    size = 64
    if model is models.Draem:
        size, options = 32, {"dtd_dir": data.root / "train"}
    module = model(**options, pre_processor=model.configure_pre_processor(image_size=(size, size)), visualizer=False)
    oracle, trainer = Oracle("values", _score), {"trainer": Engine, "options": {"enable_checkpointing": True}}
    return Case(module, oracle, val=data, datamodule=data, **trainer)


def anomalib_clients() -> list[Client]:
    """Return the clients."""
    small = {"backbone": "resnet18", "pre_trained": False}
    two = {**small, "layers": ["layer1", "layer2"]}
    rows: list[tuple[str, str, Callable[[], Case]]] = [
        ("padim", "fitted, not trained: a distribution for each patch", partial(_case, models.Padim, **two)),
        ("patchcore", "fitted, not trained: a bank of patches", partial(_case, models.Patchcore, **two)),
        ("fastflow", "flows on features", partial(_case, models.Fastflow, **small, flow_steps=2)),
        ("cflow", "flows, manual optimization", partial(_case, models.Cflow, **two, coupling_blocks=2)),
        ("reverse_distillation", "a student that decodes", partial(_case, models.ReverseDistillation, **small)),
        ("draem", "made defects, a segmenting network", partial(_case, models.Draem)),
        ("ganomaly", "two networks, manual optimization", partial(_case, models.Ganomaly, batch_size=4)),
    ]
    return [Client("anomalib", name, form, build) for name, form, build in rows]
