"""Catch a network that learns a shortcut: accuracy does not tell, where it looks does, and an alarm stops the run.

Every image is a handwritten digit among clutter, as in `cluttered_digits.py`, and somewhere beside it a small colored
square. In a share `p` of the training images the square's color goes with the class. Two networks are trained, with
p = 0 and with p = 0.95. On validation images that have the shortcut too, which is all that a person may have, both are
right almost always. `energy_in_box`, the share of the heatmap that is on the digit, tells them apart
after the first epoch, and Lightning's own `EarlyStopping` takes it for an alarm.

    python examples/shortcut.py                          # one to two minutes on two CPU cores
    python examples/shortcut.py --small                  # ten seconds, to see that everything works
    python examples/shortcut.py --docs docs --seeds 5    # docs/shortcut.md, so long for each seed
    tensorboard --logdir logs/shortcut                   # the runs side by side
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import pytorch_lightning as L
import torch
from cluttered_digits import CANVAS, ClutteredDigits, ClutteredDigitsDataModule, DigitClassifier, conv_block
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import box_area

from lightning_saliency import SaliencyCallback, Style, load_record
from lightning_saliency.callbacks import Execution, Metrics, Samples
from lightning_saliency.history import Record
from lightning_saliency.visualization import filmstrip

PATCH = 6
GAP = 2  # pixels between the patch and the digit's box, at least
COLORS = torch.tensor(
    [
        (1.0, 0.0, 0.0),  # red
        (1.0, 0.55, 0.0),  # orange
        (1.0, 1.0, 0.0),  # yellow
        (0.0, 0.9, 0.0),  # green
        (0.0, 0.45, 0.1),  # dark green
        (0.0, 1.0, 1.0),  # cyan
        (0.1, 0.3, 1.0),  # blue
        (0.55, 0.2, 1.0),  # violet
        (1.0, 0.0, 1.0),  # magenta
        (0.6, 0.3, 0.1),  # brown
    ]
)
SHORTCUT = 0.95

WITH_SHORTCUT, CLEAN = "accuracy/with_shortcut", "accuracy/clean"
ENERGY, POINTING = "saliency_grad_cam_energy_in_box", "saliency_grad_cam_pointing_game"

ALARM = 2.0  # below so many times the energy of an even heatmap
BLUE, VERMILION = "#0072b2", "#d55e00"


@dataclass(frozen=True)
class Size:
    """How much of everything; of the validation images so many are explained in each epoch."""

    num_train: int
    num_val: int
    num_measured: int
    epochs: int


FULL, SMALL = Size(4000, 1000, 500, 8), Size(1000, 100, 100, 2)


class PatchedDigits(TensorDataset):
    """Cluttered digits in RGB, each with a colored square of 6×6 pixels at a random place beside the digit.

    An item is `(image, label, box)`, as of `ClutteredDigits`, with an image of `(3, 64, 64)`. The square is at least
    two pixels away from the digit's box. It covers clutter that was there.

    Args:
        digits: The gray images.
        shortcut: The probability that the color is the class's; else it is any of the ten, whatever the class.
        seed: Decides places and colors. The same seed gives the same places, whatever `shortcut` is.
    """

    classes = ClutteredDigits.classes

    def __init__(self, digits: ClutteredDigits, shortcut: float, seed: int | Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        gray, labels, boxes = digits.tensors
        images = gray.repeat(1, 3, 1, 1)
        places = [place_beside(box, rng) for box in boxes.tolist()]
        follows, others = rng.random(len(images)) < shortcut, rng.integers(10, size=len(images))
        colors = torch.where(torch.from_numpy(follows), labels, torch.from_numpy(others))
        for image, (x, y), color in zip(images, places, COLORS[colors], strict=True):
            image[:, y : y + PATCH, x : x + PATCH] = color[:, None, None]
        super().__init__(images, labels, boxes)


def place_beside(box: Sequence[int], rng: np.random.Generator) -> tuple[int, int]:
    """Return the upper left corner `(x, y)` of a patch that keeps its distance from a box, all such places alike."""
    x1, y1, x2, y2 = box
    while True:
        x, y = (int(offset) for offset in rng.integers(CANVAS - PATCH + 1, size=2))
        if x + PATCH + GAP <= x1 or x2 + GAP <= x or y + PATCH + GAP <= y1 or y2 + GAP <= y:
            return x, y


@dataclass(frozen=True)
class Data:
    """What one network is trained on, and the two validation sets: the same images, but for the squares' colors.

    Attributes:
        train: The training images.
        with_shortcut: The color is always the class's.
        clean: The color has nothing to do with the class.
    """

    train: PatchedDigits
    with_shortcut: PatchedDigits
    clean: PatchedDigits

    @classmethod
    def compose(cls, shortcut: float, num_train: int, num_val: int, seed: int) -> Data:
        """Compose all images."""
        digits = ClutteredDigitsDataModule(num_train, num_val, seed=seed)
        digits.setup("fit")
        return cls(
            PatchedDigits(digits.train_set, shortcut, seed=(seed, 2)),
            PatchedDigits(digits.val_set, 1.0, seed=(seed, 3)),
            PatchedDigits(digits.val_set, 0.0, seed=(seed, 3)),
        )

    @property
    def even(self) -> float:
        """The digits' share of the image, which is what `energy_in_box` is of a heatmap that is the same everywhere."""
        return float(box_area(self.with_shortcut.tensors[2].float()).mean()) / CANVAS**2


