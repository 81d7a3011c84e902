"""Train a CAM model on folders of images, one folder a class, and see in TensorBoard where it looks.

    photos/train/cat/1.jpg    photos/val/cat/7.jpg        or    photos/cat/1.jpg
    photos/train/dog/2.jpg    photos/val/dog/8.jpg              photos/dog/2.jpg

    python examples/train_gap.py fit --data.root photos --model.weights DEFAULT --model.unfreeze_at_epoch 2
    python examples/train_gap.py fit --data.root photos --model.backbone squeezenet1_0 --model.weights squeezenet1_0.pth
    tensorboard --logdir logs --samples_per_plugin images=500
    python examples/train_gap.py predict --data.root photos --ckpt_path logs/train_gap/version_0/checkpoints/best.ckpt

`fit` retrains a torchvision backbone, with torchvision's weights or those of a file, with a GAP head and logs the
class maps of each epoch, `validate` measures a checkpoint, `predict` writes the class and the box of each validation
image to boxes.csv, in the photo's own pixels.
`--data.boxes boxes.json` tells where the objects are in some validation images, {"cat/7.jpg": [[x1, y1, x2, y2]]} in
fractions of the width and the height; then it is measured how much of the class maps lies on them.
All options of the data, the model, the pictures and the Trainer: python examples/train_gap.py fit --help
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from jsonargparse import DefaultHelpFormatter
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_saliency import CAMCallback, CAMClassifier
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import energy_inside, pointing_game
from lightning_saliency.models import CAMPrediction

COMMANDS = {
    "fit": "Retrain a torchvision backbone with a GAP head, and log the class maps of each epoch.",
    "validate": "Measure a checkpoint on the validation images.",
    "predict": "Write the class and the box of each validation image to boxes.csv.",
}
TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "logger": {
        "class_path": "pytorch_lightning.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "logs", "name": "train_gap", "default_hp_metric": False},
    },
}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class ImageFolders(L.LightningDataModule):
    """Images in one folder per class.

    Args:
        root: A folder that holds `train` and `val`, each with a folder per class; or the folders of the classes
            themselves, of which a part is set aside for validation.
        image_size: Height and width that the images are resized to.
        batch_size: Images per batch.
        boxes: A file of JSON with the boxes of validation images, by their paths from the folder that holds the
            folders of the classes: lists of (x1, y1, x2, y2), from 0 to 1.
        val_fraction: The part that is set aside where there is no `val`.
        num_workers: Processes that read the images.
        seed: Decides which images are set aside.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        batch_size: int = 16,
        boxes: str | None = None,
        val_fraction: float = 0.2,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        ends = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        augment = v2.Compose(
            [v2.RandomResizedCrop(image_size, scale=(0.4, 1.0), antialias=True), v2.RandomHorizontalFlip(), *ends]
        )
        resize = v2.Compose([v2.Resize((image_size, image_size), antialias=True), *ends])
        self.train_set, val_set = split_folders(Path(root), augment, resize, val_fraction, seed)
        self.val_set = val_set
        if boxes is not None:
            self.val_set = Masked(val_set, json.loads(Path(boxes).read_text(encoding="utf-8")), image_size)

    @property
    def classes(self) -> list[str]:
        """The names of the folders."""
        folder: Any = self.val_set.dataset
        return list(folder.classes)

    @property
    def num_classes(self) -> int:
        """The number of folders."""
        return len(self.classes)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training images, shuffled and augmented."""
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True, **self._workers())

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation images."""
        return DataLoader(self.val_set, batch_size=self.batch_size, **self._workers())

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the validation images."""
        return self.val_dataloader()

    def _workers(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}


def split_folders(
    root: Path, augment: Callable[..., Tensor], resize: Callable[..., Tensor], val_fraction: float, seed: int
) -> tuple[Subset[Any], Subset[Any]]:
    """Return the training and the validation images of a folder."""
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = ImageFolder(root / "train", augment), ImageFolder(root / "val", resize)
        if train.classes != val.classes:
            odd = sorted(set(train.classes) ^ set(val.classes))
            raise ValueError(
                f"Expected the same classes in {root / 'train'} and {root / 'val'}, but not in both: {odd}."
            )
        return Subset(train, range(len(train))), Subset(val, range(len(val)))
    if (root / "train").is_dir() or (root / "val").is_dir():
        raise ValueError(
            f"Expected both `train` and `val` in {root}, or the folders of the classes, got one of the two."
        )
    train, val = ImageFolder(root, augment), ImageFolder(root, resize)
    if len(val.classes) < 2:
        raise ValueError(f"Expected at least two classes, a folder each, in {root}, got {val.classes}.")
    num_val = round(val_fraction * len(val))
    if not 0 < num_val < len(val):
        raise ValueError(f"Expected `val_fraction` to leave images on both sides of {len(val)}, got {val_fraction}.")
    order = torch.randperm(len(val), generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(train, sorted(order[num_val:])), Subset(val, sorted(order[:num_val]))


def files_of(images: Subset[Any]) -> list[str]:
    """Return the files of a part of a folder, in their order."""
    folder: Any = images.dataset
    return [folder.samples[index][0] for index in images.indices]


class Masked(Subset[Any]):
    """Images whose items have a third entry: which pixels are the object's, none where that is not known.

    Args:
        images: A part of a folder.
        boxes: The boxes of some of its images, by their paths in the folder, from 0 to 1.
        size: Height and width of the masks.
    """

    def __init__(self, images: Subset[Any], boxes: dict[str, list[list[float]]], size: int) -> None:
        super().__init__(images.dataset, images.indices)
        folder: Any = images.dataset
        self.paths = [Path(path).relative_to(folder.root).as_posix() for path in files_of(images)]
        self.boxes = boxes
        self.size = size
        if not boxes.keys() & set(self.paths):
            raise ValueError(f"Expected boxes of images in {folder.root}, got those of {list(boxes)[:3]}.")

    def __getitem__(self, idx: Any) -> tuple[Tensor, int, Tensor]:
        """Return an image, its class, and its mask."""
        image, label = self.dataset[self.indices[idx]]
        boxes = torch.tensor(self.boxes.get(self.paths[idx], []), dtype=torch.float32).reshape(-1, 4) * self.size
        return image, label, boxes_to_masks([boxes.round()], (self.size, self.size))[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return the items of a batch."""
        return [self[index] for index in indices]


