"""How well a classifier's maps localise: Table 2 of the CAM paper (Zhou et al. 2016) in small, on cluttered digits.

One backbone with three heads learns to read the digit, and is never told where it is:

- GAP: a 3×3 convolution, global average pooling and one linear layer; boxes from CAM
- GMP: the same with global maximum pooling; boxes from CAM
- FC: the same convolution, then fully connected layers; boxes from Grad-CAM, Grad-CAM++ and backprop, which is
  gradient saliency

As in the paper a box is drawn around the largest region above 20 % of the map's maximum, for the predicted class.

    python examples/localisation_table.py            # a quarter of an hour on two CPU cores
    python examples/localisation_table.py --small    # a minute, to see that everything works
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev

import pytorch_lightning as L
import torch
from cluttered_digits import ClutteredDigits, ClutteredDigitsDataModule, DigitClassifier, points_at
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torchvision.ops import box_area

from lightning_saliency import METHODS, CAMClassifier, explain, heatmaps_to_boxes
from lightning_saliency.metrics import THRESHOLDS, box_overlap
from lightning_saliency.render import overlay, to_rgb

UNITS = 96
HEADS = {"GAP": ("cam", "saliency"), "GMP": ("cam",), "FC": ("grad_cam", "grad_cam_plus_plus", "saliency")}


@dataclass(frozen=True)
class Figures:
    """What is measured on the whole validation set, for the predicted class; shares but for the threshold.

    Attributes:
        classification_error: Images whose class is wrong.
        localisation_error: Images whose class is wrong or whose box, at 20 % of the maximum, has an IoU below 0.5.
        best_localisation_error: The same at the threshold that suits the map best (MaxBoxAcc, Choe et al. 2020).
        best_threshold: That threshold.
        hits: Images whose heatmap has its maximum inside the box (the pointing game, Zhang et al. 2016).
        mean_iou: The mean IoU of the boxes at 20 %.
        relative_area: The median of their areas, as a share of the digit's box.
    """

    classification_error: float
    localisation_error: float
    best_localisation_error: float
    best_threshold: float
    hits: float
    mean_iou: float
    relative_area: float


def fully_connected() -> nn.Sequential:
    """Return the head of a network before CAM: two hidden layers that see each place on its own."""
    return nn.Sequential(
        nn.MaxPool2d(4),  # 16×16 → 4×4
        nn.Flatten(),
        nn.Linear(UNITS * 4 * 4, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def train(head: str, data: ClutteredDigitsDataModule, seed: int, epochs: int) -> CAMClassifier:
    """Train the backbone with a head, from scratch."""
    L.seed_everything(seed, verbose=False)
    model = CAMClassifier(
        10,
        DigitClassifier().features,
        resolution=16,  # one stage less than the demo's network: the digit is five of these wide
        hidden=UNITS,
        pooling="max" if head == "GMP" else "avg",
        in_channels=1,
        image_size=64,
        learning_rate=1e-3,
        backbone_learning_rate=1e-3,
    )
    if head == "FC":
        model.model.set_submodule("head", fully_connected())
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=data)
    return model


def measure(model: nn.Module, methods: Sequence[str], val_set: ClutteredDigits) -> dict[str, Figures]:
    """Explain the predicted class of all validation images, and compare the boxes with the digits'."""
    images, labels, boxes = val_set.tensors
    explanation = explain(model, images, methods=methods, chunk_size=100)
    correct = explanation.predictions == labels
    figures = {}
    for method, heatmaps in explanation.heatmaps().items():
        overlaps = dict(zip(THRESHOLDS, box_overlap(heatmaps, boxes, THRESHOLDS).T, strict=True))
        areas = box_area(heatmaps_to_boxes(heatmaps)[0]) / box_area(boxes.float())
        errors = {at: 1 - share(correct & (found >= 0.5)) for at, found in overlaps.items()}
        best = min(errors, key=errors.__getitem__)
        figures[method] = Figures(
            classification_error=1 - share(correct),
            localisation_error=errors[0.2],
            best_localisation_error=errors[best],
            best_threshold=best,
            hits=share(points_at(boxes, heatmaps)),
            mean_iou=overlaps[0.2].mean().item(),
            relative_area=areas.median().item(),
        )
    return figures


