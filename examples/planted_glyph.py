"""Ask every method for an object whose place is known: a planted glyph, five kinds of network, transformers first.

In each image of `glyphs.py` one glyph is the class. A network that is right almost always has found it, and where it
stands is known, so that a heatmap can be wrong: the pointing game asks whether its maximum is on the glyph. With two
class glyphs in one image, a heatmap of one class should mark this one and not the other.

    python examples/planted_glyph.py                # twenty minutes on one CPU core
    python examples/planted_glyph.py --small        # seconds, to see that everything works
    python examples/planted_glyph.py --docs docs    # also write docs/planted_glyph.md and its pictures
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from textwrap import fill

import torch
from glyphs import (
    BATCH,
    CLASSES,
    GLYPH,
    PATCH,
    SIDE,
    Images,
    VisionTransformer,
    convolutional,
    is_right,
    train,
    windowed,
)
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from lightning_saliency import METHODS, explain
from lightning_saliency.attribution import Heatmaps, describe_reading, make_heatmaps
from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import energy_inside, pointing_game
from lightning_saliency.visualization import Caption, Drawing, fit_images, grid, to_pil, to_rgb

CELL_SIDE = 150  # of the pictures: an image's pixels are enlarged four times

METHODS_ASKED = (
    "lrp", "attention_relevance", "summed_hires_cam", "attention_rollout", "cam", "hires_cam", "grad_cam",
    "grad_cam_plus_plus", "layer_cam", "saliency", "input_x_gradient",
)  # fmt: skip


METHODS_SHOWN = (
    "lrp", "attention_relevance", "summed_hires_cam", "attention_rollout", "cam", "hires_cam", "grad_cam", "saliency",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        name: What it is called.
        words: What it is.
        build: Makes one.
        steps: How long it is trained.
        without: The methods that it has no evidence for, and that `explain` refuses for it.
    """

    name: str
    words: str
    build: Callable[[], nn.Module]
    steps: int
    without: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """What is asked of it."""
        return [method for method in METHODS_ASKED if method not in self.without]


