"""Watch a small CNN learn where a handwritten digit is, among clutter.

Every image is a real handwritten digit at a random place and size on a canvas that is littered with pieces of other
digits. The network is told *which* digit it is, and never *where* it is. The pictures in TensorBoard show it find out,
epoch after epoch; and since the place is known here, the script counts at the end how often the heatmap points at it.

    python examples/cluttered_digits.py            # a minute or two on two CPU cores
    python examples/cluttered_digits.py --small    # a few seconds, to see that everything works
    tensorboard --logdir logs --samples_per_plugin images=500

The digits are the UCI set that ships inside scikit-learn (`pip install lightning-saliency[examples]`): no downloads.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_saliency import Explanation, GAPHead, SaliencyCallback, explain
from lightning_saliency.callbacks import Samples
from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import pointing_game

CANVAS = 64
DIGIT_SIZES = (20, 24, 28)
NUM_PIECES = 8
PIECE_SIZE = 8
INK = 0.25  # brighter pixels than this are ink: what the bounding box has to hold

Array = NDArray[np.float32]


class ClutteredDigits(TensorDataset):
    """Digits of three sizes at random places on a 64×64 canvas, each among eight pieces cut from other digits.

    An item is `(image, label, box)`: the image `(1, 64, 64)` in [0, 1], the class, and the box `(x1, y1, x2, y2)` that
    just holds the digit's ink, in pixels; `x2` and `y2` are the first column and row outside it.

    Args:
        originals: Handwritten digits `(n, 8, 8)` in [0, 1]; the digits and the pieces are both made from these.
        labels: Their classes `(n,)`.
        num_images: How many images to compose.
        seed: The same seed gives the same images, whatever else draws random numbers; an int or several.
    """

    classes = tuple(str(digit) for digit in range(10))  # SaliencyCallback finds the names for its captions here

    def __init__(self, originals: Tensor, labels: Tensor, num_images: int, seed: int | Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        enlarged = [enlarge(originals, size) for size in DIGIT_SIZES]
        chosen = rng.integers(len(originals), size=num_images)
        images = np.zeros((num_images, 1, CANVAS, CANVAS), dtype=np.float32)
        boxes = np.zeros((num_images, 4), dtype=np.int64)
        for i, digit in enumerate(chosen):
            for _ in range(NUM_PIECES):
                other = (digit + rng.integers(1, len(originals))) % len(originals)  # any but the digit itself
                piece = cut_piece(enlarged[rng.integers(len(enlarged))][other], rng)
                paste(images[i, 0], piece, rng)
            glyph = enlarged[rng.integers(len(enlarged))][digit]
            x, y = paste(images[i, 0], glyph, rng)
            boxes[i] = ink_box(glyph) + np.array([x, y, x, y])
        super().__init__(torch.from_numpy(images), labels[chosen], torch.from_numpy(boxes))


def enlarge(originals: Tensor, size: int) -> Array:
    """Return digits `(n, 8, 8)` as `(n, size, size)`, smooth and still in [0, 1]."""
    enlarged = F.interpolate(originals[:, None], size=(size, size), mode="bicubic", align_corners=False)
    return enlarged[:, 0].clamp(0, 1).numpy()


def cut_piece(glyph: Array, rng: np.random.Generator) -> Array:
    """Return a square of `PIECE_SIZE` pixels from a random place of one digit."""
    y, x = rng.integers(glyph.shape[0] - PIECE_SIZE + 1, size=2)
    return glyph[y : y + PIECE_SIZE, x : x + PIECE_SIZE]


def paste(canvas: Array, patch: Array, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a patch at a random place of the canvas, in place, and return the `(x, y)` of its upper left corner."""
    size = len(patch)
    y, x = (int(offset) for offset in rng.integers(CANVAS - size + 1, size=2))
    spot = canvas[y : y + size, x : x + size]
    np.maximum(spot, patch, out=spot)  # white ink over white ink
    return x, y


def ink_box(glyph: Array) -> NDArray[np.int64]:
    """Return the smallest box `(x1, y1, x2, y2)` that holds all ink of one digit."""
    ink = glyph > INK
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