class BoxMetrics(L.Callback):
    """Logs how much of the class maps lies on the objects, over the validation images whose boxes are known.

    Logged are `val_energy_in_box`, the fraction of the map of the image's class that lies in its boxes, which is
    `val_area_of_box` for a map that is the same everywhere, and `val_pointing_game`, how often its maximum does.
    """

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Measure a batch that has masks."""
        classifier: Any = pl_module
        images, labels, masks = (*batch, None)[:3]
        if masks is None or not (known := masks.flatten(1).any(1)).any():
            return
        images, labels, masks = images[known], labels[known], masks[known]
        class_maps = classifier.class_maps(images)[range(len(labels)), labels, None]
        heatmaps = to_heatmaps(class_maps, images.shape[2:])
        for name, values in (
            ("energy_in_box", energy_inside(heatmaps, masks).nan_to_num(0.0)),  # a blank map lies nowhere
            ("pointing_game", pointing_game(heatmaps, masks).float()),
            ("area_of_box", masks.float().mean((1, 2, 3))),
        ):
            pl_module.log(f"val_{name}", values.mean(), batch_size=len(values))


class BoxWriter(L.Callback):
    """Writes `boxes.csv` into the logger's folder, a row for each image: its file, class, probability and box."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the table."""
        self.path = Path(trainer.log_dir or ".", "boxes.csv")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[list[Any]] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Add the batch's rows."""
        loader: Any = trainer.predict_dataloaders
        images: Subset[Any] = loader.dataset
        folder: Any = images.dataset
        prediction: CAMPrediction = outputs
        height, width = prediction.heatmaps.shape[2:]
        done = len(self.rows)
        probabilities = prediction.logits.softmax(1).amax(1)
        for path, name, probability, box, found in zip(
            files_of(images)[done : done + len(prediction.boxes)],
            [folder.classes[index] for index in prediction.classes.tolist()],
            probabilities.tolist(),
            prediction.boxes.cpu(),
            prediction.found.tolist(),
            strict=True,
        ):
            with Image.open(path) as photo:
                scale = torch.tensor(photo.size * 2) / torch.tensor([width, height] * 2)
            corners = (box * scale).round().int().tolist() if found else [""] * 4
            self.rows.append([path, name, f"{probability:.4f}", *corners])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table."""
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "class", "probability", "x1", "y1", "x2", "y2"], *self.rows])
        print(f"Boxes: {self.path}")


class AsWritten(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with the lines of the description as they are written."""


class CommandLine(LightningCLI):
    """LightningCLI with the number of classes taken from the data, the class maps logged, and the data asked first."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return what can be run."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a person sets first, and the many options of the Trainer last."""
        parser.add_lightning_class_args(ImageFolders, "data")
        parser.add_lightning_class_args(CAMClassifier, "model")
        parser.add_lightning_class_args(CAMCallback, "cam")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(L.Trainer, "trainer")
        parser.set_defaults({f"trainer.{option}": value for option, value in TRAINER_DEFAULTS.items()})
        parser.set_defaults({"checkpoint.monitor": "val_loss", "checkpoint.filename": "best"})
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("model.image_size", "data.image_size")  # a checkpoint knows the model's

    def before_fit(self) -> None:
        """Lay the network out channels last, in which convolutions on a CPU are about twice as fast."""
        self.model.to(memory_format=torch.channels_last)

    def after_fit(self) -> None:
        """Print what was measured after the last epoch."""
        measured = {name: value for name, value in self.trainer.callback_metrics.items() if name.startswith("val_")}
        print("After the last epoch: " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(measured.items())))

    def before_predict(self) -> None:
        """Refuse an untrained network."""
        self._needs_checkpoint()

    def before_validate(self) -> None:
        """Refuse an untrained network."""
        self._needs_checkpoint()

    def _needs_checkpoint(self) -> None:
        if not self.config[self.subcommand].ckpt_path:
            self.parser.error(f"{self.subcommand} needs a trained network: --ckpt_path FILE")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    usage = "train_gap.py {} --data.root FOLDER [options]"
    CommandLine(
        CAMClassifier,
        ImageFolders,
        trainer_defaults={"callbacks": [BoxMetrics(), BoxWriter()]},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={
            "description": __doc__,
            "formatter_class": AsWritten,
            **{name: {"usage": usage.format(name), "description": does} for name, does in COMMANDS.items()},
        },
        args=arguments,
    )


if __name__ == "__main__":
    main()