class ShortcutClassifier(DigitClassifier):
    """The demo's network for colors, with heatmaps of 16×16 in place of 8×8, which tell the square from the digit."""

    def __init__(self) -> None:
        super().__init__(learning_rate=3e-3, in_channels=3)
        to_16 = self.features[:5]  # up to the second pooling
        self.features = nn.Sequential(*to_16, conv_block(48, 96)).to(memory_format=torch.channels_last)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the accuracy on each of the two sets."""
        images, labels, _ = batch
        logits = self(images)
        right = (logits.argmax(1) == labels).float().mean()
        self.log((WITH_SHORTCUT, CLEAN)[dataloader_idx], right, add_dataloader_idx=False, batch_size=len(labels))


class Curves(L.Callback):
    """Keeps what Lightning's own callbacks can monitor: some scalars, epoch by epoch."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {name: [] for name in (WITH_SHORTCUT, CLEAN, ENERGY, POINTING)}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the values of this epoch."""
        if not trainer.sanity_checking:
            for name, values in self.values.items():
                values.append(trainer.callback_metrics[name].item())


@dataclass(frozen=True)
class Run:
    """What one training has shown.

    Attributes:
        shortcut: The probability that the color is the class's.
        alarmed: Whether the alarm could stop it.
        stopped: Whether it did.
        curves: By scalar its values, one an epoch.
        record: What the callback has kept of it.
    """

    shortcut: float
    alarmed: bool
    stopped: bool
    curves: dict[str, list[float]]
    record: Record

    @property
    def name(self) -> str:
        """What it is called."""
        return f"p={self.shortcut:g}"

    @property
    def epochs(self) -> int:
        """How many epochs it ran."""
        return len(self.curves[ENERGY])

    def starts_like(self, other: Run) -> bool:
        """Whether its curves, as far as they go, are those of another run, to the last bit."""
        return all(values == other.curves[name][: self.epochs] for name, values in self.curves.items())


@dataclass(frozen=True)
class Trial:
    """The runs of one seed.

    Attributes:
        seed: Decides images, weights and order.
        even: What `energy_in_box` is of an even heatmap.
        good: Without a shortcut, the alarm on.
        caught: With the shortcut, the alarm on.
        bad: The same with the alarm off, to see what would have come.
    """

    seed: int
    even: float
    good: Run
    caught: Run
    bad: Run

    @property
    def threshold(self) -> float:
        """What `energy_in_box` has to stay above."""
        return ALARM * self.even