def share(condition: Tensor) -> float:
    """Return the share of the images for which something holds."""
    return condition.float().mean().item()


def table(runs: Sequence[dict[tuple[str, str], Figures]]) -> str:
    """Return the table in Markdown: mean ± standard deviation over the runs."""
    lines = [
        "| network | boxes from | classification error | localisation error | … at its best threshold | pointing game "
        "| mean IoU | area of the box / of the digit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, method in runs[0]:
        values = {field.name: [getattr(run[network, method], field.name) for run in runs] for field in fields(Figures)}
        best = f"{spread(values['best_localisation_error'])} (at {mean(values['best_threshold']):.0%})"
        title = "backprop" if method == "saliency" else METHODS[method].title
        columns = [network, title, spread(values["classification_error"]), spread(values["localisation_error"]), best]
        columns += [spread(values[name]) for name in ("hits", "mean_iou", "relative_area")]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, in percent."""
    return f"{100 * mean(values):.1f} ± {100 * stdev(values) if len(values) > 1 else 0:.1f}"


def draw(models: dict[str, nn.Module], val_set: ClutteredDigits, num_images: int = 4) -> Figure:
    """Return a figure of the boxes at 20 %: the digit's in white, the map's in magenta."""
    images, _, true_boxes = (tensor[:num_images] for tensor in val_set.tensors)
    columns: dict[str, Tensor | None] = {"image": None}
    for head, model in models.items():
        for method, heatmaps in explain(model, images, methods=HEADS[head]).heatmaps().items():
            columns[f"{head}\n{'backprop' if method == 'saliency' else METHODS[method].title}"] = heatmaps
    figure = Figure(figsize=(1.5 * len(columns), 1.5 * num_images + 0.5), layout="constrained")
    axes = figure.subplots(num_images, len(columns))
    for column, (name, maps) in enumerate(columns.items()):
        pixels = to_rgb(images, 0.0, 1.0) if maps is None else overlay(to_rgb(images, 0.0, 1.0), maps)
        boxes, found = heatmaps_to_boxes(maps) if maps is not None else (true_boxes, torch.zeros(num_images).bool())
        axes[0, column].set_title(name)
        for row in range(num_images):
            axis = axes[row, column]
            axis.imshow(pixels[row].permute(1, 2, 0))
            axis.set_axis_off()
            for (x1, y1, x2, y2), colour in [
                (true_boxes[row], "white"),
                *([(boxes[row], "magenta")] if found[row] else []),
            ]:
                axis.add_patch(
                    Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5)
                )
    return figure


def main(argv: Sequence[str] | None = None) -> str:
    """Train all networks, and print the table."""
    parser = argparse.ArgumentParser(description="Train three heads with three seeds, and compare where they look.")
    parser.add_argument("--small", action="store_true", help="600 images, 2 epochs and 2 seeds: a minute, for a test")
    parser.add_argument("--picture", metavar="FILE", help="where to write a picture of the last seed's boxes")
    args = parser.parse_args(argv)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the images are in memory: none are needed
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # between Lightning and PyTorch
    num_train, num_val, epochs, seeds = (600, 100, 2, 2) if args.small else (8000, 1000, 12, 3)

    runs = []
    for seed in range(seeds):
        data = ClutteredDigitsDataModule(num_train, num_val, seed=seed)
        data.setup("fit")
        models: dict[str, nn.Module] = {}
        run: dict[tuple[str, str], Figures] = {}
        for head, methods in HEADS.items():
            models[head] = train(head, data, seed, epochs)
            run |= {(head, method): found for method, found in measure(models[head], methods, data.val_set).items()}
            print(
                f"seed {seed}, {head}: classification error {run[head, methods[0]].classification_error:.1%}",
                flush=True,
            )
        runs.append(run)
    if args.picture:
        Path(args.picture).parent.mkdir(parents=True, exist_ok=True)
        draw(models, data.val_set).savefig(args.picture, dpi=110)
    text = table(runs)
    print(f"\nIn percent, mean ± standard deviation of {seeds} seeds, {num_val} validation images each:\n\n{text}")
    return text


if __name__ == "__main__":
    main()