class ClutteredDigitsDataModule(L.LightningDataModule):
    """Training and validation images, composed from disjoint parts of scikit-learn's 1797 handwritten digits.

    Args:
        num_train: Number of training images, composed from three quarters of the digits.
        num_val: Number of validation images, composed from the remaining quarter.
        batch_size: Images per batch.
        seed: Decides the split and every image.

    Attributes:
        train_set: The training images, after `setup`.
        val_set: The validation images, after `setup`.
    """

    def __init__(self, num_train: int = 8000, num_val: int = 1000, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.num_train = num_train
        self.num_val = num_val
        self.batch_size = batch_size
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Compose all images, once."""
        digits = load_digits()
        originals = torch.tensor(digits.images / 16, dtype=torch.float32)  # the set counts ink from 0 to 16
        labels = torch.tensor(digits.target)
        train, val = train_test_split(range(len(labels)), test_size=0.25, stratify=labels, random_state=self.seed)
        self.train_set = ClutteredDigits(originals[train], labels[train], self.num_train, seed=(self.seed, 0))
        self.val_set = ClutteredDigits(originals[val], labels[val], self.num_val, seed=(self.seed, 1))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the training images, shuffled anew in each epoch."""
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation images, always in the same order."""
        return DataLoader(self.val_set, batch_size=250)


class DigitClassifier(L.LightningModule):
    """Seven convolutions, then global average pooling and one linear layer: a network that CAM can read directly.

    Args:
        learning_rate: The highest learning rate of the one-cycle schedule.
        in_channels: How many channels an image has.
    """

    def __init__(self, learning_rate: float = 1e-2, in_channels: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = nn.Sequential(
            conv_block(in_channels, 24, kernel_size=5, stride=2),  # 64×64 → 32×32
            conv_block(24, 24),
            nn.MaxPool2d(2),  # → 16×16
            conv_block(24, 48),
            conv_block(48, 48),
            nn.MaxPool2d(2),  # → 8×8
            conv_block(48, 96),
            conv_block(96, 96),
            conv_block(96, 96),
        ).to(memory_format=torch.channels_last)  # a fifth faster on a CPU
        self.head = GAPHead(96, num_classes=10)
        self.accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, 10)` of images `(N, in_channels, 64, 64)`."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Learn the class; the box is not looked at."""
        images, labels, _ = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        images, labels, _ = batch
        logits = self(images)
        self.accuracy(logits, labels)
        self.log("val_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW, its learning rate on one cycle over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["learning_rate"], weight_decay=0.05)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.hparams["learning_rate"],
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def conv_block(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def points_at(boxes: Tensor, heatmaps: Tensor) -> Tensor:
    """Return for each heatmap `(N, 1, H, W)` whether its maximum is inside its box `(N, 4)`: the "pointing game"."""
    return pointing_game(heatmaps, boxes_to_masks(boxes, heatmaps.shape[2:]))


@dataclass(frozen=True)
class Result:
    """What the demo measured, on the whole validation set.

    Attributes:
        accuracy: Share of the validation images classified correctly.
        num_correct: Number of those: the images that the hits are counted on.
        hits: For each method, the share of these whose heatmap, of the true class, has its maximum in the digit's box.
        untrained_hits: The same for the same images and classes, by the network as it was before training.
        log_dir: Where the pictures are.
    """

    accuracy: float
    num_correct: int
    hits: dict[str, float]
    untrained_hits: dict[str, float]
    log_dir: str


def main(argv: Sequence[str] | None = None) -> Result:
    """Train, show it in TensorBoard, and count how often the heatmaps point at the digit."""
    args = parse_arguments(argv)
    L.seed_everything(args.seed)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the images are in memory: none are needed
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # between Lightning and PyTorch

    num_train, num_val = (600, 100) if args.small else (8000, 1000)
    data = ClutteredDigitsDataModule(num_train, num_val, seed=args.seed)
    model = DigitClassifier()
    untrained = copy.deepcopy(model)
    logger = TensorBoardLogger(args.output, name="cluttered_digits", default_hp_metric=False)
    trainer = L.Trainer(
        max_epochs=args.epochs or (2 if args.small else 8),
        logger=logger,
        callbacks=[
            SaliencyCallback(
                methods=["cam", "grad_cam", "grad_cam_plus_plus", "saliency"],
                samples=Samples(num=10, choose="per_class", objects=lambda batch: batch[2]),  # the boxes
            )
        ],
        enable_checkpointing=False,
        log_every_n_steps=5 if args.small else 50,
    )
    trainer.fit(model, datamodule=data)

    result = evaluate(model, untrained, data.val_set, logger.log_dir)
    report(result, args.output)
    return result


def evaluate(model: nn.Module, untrained: nn.Module, val_set: ClutteredDigits, log_dir: str) -> Result:
    """Explain all validation images by both networks, and count.

    With a GAP head Grad-CAM is CAM up to a factor (Selvaraju 2017, section 3.1), so their figures agree, but for ties:
    a heatmap that is highest at the border is flat there, and rounding decides which of its pixels is the maximum.
    """
    images, labels, boxes = val_set.tensors
    after, before = (
        explain(network, images, methods=("cam", "grad_cam"), target=labels, chunk_size=100)
        for network in (model, untrained)
    )
    correct = after.logits.argmax(dim=1) == labels

    def hit_rates(explanation: Explanation) -> dict[str, float]:
        return {
            method: points_at(boxes, heatmaps)[correct].float().mean().item()
            for method, heatmaps in explanation.heatmaps().items()
        }

    return Result(
        accuracy=correct.float().mean().item(),
        num_correct=int(correct.sum()),
        hits=hit_rates(after),
        untrained_hits=hit_rates(before),
        log_dir=log_dir,
    )


def report(result: Result, output: str) -> None:
    """Print the figures, the place of the pictures, and the command that shows them."""
    print(f"\nValidation accuracy: {result.accuracy:.1%}")
    print(
        f"The maximum falls inside the digit's box for {percentages(result.hits)} "
        f"of the {result.num_correct} correctly classified validation images "
        f"(untrained: {percentages(result.untrained_hits)})."
    )
    print(f"Pictures: {result.log_dir}")
    print(f"Look at them: tensorboard --logdir {shlex.quote(output)} --samples_per_plugin images=500")


def percentages(rates: dict[str, float]) -> str:
    """Return rates as a person reads them: `cam 99.8%, grad_cam 99.8%`."""
    return ", ".join(f"{method} {rate:.1%}" for method, rate in rates.items())


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a small CNN to read a digit among clutter, and see in TensorBoard where it looks."
    )
    parser.add_argument("--small", action="store_true", help="600 training images and 2 epochs: seconds, for a test")
    parser.add_argument("--epochs", type=int, help="number of epochs (default: 8; with --small: 2)")
    parser.add_argument("--seed", type=int, default=0, help="decides images, weights and order (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", default="logs", help="where to write (default: %(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