def train(data: Data, shortcut: float, size: Size, seed: int, output: str, *, alarmed: bool) -> Run:
    """Train one network from scratch; the seed decides weights and order."""
    L.seed_everything(seed, verbose=False)
    saliency = SaliencyCallback(
        "grad_cam",
        # of the images with the shortcut, whose boxes the batch has as its third entry
        samples=Samples(num=4, choose="per_class", dataloader_idx=0, objects=lambda batch: batch[2]),
        metrics=Metrics(["energy_in_box", "pointing_game"], samples=size.num_measured),
        style=Style(mean=0.0, std=1.0),
        execution=Execution(on_error="raise"),
    )
    # patience would ask whether the eye still gets better, not where it is: no run is stopped by that
    alarm = EarlyStopping(ENERGY, mode="max", divergence_threshold=ALARM * data.even, patience=size.epochs)
    curves = Curves()
    folder = f"shortcut/p={shortcut:g}{' with alarm' if alarmed else ''}"
    logger = TensorBoardLogger(output, name=folder, default_hp_metric=False)
    trainer = L.Trainer(
        max_epochs=size.epochs,
        logger=logger,
        callbacks=[saliency, curves, *([alarm] if alarmed else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    trainer.fit(
        ShortcutClassifier(),
        DataLoader(data.train, batch_size=32, shuffle=True),
        [DataLoader(part, batch_size=250) for part in (data.with_shortcut, data.clean)],
    )
    return Run(shortcut, alarmed, trainer.should_stop, curves.values, load_record(logger.log_dir))


def try_out(size: Size, seed: int, output: str) -> Trial:
    """Train the good network and the bad one, this once with the alarm and once to the end."""
    independent, correlated = (
        Data.compose(shortcut, size.num_train, size.num_val, seed) for shortcut in (0.0, SHORTCUT)
    )
    return Trial(
        seed,
        independent.even,
        good=train(independent, 0.0, size, seed, output, alarmed=True),
        caught=train(correlated, SHORTCUT, size, seed, output, alarmed=True),
        bad=train(correlated, SHORTCUT, size, seed, output, alarmed=False),
    )


def table(trials: Sequence[Trial]) -> str:
    """Return a row a run in Markdown: what is measured after its last epoch, and what its alarm did."""
    lines = [
        "| seed | run | epochs | accuracy with the shortcut | clean accuracy | `energy_in_box` | its lowest "
        "| pointing game | alarm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for trial in trials:
        for run in (trial.good, trial.caught, trial.bad):
            shares = {name: percent(values[-1]) for name, values in run.curves.items()}
            columns = [str(trial.seed), run.name, str(run.epochs), shares[WITH_SHORTCUT], shares[CLEAN]]
            columns += [f"{run.curves[ENERGY][-1]:.3f}", f"{min(run.curves[ENERGY]):.3f}", shares[POINTING]]
            columns.append("off" if not run.alarmed else f"epoch {run.epochs - 1}" if run.stopped else "never")
            lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def draw(trial: Trial) -> Figure:
    """Return the curves: the accuracies, and where the eye is."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    accuracies, eyes = figure.subplots(1, 2)
    for run, color in ((trial.good, BLUE), (trial.bad, VERMILION)):
        untrained = run.record[0].scalars
        for scalar, style, label in ((WITH_SHORTCUT, "-", "with the shortcut"), (CLEAN, "o--", "clean")):
            label = f"{run.name}, {label}"
            accuracies.plot(range(run.epochs), run.curves[scalar], style, color=color, markersize=4, label=label)
        for scalar, style in ((ENERGY, "-"), (POINTING, "o--")):
            name = scalar.removeprefix("saliency_grad_cam_")
            values = [untrained[f"grad_cam/{name}"], *run.curves[scalar]]
            label = f"{run.name}, {name}"
            eyes.plot(range(-1, run.epochs), values, style, color=color, markersize=4, label=label)
    eyes.axhline(trial.threshold, color="black", linewidth=1, linestyle=":", label=f"alarm below {trial.threshold:.3f}")
    if trial.caught.stopped:
        at, energy = trial.caught.epochs - 1, trial.caught.curves[ENERGY][-1]
        eyes.plot(at, energy, "*", color="black", markersize=14, zorder=3, label=f"the alarm, after epoch {at}")
    epochs = range(trial.bad.epochs)
    accuracies.set_xticks(epochs)
    eyes.set_xticks([-1, *epochs], ["un-\ntrained", *map(str, epochs)])
    accuracies.set_title("Accuracy")
    eyes.set_title("Where it looks, on images with the shortcut")
    for axis in (accuracies, eyes):
        axis.set(ylim=(-0.02, 1.02), xlabel="epoch")
        axis.grid(alpha=0.25)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    return figure


def film(trial: Trial) -> Image.Image:
    """Return the filmstrips of the bad run and of the good one, which show the same images, one below the other."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf")), 22)
    strips = [
        (title, filmstrip(run.record, "grad_cam", max_columns=9).permute(1, 2, 0).numpy())
        for title, run in (
            (f"{trial.bad.name}: the square's color goes with the digit", trial.bad),
            (f"{trial.good.name}: it does not", trial.good),
        )
    ]
    head = 40
    sheet = Image.new("RGB", (strips[0][1].shape[1], sum(head + len(strip) for _, strip in strips)), "white")
    top = 0
    for title, strip in strips:
        ImageDraw.Draw(sheet).text((26, top + 12), title, font=font, fill="black")
        sheet.paste(Image.fromarray(strip), (0, top + head))
        top += head + len(strip)
    return sheet


def write_page(folder: Path, trials: Sequence[Trial], size: Size, command: str) -> None:
    """Write the page, with the figures of these trials and pictures of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(trials[0]).savefig(folder / "shortcut_curves.png", dpi=110)
    film(trials[0]).save(folder / "shortcut_filmstrip.jpg", quality=80)
    paragraphs = [
        text if text.startswith(("#", "-", "|", "!", "```")) else fill(text, 119, break_on_hyphens=False)
        for text in page(trials, size, command).split("\n\n")
    ]
    (folder / "shortcut.md").write_text("\n\n".join(paragraphs), encoding="utf-8")


def page(trials: Sequence[Trial], size: Size, command: str) -> str:
    """Return the page in Markdown; of `--small` its figures are right, and its words too large."""
    first = trials[0]
    good, caught, bad = first.good, first.caught, first.bad
    untrained = bad.record[0].scalars["grad_cam/energy_in_box"]
    stopped = [trial for trial in trials if trial.caught.stopped]
    false_alarms = sum(trial.good.stopped for trial in trials)
    lowest_good = min(min(trial.good.curves[ENERGY]) for trial in trials)
    highest_bad = max(trial.caught.curves[ENERGY][-1] for trial in trials)
    highest_left = max(max(trial.bad.curves[ENERGY]) for trial in trials)
    above = [epoch for epoch, energy in enumerate(bad.curves[ENERGY]) if energy > first.threshold]
    energies, accuracies = (
        [value for trial in trials for value in trial.bad.curves[scalar]] for scalar in (ENERGY, CLEAN)
    )
    with np.errstate(invalid="ignore"):  # of one epoch there is none
        together = np.corrcoef(energies, accuracies)[0, 1]
    repeated = all(trial.caught.starts_like(trial.bad) for trial in trials)
    which = f"the one with {bad.name}"
    stopping = f"stops {which} after epoch {caught.epochs - 1}" if caught.stopped else f"does not stop {which}"
    return f"""# A shortcut, caught by where the network looks

A network that has found a shortcut is right for the wrong reason, and validation data that has the shortcut too cannot
tell. Here two networks are trained, one of them on data with a planted shortcut. Accuracy says that this one is the
better of the two. Where it looks says the opposite, after one epoch and without any clean data, and Lightning's own
`EarlyStopping` acts on it. The command that makes this page, one to two minutes on two CPU cores for each seed:

```bash
{command}
```

The same command gives the same figures; another processor, or another number of threads, gives slightly different ones.

## The task

An image of 64×64 pixels holds a handwritten digit among pieces of others (those of
`examples/cluttered_digits.py`) and, at a random place at least {GAP} pixels away
from the digit's box, a colored square of {PATCH}×{PATCH}. A small CNN learns the digit's class from {size.num_train}
images in {size.epochs} epochs. Two runs have the same seed, and so the same weights to begin with, and the same images
but for the colors of the squares:

- **{good.name}**: the color is any of ten, whatever the digit is.
- **{bad.name}**: with this probability the color is the digit's own, a shortcut; else it is any of the ten.

There are two validation sets, of the same {size.num_val} images but for the colors. *With the shortcut*, the color is
always the digit's own: this is what a person has whose validation data comes from where the training data comes from.
*Clean*, the color has nothing to do with the digit. The callback and the alarm see the first alone; the second is here
to tell, in the end, who was right.

## What accuracy says, and what the eye says

![Accuracy, and where the networks look, epoch by epoch](shortcut_curves.png)

On the validation data with the shortcut, {good.name} ends at {percent(good.curves[WITH_SHORTCUT][-1])} and
{bad.name} at {percent(bad.curves[WITH_SHORTCUT][-1])}: nothing to worry about. On clean images it is
{percent(good.curves[CLEAN][-1])} (the two blue curves of the left panel lie on each other) and
{percent(bad.curves[CLEAN][-1])}.

`xai_saliency/grad_cam/energy_in_box` is the share of a Grad-CAM heatmap that lies in the digit's box, as a mean over
{size.num_measured} images *with* the shortcut. A heatmap that is the same everywhere has {first.even:.3f}, the boxes'
share of the image; the untrained network has {untrained:.3f}. After the first epoch, {good.name} has
{good.curves[ENERGY][0]:.3f} and {bad.name} has {bad.curves[ENERGY][0]:.3f}. In the pointing game, which asks
whether the heatmap's maximum is in the box, it is {percent(good.curves[POINTING][0])} against
{percent(bad.curves[POINTING][0])}. The filmstrips show it, on images with the shortcut: where the untrained network has
its eye on this and that, digit, clutter and square, one network looks at the digit, and the other leaves it for the
square.

![Grad-CAM of the two runs on the same four images, from the untrained network on](shortcut_filmstrip.jpg)

Later the second network's eye comes back in part, and the filmstrip shows that as well. In
{percent((1 - bad.shortcut) * 0.9)} of its training images the square has another digit's color, and only the digit
helps there. `energy_in_box` follows what the network can do on clean images, without having seen one: over all epochs
of the runs with {bad.name}, its correlation with the clean accuracy is {together:.2f}.

## The alarm

```python
from pytorch_lightning.callbacks import EarlyStopping
from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Metrics, Samples
saliency = SaliencyCallback(
    "grad_cam",
    samples=Samples(
        dataloader_idx=0,  # the images with the shortcut
        objects=lambda batch: batch[2],  # the digits' boxes
    ),
    metrics=Metrics(samples={size.num_measured}),  # so many of them are measured
)
alarm = EarlyStopping(
    "saliency_grad_cam_energy_in_box",
    mode="max",
    divergence_threshold={first.threshold:.3f},  # {ALARM:g} times the boxes' share of the image
    patience={size.epochs},  # as many as there are epochs: patience never stops a run
)
```

Both runs have it. It {"stops" if good.stopped else "never stops"} the one with {good.name}, and {stopping}: the
network then reads {percent(caught.curves[CLEAN][-1])} of the clean digits, where guessing reads 10 %. Its accuracy with
the shortcut is {percent(caught.curves[WITH_SHORTCUT][-1])} at that moment, against
{percent(good.curves[WITH_SHORTCUT][: caught.epochs][-1])} of the other, so that whoever goes by accuracy would stop the
wrong one. What the curves show after the alarm is from a third training, the same with the alarm off. As far as the
stopped one went, the figures of both are {"the same to the last bit" if repeated else "nearly the same"}.

**The threshold.** It is {ALARM:g} times what an even heatmap has, and so is known before any training. This was settled
while the example was tried out, on the seeds 0, 1 and 2; further ones came after that. Each seed below has its own
images and weights. Of the runs with the shortcut the alarm stopped {len(stopped)} of {len(trials)}, after epoch
{epochs_of(stopped)}; of those without it, {false_alarms} of {len(trials)}. The highest value that raised it is
{highest_bad:.3f}, and the lowest that any run with {good.name} has had is {lowest_good:.3f}: every threshold
between them would have done the same. But it has to be asked early. Left to itself, the run with {bad.name} is above it
{f"after epoch {above[0]} for the first time" if above else "after no epoch"}. The highest value that any such run comes
to is {highest_left:.3f}; a threshold between this and {lowest_good:.3f} would tell the two apart at any time, but that
is known only now.

**Not by patience.** `EarlyStopping` more often asks whether a value still improves. That is no alarm here: with
{good.name} `energy_in_box` is at its best after epoch {best_epoch(good)} and never again, while with {bad.name} it
goes on growing, from next to nothing, until epoch {best_epoch(bad)}. What tells is where the eye is, not whether it
moves.

## All figures

What each run had after its last epoch, and the lowest `energy_in_box` of all its epochs; epochs are counted from 0.

{table(trials)}

## What this needs, and what it does not show

- Boxes, or masks, of some hundreds of validation images; but no clean data, and no idea of what the shortcut may be.
- A shortcut that is not on the object: one inside the box leaves `energy_in_box` as it is.
- Heatmaps that are fine enough to tell the two apart. These are 16×16, from a network whose last layer sees 35 of the
  64 pixels. With the demo's own network, 8×8 and a field of view larger than the image, the runs were not as far apart.
- One kind of shortcut, and one that is easier to learn than the task. One that is learned late would be caught late.
"""


def percent(share: float) -> str:
    """Return a share as a person reads it."""
    return f"{100 * share:.1f} %"


def best_epoch(run: Run) -> int:
    """Return the epoch after which the eye was most on the digit."""
    return int(np.argmax(run.curves[ENERGY]))


def epochs_of(stopped: Sequence[Trial]) -> str:
    """Return the epochs after which the alarm stopped a run."""
    return ", ".join(str(epoch) for epoch in sorted({trial.caught.epochs - 1 for trial in stopped})) or "none"


def main(argv: Sequence[str] | None = None) -> list[Trial]:
    """Train all networks, and print the table."""
    args = parse_arguments(argv)
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the images are in memory: none are needed
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # between Lightning and PyTorch
    size = SMALL if args.small else FULL
    trials = []
    for seed in range(args.seed, args.seed + args.seeds):
        trials.append(try_out(size, seed, args.output))
        print(f"{table(trials[-1:])}\n", flush=True)
    if args.docs:
        options = [
            *(["--small"] if args.small else []),
            *([f"--seed {args.seed}"] if args.seed else []),
            *([f"--seeds {args.seeds}"] if args.seeds > 1 else []),
        ]
        write_page(Path(args.docs), trials, size, " ".join(["python examples/shortcut.py --docs docs", *options]))
    return trials


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train with a shortcut and without, and let EarlyStopping stop the run that looks at the shortcut."
    )
    parser.add_argument("--small", action="store_true", help="1000 training images and 2 epochs: seconds, for a test")
    parser.add_argument("--seed", type=int, default=0, help="decides images, weights and order (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="try so many seeds, from --seed on (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", default="logs", help="where to write (default: %(default)s)")
    parser.add_argument("--docs", metavar="DIR", help="also write shortcut.md and its pictures here")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