KINDS = (
    Kind(
        "ViT, class token", "7×7 patches, width 48, four pre-norm blocks of four heads; the class token is classified",
        partial(VisionTransformer, 1), steps=2000, without=("cam",),
    ),
    Kind(
        "ViT, registers", "the same with four register tokens more",
        partial(VisionTransformer, 5), steps=2000, without=("cam",),
    ),
    Kind(
        "ViT, pooled", "the same without any such token; the mean of the patches is classified",
        partial(VisionTransformer, 0), steps=2000,
    ),
    Kind(
        "Swin", "torchvision's, with two stages, of 14×14 tokens in windows of 7×7 and of 7×7 tokens",
        windowed, steps=1500, without=("attention_relevance", "attention_rollout"),
    ),
    Kind(
        "CNN", "four convolutions and global average pooling, for comparison; the last map is 14×14",
        convolutional, steps=250, without=("attention_relevance", "attention_rollout", "summed_hires_cam"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        num_val: The images that the accuracy is of.
        num_explained: The images with one glyph that are explained, and those with two.
        max_steps: How long a network is trained at most.
    """

    num_val: int
    num_explained: int
    max_steps: int


FULL, SMALL = Size(1000, 200, 10**6), Size(60, 40, 2)


@dataclass(frozen=True)
class Figures:
    """Where one method's heatmaps of one network have their maxima, as fractions of the images.

    Attributes:
        hits: With one class glyph, on it (the pointing game, Zhang et al. 2016).
        energy: The mean share of the heatmap that lies on the glyph (Wang et al. 2020); 0 of a blank one.
        asked: With two class glyphs, on the one whose class is explained.
        other: On the one whose class is not.
    """

    hits: float
    energy: float
    asked: float
    other: float


@dataclass(frozen=True)
class Trial:
    """A trained network, and where the methods say that it looks.

    Attributes:
        kind: Its kind.
        seed: Decides its weights and its training images.
        network: The network.
        reading: What Grad-CAM reads.
        accuracy: The fraction of the validation images that it classifies correctly.
        num_single: How many images with one class glyph are explained: those that it classifies correctly.
        figures: By method.
        untrained: The same for the same images, of the network as it was before training.
    """

    kind: Kind
    seed: int
    network: nn.Module
    reading: str
    accuracy: float
    num_single: int
    figures: dict[str, Figures]
    untrained: dict[str, Figures]


def try_out(kind: Kind, size: Size, seed: int) -> Trial:
    """Train a network, and ask all methods where it looks, before and after."""
    torch.manual_seed(seed)
    network = kind.build().eval()
    untrained = copy.deepcopy(network)
    train(network, min(size.max_steps, kind.steps), seed)
    validation = validation_images(size.num_val)
    right = is_right(network, validation)
    single = validation[: size.num_explained][right[: size.num_explained]]
    double = validation_images(size.num_explained, objects=2)
    figures, before = (measure(model, kind.methods, single, double) for model in (network, untrained))
    one = explain(network, single.pixels[:1], methods="grad_cam")
    reading = describe_reading(one, "grad_cam").removeprefix("read at layer ")
    return Trial(kind, seed, network, reading, right.float().mean().item(), len(single), figures, before)


def validation_images(count: int, objects: int = 1) -> Images:
    """Return the images that no network is trained on, the same for all."""
    return Images.compose(count, seed=-objects, objects=objects)


def measure(network: nn.Module, methods: Sequence[str], single: Images, double: Images) -> dict[str, Figures]:
    """Explain the classes of the glyphs by each method, and compare the heatmaps with where the glyphs are."""
    alone = heatmaps_of(network, methods, single, 0)
    of_two = [heatmaps_of(network, methods, double, glyph) for glyph in (0, 1)]
    return {
        method: Figures(
            hits=hits(alone[method], single, 0),
            energy=energy_inside(alone[method].maps, masks_of(single, 0)).nan_to_num(0.0).mean().item(),
            asked=mean(hits(of_two[glyph][method], double, glyph) for glyph in (0, 1)),
            other=mean(hits(of_two[glyph][method], double, 1 - glyph) for glyph in (0, 1)),
        )
        for method in methods
    }


def heatmaps_of(network: nn.Module, methods: Sequence[str], images: Images, glyph: int) -> dict[str, Heatmaps]:
    """Return the heatmaps of each image's first or second class glyph, by method."""
    explanation = explain(network, images.pixels, methods=methods, target=images.labels[:, glyph])
    return {method: make_heatmaps(raw, (SIDE, SIDE)) for method, raw in explanation.attributions.items()}


def masks_of(images: Images, glyph: int) -> Tensor:
    """Return the pixels of each image's first or second class glyph, `(N, 1, 28, 28)` bool."""
    return boxes_to_masks(images.boxes[:, glyph], (SIDE, SIDE))


def hits(heatmaps: Heatmaps, images: Images, glyph: int) -> float:
    """Return the fraction of the images whose heatmap has its maximum on the first or second class glyph."""
    return pointing_game(heatmaps.maps, masks_of(images, glyph)).float().mean().item()


def table(trials: Sequence[Trial], cell: Callable[[Figures], str], *, untrained: bool = False) -> str:
    """Return a table in Markdown: a column a kind of network, a row a method, in its cells one value a network."""
    lines = [f"| | {' | '.join(kind.name for kind in KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for method in METHODS_ASKED:
        cells = []
        for kind in KINDS:
            of_kind = [trial.untrained if untrained else trial.figures for trial in trials if trial.kind == kind]
            cells.append(" / ".join(cell(figures[method]) for figures in of_kind if method in figures) or "–")
        lines.append(f"| {METHODS[method].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pointing_table(trials: Sequence[Trial], *, untrained: bool = False) -> str:
    """Return the table of the pointing game with one class glyph."""
    return table(trials, lambda figures: percent(figures.hits), untrained=untrained)


def percent(share: float) -> str:
    """Return a fraction in whole percent."""
    return f"{100 * share:.0f}"


@dataclass(frozen=True)
class Row:
    """A row of a picture: one image, and where the methods say that a network sees one of its glyphs.

    Attributes:
        words: What stands beside it.
        trial: The network.
        image: The image.
        glyph: The position of the glyph whose class is explained, and which is framed.
    """

    words: str
    trial: Trial
    image: Images
    glyph: int = 0


def draw(rows: Sequence[Row]) -> Tensor:
    """Draw a column a method; a map that is blank, or that a network has not, is not drawn, and a word says why."""
    pixels = torch.cat([row.image.pixels for row in rows])
    boxes = torch.cat([row.image.boxes[:, row.glyph] for row in rows])
    framed = []
    for image, box in zip(fit_images(to_rgb(pixels, 0.0, 1.0), CELL_SIDE), boxes, strict=True):
        corners = image.shape[2] // SIDE * box + torch.tensor([-2, -2, 1, 1])  # the frame is around the glyph
        framed.append(draw_bounding_boxes(image, corners[None], colors="magenta"))
    maps = [heatmaps_of(row.trial.network, row.trial.kind.methods, row.image, row.glyph) for row in rows]
    none = Heatmaps(torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1), ("has none",))
    columns = {method: [of_row.get(method, none) for of_row in maps] for method in METHODS_SHOWN}
    return grid(
        torch.stack(framed),
        {METHODS[method].title: torch.cat([one.maps for one in column]) for method, column in columns.items()},
        captions=[Caption(row.words) for row in rows],
        blanks={METHODS[method].title: [one.reasons[0] for one in column] for method, column in columns.items()},
        per_row=1,
        drawing=Drawing(CELL_SIDE),
    )


def draw_kinds(trials: Sequence[Trial]) -> Tensor:
    """Draw one image for all kinds of network."""
    of_first_seed = [trial for trial in trials if trial.seed == trials[0].seed]
    candidates = validation_images(50)
    choice = int(torch.stack([is_right(trial.network, candidates) for trial in trials]).sum(0).argmax())
    return draw([Row(trial.kind.name, trial, candidates[choice : choice + 1]) for trial in of_first_seed])


def draw_two(trials: Sequence[Trial]) -> Tensor:
    """Draw an image of two class glyphs, one explained and the other, for a class token and for pooled tokens."""
    image = validation_images(1, objects=2)
    chosen = [next(trial for trial in trials if trial.kind == kind) for kind in (KINDS[0], KINDS[2])]
    return draw([Row(trial.kind.name, trial, image, glyph) for trial in chosen for glyph in (0, 1)])


def write_page(folder: Path, trials: Sequence[Trial], size: Size, command: str) -> None:
    """Write the page, and pictures of the first network of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("planted_glyph", draw_kinds(trials)), ("planted_glyph_two", draw_two(trials))):
        to_pil(picture).save(folder / f"{name}.jpg", quality=80)
    paragraphs = [
        text if text.startswith(("#", "|", "!", "```")) else wrapped(text)
        for text in page(trials, size, command).split("\n\n")
    ]
    (folder / "planted_glyph.md").write_text("\n\n".join(paragraphs), encoding="utf-8")


def wrapped(text: str) -> str:
    """Return a paragraph, or the items of a list, in lines of the page's width."""
    if not text.startswith("- "):
        return fill(text, 119, break_on_hyphens=False)
    items = (" ".join(item.split()) for item in text[2:].split("\n- "))
    return "\n".join(fill(f"- {item}", 119, subsequent_indent="  ", break_on_hyphens=False) for item in items)


def page(trials: Sequence[Trial], size: Size, command: str) -> str:
    """Return the page in Markdown; of `--small` its figures are right, and its words too large."""
    vits, class_tokens, pooled, swin, cnn = KINDS[:3], KINDS[:2], KINDS[2:3], KINDS[3:4], KINDS[4:]

    def between(method: str, kinds: Sequence[Kind] = KINDS, figure: str = "hits") -> str:
        """Return the range of a figure over the networks of some kinds."""
        values = [
            getattr(trial.figures[method], figure)
            for trial in trials
            if trial.kind in kinds and method in trial.figures
        ]
        low, high = percent(min(values)), percent(max(values))
        return low if low == high else f"{low} to {high}"

    def of_untrained() -> str:
        values = [figures.hits for trial in trials for figures in trial.untrained.values()]
        return f"{percent(min(values))} to {percent(max(values))}, on average {percent(mean(values))}"

    of_kinds = [[trial for trial in trials if trial.kind == kind] for kind in KINDS]
    networks = "\n".join(
        f"- **{of_kind[0].kind.name}**: {of_kind[0].kind.words}; {of_kind[0].kind.steps} steps, accuracy "
        f"{' and '.join(f'{100 * trial.accuracy:.1f}' for trial in of_kind)} %. "
        f"Grad-CAM reads `{of_kind[0].reading}`."
        for of_kind in of_kinds
    )
    return f"""# Where is the glyph? All methods, asked where the answer is known

Of a photo nobody knows where a network ought to look. Here one glyph in the image decides the class, its place is
known, and a network that is right almost always has found it: a heatmap that marks something else is wrong. Five kinds
of network, most of them transformers, are explained by one call without settings, `explain(network, images,
methods=[...], target=labels)`. The command that makes this page, twenty minutes on one CPU core:

```bash
{command}
```

The same command gives the same figures; another processor gives slightly different ones.

## The task

An image of {SIDE}×{SIDE} pixels holds noise and three glyphs of {GLYPH}×{GLYPH}. One is of the {CLASSES} that are the
classes. The two others are drawn at random for this image, by the same rule as those six, so that nothing but its
shape tells which one counts. Glyphs stand at every second pixel, so that three of four are not on the grid of a ViT's
patches of {PATCH}×{PATCH} pixels. Each step of training has {BATCH} images, composed anew. Of each kind of network
{len({trial.seed for trial in trials})} are trained, with other weights and other images:

{networks}

The accuracy is that on {size.num_val} further images. Of the first {size.num_explained} of them those are explained
that the network classifies correctly, each for its class.

![One image, five networks, and what each method shows; the glyph of the class is framed](planted_glyph.jpg)

## Is the maximum on the glyph?

The pointing game, in percent of the images, one value a network. The glyph's box is {percent(GLYPH**2 / SIDE**2)} % of
the image. "–": the network has not what the method reads.

{pointing_table(trials)}

- **What is read in all layers finds the glyph**: LRP has {between("lrp")} %, in every kind of network. HiResCAM summed
  over the inputs of all attentions has {between("summed_hires_cam", (*pooled, *swin))} % where tokens are pooled and
  {between("summed_hires_cam", class_tokens)} % with a class token, attention relevance
  {between("attention_relevance", pooled)} % and {between("attention_relevance", class_tokens)} %.
- **One layer near the end is too late**: Grad-CAM has {between("grad_cam", class_tokens)} % on class tokens, before
  the last attention, where libraries place it, and {between("grad_cam", (*pooled, *swin))} % on pooled ones; CAM
  has {between("cam", (*pooled, *swin))} %. By then the tokens have mixed: what a token says is no longer
  what its patch shows. In the CNN, whose last map sees only the surroundings of each place, both have
  {between("grad_cam", cnn)} %.
- **Gradients of pixels** are in between: saliency has {between("saliency", vits)} % on ViTs.
- **Chance**: before their training the same networks have {of_untrained()} %; see the last table.

## Does it know the class?

Now two of the three glyphs are of a class, and each is explained in turn, for {size.num_explained} images: in percent,
maxima on the glyph whose class is explained : maxima on the other.

{table(trials, lambda figures: f"{percent(figures.asked)} : {percent(figures.other)}")}

![An image with two class glyphs, each explained in turn, and framed](planted_glyph_two.jpg)

Attention rollout does not: it has {between("attention_rollout", figure="asked")} % on the one that is asked for, and as
many on the other, since its map is the same for all classes. That it did as well as attention relevance on a single
glyph says that the network attends to glyphs of a class more than to others, not which class it sees. On
ViTs saliency hardly knows it, with {between("saliency", vits, "asked")} against {between("saliency", vits, "other")} %.
LRP has {between("lrp", figure="asked")} against
{between("lrp", figure="other")} %, attention relevance {between("attention_relevance", figure="asked")} against
{between("attention_relevance", figure="other")} %.

## How much of the map is on the glyph?

The share of the heatmap's sum that lies in the glyph's box, as a mean over the images of the first table, in percent;
a heatmap that is the same everywhere has {percent(GLYPH**2 / SIDE**2)}.

{table(trials, lambda figures: percent(figures.energy))}

## What an untrained network gets

The first table, by the same networks before their training, for the same images and classes.

{pointing_table(trials, untrained=True)}

## What this does not show

- These are small networks, trained from scratch for a minute or two each. That a method finds a glyph here is
  necessary for trusting it, not sufficient.
- Two networks of a kind may differ more than two methods do; {size.num_explained} images alone make a value uncertain
  by about 3 points.
- The pointing game asks for one pixel. A map that has its maximum on the glyph may have the rest of itself elsewhere,
  which the third table tells.
"""


def main(argv: Sequence[str] | None = None) -> list[Trial]:
    """Train all networks, and print the tables."""
    args = parse_arguments(argv)
    size = SMALL if args.small else FULL
    trials = []
    for kind in KINDS:
        for seed in range(args.seeds):
            trials.append(try_out(kind, size, seed))
            print(f"{kind.name}, seed {seed}: accuracy {percent(trials[-1].accuracy)} %", flush=True)
    print(f"\nPointing game, in percent:\n\n{pointing_table(trials)}")
    if args.docs:
        options = [*(["--small"] if args.small else []), *([f"--seeds {args.seeds}"] if args.seeds != 2 else [])]
        write_page(Path(args.docs), trials, size, " ".join(["python examples/planted_glyph.py --docs docs", *options]))
    return trials


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Plant a glyph in images, and ask every method where it is.")
    parser.add_argument("--small", action="store_true", help="two steps of training: seconds, for a test")
    parser.add_argument("--seeds", type=int, default=2, help="train so many networks of a kind (default: %(default)s)")
    parser.add_argument("--docs", metavar="DIR", help="also write planted_glyph.md and its pictures here")
    return parser.parse_args(argv)


if __name__ == "__main__":
    torch.set_num_threads(1)  # for images this small more threads mostly wait for one another
    main()
