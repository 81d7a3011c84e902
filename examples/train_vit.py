r"""Fine-tune a vision transformer on folders of images, and measure what each method shows of it.

    python examples/train_vit.py --model timm:vit_small_patch14_dinov2 --weights DEFAULT --size 154 \
        --data photos --boxes boxes.json
    tensorboard --logdir logs --samples_per_plugin images=500

The folders and the boxes are those of train_gap.py. First a new linear head is trained alone, then the whole network.
After each of both it is measured how much of each method's map of the image's class lies in its boxes, beside the area
of the boxes, a random map, and a blob in the middle of the image. Any classifier can be named, of torchvision, timm,
Hugging Face or your own; one without attentions needs other --methods.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchmetrics.functional import accuracy
from train_gap import ImageFolders

from lightning_saliency import METHODS, SaliencyCallback, explain
from lightning_saliency.evidence import Forward, read_output
from lightning_saliency.evidence.head import find_head
from lightning_saliency.metrics import energy_inside, pointing_game
from lightning_saliency.models.sources import load_model

FOR_TRANSFORMERS = (
    "attention_relevance",
    "attention_rollout",
    "summed_hires_cam",
    "lrp",
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "eigen_cam",
    "saliency",
    "input_x_gradient",
)
AREA, RANDOM, CENTER = "area of the boxes", "random map", "centered blob"


class FineTuning(L.LightningModule):
    """Trains a classifier with cross-entropy: its head alone, with all else frozen, or the whole network.

    Args:
        model: Returns logits.
        head: The name of the layer in `model` that computes them; None to train the whole network.
        learning_rate: Of what is trained; it falls to 0 over the training.
    """

    def __init__(self, model: nn.Module, head: str | None, learning_rate: float) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.learning_rate = learning_rate
        model.requires_grad_(head is None)
        if head is not None:
            model.get_submodule(head).requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        """Keep a frozen network's dropout off, and its norms' statistics as they are."""
        self.model.train(self.head is None)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, K)` of images `(N, C, H, W)`."""
        return read_output(self.model(images), len(images)).logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it."""
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        logits, labels = self(batch[0]), batch[1]
        self.log("val_loss", cross_entropy(logits, labels))
        self.log("val_accuracy", accuracy(logits, labels, "multiclass", num_classes=logits.shape[1]))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Figures:
    """What is measured of one map, the mean over the images with boxes: fractions.

    Attributes:
        energy_in_box: Of the map, how much lies in the boxes.
        pointing_game: Of the images, in how many the map's maximum does.
    """

    energy_in_box: float
    pointing_game: float


def measure(model: nn.Module, data: ImageFolders, methods: Sequence[str], seed: int = 0) -> dict[str, Figures]:
    """Measure the maps of the images' own classes, and those that know nothing, by what they are called."""
    values: dict[str, list[Tensor]] = {}
    noise = torch.Generator().manual_seed(seed)
    for images, labels, masks in data.val_dataloader():
        known = masks.flatten(1).any(1)
        if not known.any():
            continue
        images, masks = images[known], masks[known]
        maps = explain(model, images, methods=methods, target=labels[known], progress=False).heatmaps()
        maps |= knowing_nothing(images, noise)
        area = masks.float().mean((1, 2, 3))
        values.setdefault(AREA, []).append(torch.stack([area, area], 1))
        for key, heatmaps in maps.items():
            energy = energy_inside(heatmaps, masks).nan_to_num(0.0)  # a blank map lies nowhere
            values.setdefault(key, []).append(torch.stack([energy, pointing_game(heatmaps, masks).float()], 1))
    return {key: Figures(*torch.cat(figures).mean(0).tolist()) for key, figures in values.items()}


def knowing_nothing(images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
    """Return maps `(N, 1, H, W)` that are the same whatever the network has learned."""
    count, size = len(images), images.shape[2:]
    rows, columns = (torch.linspace(-1, 1, side).square() for side in size)
    return {
        RANDOM: interpolate(torch.rand(count, 1, 13, 13, generator=noise), size, mode="bilinear"),
        CENTER: torch.exp(-2 * (rows[:, None] + columns)).expand(count, 1, -1, -1),
    }


def table(stages: dict[str, dict[str, Figures]]) -> str:
    """Return the stages' figures in Markdown, a row a map."""
    titles = [f"{measured}, {stage}" for measured in ("energy in the box", "pointing game") for stage in stages]
    lines = [f"| map | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for key in next(iter(stages.values())):
        figures = [getattr(rows[key], field) for field in Figures.__annotations__ for rows in stages.values()]
        lines.append(f"| {f'`{key}`' if key in METHODS else key} | {' | '.join(f'{x:.2f}' for x in figures)} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="torchvision:NAME, timm:NAME, hf:NAME or package.module:callable")
    add(
        "--weights", help="a file, DEFAULT for timm's or Hugging Face's, or the name of torchvision's; else random ones"
    )
    add("--data", required=True, help="a folder with a folder a class, or with `train` and `val`, which hold those")
    add("--boxes", required=True, help="JSON: the boxes of validation images, in fractions of width and height")
    add("--size", type=int, default=224, help="side of the images; default: 224")
    add("--batch-size", type=int, default=16, help="default: 16")
    add("--head-epochs", type=int, default=10, help="of the new head alone; default: 10")
    add("--epochs", type=int, default=5, help="of the whole network; default: 5")
    add("--head-learning-rate", type=float, default=3e-3, help="default: 0.003")
    add("--learning-rate", type=float, default=2e-5, help="of the whole network; default: 0.00002")
    add("--methods", nargs="+", choices=METHODS, default=FOR_TRANSFORMERS, metavar="METHOD", help="keys of METHODS")
    add("--precision", default="32-true", help="of the training; bf16-mixed is faster on many machines")
    add("--seed", type=int, default=0, help="default: 0")
    add("--output", default="logs", help="the folder of the logs; default: logs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Figures]]:
    """Train, measure, and print a table."""
    options = parse(arguments)
    L.seed_everything(options.seed, verbose=False)
    data = ImageFolders(options.data, options.size, options.batch_size, options.boxes, num_workers=0)
    model = load_model(options.model, options.weights, data.num_classes, size=options.size).model
    head = find_head(Forward(model), data.val_set[0][0][None])
    stages: dict[str, dict[str, Figures]] = {}
    for stage, trained, epochs, learning_rate in (
        ("new head", head, options.head_epochs, options.head_learning_rate),
        ("whole network", None, options.epochs, options.learning_rate),
    ):
        logger = TensorBoardLogger(options.output, "train_vit", f"seed {options.seed}, {stage}")
        trainer = L.Trainer(
            max_epochs=epochs,
            logger=logger,
            callbacks=[SaliencyCallback(options.methods)],
            precision=options.precision,
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(FineTuning(model, trained, learning_rate), datamodule=data)
        print(f"{stage}: accuracy {float(trainer.callback_metrics['val_accuracy']):.3f}")
        stages[stage] = measure(model.cpu().eval(), data, options.methods, options.seed)
    print(table(stages))
    print(f"Look at the maps: tensorboard --logdir {Path(options.output)} --samples_per_plugin images=500")
    return stages


if __name__ == "__main__":
    main()
