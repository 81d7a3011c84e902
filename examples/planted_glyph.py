"""Ask every method for an object whose place is known: a planted glyph, five kinds of network, transformers first.

Each image holds one of six glyphs, which is its class, two random glyphs like it, and noise. A network that is right
almost always has found the glyph, and where it stands is known, so that a heatmap can be wrong: the pointing game asks
whether its maximum is on the glyph. With two class glyphs in one image, a heatmap of one class should mark this one
and not the other.

    python examples/planted_glyph.py                # a quarter of an hour on two CPU cores
    python examples/planted_glyph.py --small        # seconds, to see that everything works
    python examples/planted_glyph.py --docs docs    # also write docs/planted_glyph.md and its pictures
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from textwrap import fill

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SwinTransformer
from torchvision.utils import draw_bounding_boxes

from lightning_saliency import METHODS, explain
from lightning_saliency.attribution import Heatmaps, make_heatmaps
from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import energy_inside, pointing_game
from lightning_saliency.visualization import Caption, fit_images, grid, to_pil, to_rgb

SIDE, GLYPH, PATCH, CLASSES = 28, 8, 4, 6
STEP = 2  # glyphs stand at every second pixel: three of four are not on the patch grid
NOISE = 0.2
BATCH = 64
CELL_SIDE = 150  # of the pictures: an image's pixels are enlarged four times


def draw_glyphs(count: int, generator: torch.Generator) -> Tensor:
    """Draw random glyphs `(count, 8, 8)` of 0 and 1, whose right half mirrors the left, as of a small creature."""
    left = torch.randint(2, (count, GLYPH, GLYPH // 2), generator=generator)
    return torch.cat([left, left.flip(2)], 2)


CLASS_GLYPHS = draw_glyphs(CLASSES, torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Images:
    """Images with the class glyphs that they hold, one each or two.

    Attributes:
        pixels: `(N, 1, 28, 28)`.
        labels: The classes of the glyphs, `(N, k)`, k different ones.
        boxes: Where they are, `(N, k, 4)`, as (x1, y1, x2, y2).
    """

    pixels: Tensor
    labels: Tensor
    boxes: Tensor

    @classmethod
    def compose(cls, count: int, seed: int, objects: int = 1) -> Images:
        """Compose images of three glyphs that do not overlap, of which `objects` are of a class."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(count, CLASSES, generator=generator).argsort(1)[:, :objects]
        others = draw_glyphs(count * (3 - objects), generator).unflatten(0, (count, 3 - objects))
        glyphs = torch.cat([CLASS_GLYPHS[labels], others], 1)
        corners = place_apart(count, 3, generator)
        rows, columns = (corners[..., None] + torch.arange(GLYPH)).unbind(2)
        pixels = NOISE * torch.randn(count, SIDE, SIDE, generator=generator)
        pixels[torch.arange(count)[:, None, None, None], rows[..., None], columns[:, :, None]] += glyphs
        x1_y1 = corners[:, :objects].flip(2)
        return cls(pixels[:, None], labels, torch.cat([x1_y1, x1_y1 + GLYPH], 2))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Images:
        return Images(self.pixels[rows], self.labels[rows], self.boxes[rows])


def place_apart(count: int, glyphs: int, generator: torch.Generator) -> Tensor:
    """Return the upper left corners (y, x), `(count, glyphs, 2)`, of glyphs that do not overlap."""
    corners = torch.zeros(count, glyphs, 2, dtype=torch.int64)
    overlapping = torch.ones(count, dtype=torch.bool)
    first, second = torch.triu_indices(glyphs, glyphs, 1)
    while overlapping.any():
        shape = (int(overlapping.sum()), glyphs, 2)
        corners[overlapping] = STEP * torch.randint((SIDE - GLYPH) // STEP + 1, shape, generator=generator)
        distances = (corners[:, first] - corners[:, second]).abs().amax(2)
        overlapping = (distances < GLYPH).any(1)
    return corners


class Attention(nn.Module):
    """Self-attention of all tokens `(N, L, D)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let each token read all tokens."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v)
        return self.project(read.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = (
            nn.LayerNorm(width),
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens, then each one's channels."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """A small ViT of 7×7 patches.

    Args:
        prefix: The number of tokens before the patches: a class token, which is classified, and registers. With 0 the
            mean of the patches is classified.
    """

    def __init__(self, prefix: int, width: int = 48, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, PATCH, PATCH)
        self.prefix = nn.Parameter(0.02 * torch.randn(1, prefix, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, 1, 28, 28)` -> `(N, 6)`."""
        patches = self.embed(images).flatten(2).mT + self.position
        tokens = self.norm(self.blocks(torch.cat([self.prefix.expand(len(images), -1, -1), patches], 1)))
        return self.head(tokens[:, 0] if self.prefix.shape[1] else tokens.mean(1))


def windowed() -> nn.Module:
    """Return a small Swin transformer: 14×14 tokens in windows of 7×7, then 7×7 tokens in one."""
    network = SwinTransformer(
        [2, 2], 32, depths=[2, 2], num_heads=[2, 4], window_size=[7, 7], mlp_ratio=2.0, stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )  # fmt: skip
    network.features[0][0] = nn.Conv2d(1, 32, 2, 2)
    return network


def convolutional() -> nn.Module:
    """Return a small CNN with global average pooling, whose last map is 14×14."""

    def block(channels: int, width: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 64), *block(64, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


ASKED = (
    "lrp", "attention_relevance", "summed_hires_cam", "attention_rollout", "cam", "hires_cam", "grad_cam",
    "grad_cam_plus_plus", "layer_cam", "saliency", "input_x_gradient",
)  # fmt: skip


SHOWN = tuple(method for method in ASKED if method not in ("grad_cam_plus_plus", "layer_cam", "input_x_gradient"))


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        name: What it is called.
        build: Makes one.
        steps: How long it is trained.
        refused: The methods that it has no evidence for: `explain` refuses them.
    """

    name: str
    build: Callable[[], nn.Module]
    steps: int
    refused: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """What is asked of it."""
        return [method for method in ASKED if method not in self.refused]


KINDS = (
    Kind("ViT, class token", partial(VisionTransformer, 1), 1000, refused=("cam",)),
    Kind("ViT, class token + registers", partial(VisionTransformer, 5), 1000, refused=("cam",)),
    Kind("ViT, mean of tokens", partial(VisionTransformer, 0), 1000),
    Kind("Swin", windowed, 1000, refused=("attention_relevance", "attention_rollout")),
    Kind(
        "CNN", convolutional, 250, refused=("attention_relevance", "attention_rollout", "summed_hires_cam"),
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
        accuracy: The fraction of the validation images that it classifies correctly.
        num_single: How many images with one class glyph are explained: those that it classifies correctly.
        figures: By method.
        untrained: The same for the same images, of the network as it was before training.
    """

    kind: Kind
    seed: int
    network: nn.Module
    accuracy: float
    num_single: int
    figures: dict[str, Figures]
    untrained: dict[str, Figures]


def train(network: nn.Module, steps: int, seed: int, learning_rate: float = 2e-3) -> None:
    """Train a network on images that are composed anew for each step."""
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.05, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    network.train()
    for step in range(steps):
        images = Images.compose(BATCH, seed=seed * 10**6 + step)
        loss = F.cross_entropy(network(images.pixels), images.labels[:, 0])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()


def is_right(network: nn.Module, images: Images) -> Tensor:
    """Return whether the most probable class is that of the first glyph, `(N,)`."""
    with torch.no_grad():
        return network(images.pixels).argmax(1) == images.labels[:, 0]


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
    figures, before = (
        measure(model, kind.methods, single, double) for model in (network, untrained)
    )
    return Trial(kind, seed, network, right.float().mean().item(), len(single), figures, before)


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


def table(trials: Sequence[Trial], cell: Callable[[Trial, str], str]) -> str:
    """Return a table in Markdown: a row a method, a column a kind of network, in its cells one value a seed."""
    lines = [f"| | {' | '.join(kind.name for kind in KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for method in ASKED:
        cells = [[cell(trial, method) for trial in trials if trial.kind == kind] for kind in KINDS]
        lines.append(f"| {METHODS[method].title} | {' | '.join(map(' / '.join, cells))} |")
    return "\n".join(lines)


def pointing_cell(trial: Trial, method: str) -> str:
    """Say how often a method's maximum is on the glyph."""
    return percent(trial.figures[method].hits) if method in trial.figures else "–"


def energy_cell(trial: Trial, method: str) -> str:
    """Say how much of a method's heatmaps is on the glyph."""
    return percent(trial.figures[method].energy) if method in trial.figures else "–"


def untrained_cell(trial: Trial, method: str) -> str:
    """Say how often the maximum was there before training."""
    return percent(trial.untrained[method].hits) if method in trial.untrained else "–"


def two_cell(trial: Trial, method: str) -> str:
    """Say how often the maximum is on the one of two glyphs that is explained, and on the other."""
    figures = trial.figures.get(method)
    return f"{percent(figures.asked)} : {percent(figures.other)}" if figures else "–"


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
    shown = fit_images(to_rgb(pixels, 0.0, 1.0), CELL_SIDE)
    boxes = boxes * (shown.shape[3] // SIDE) + torch.tensor([-1, -1, 0, 0])
    framed = [draw_bounding_boxes(image, box[None], colors="white") for image, box in zip(shown, boxes, strict=True)]
    maps = [heatmaps_of(row.trial.network, row.trial.kind.methods, row.image, row.glyph) for row in rows]
    none = Heatmaps(torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1), ("has none",))
    columns = {method: [of_row.get(method, none) for of_row in maps] for method in SHOWN}
    return grid(
        torch.stack(framed),
        {METHODS[method].title: torch.cat([one.maps for one in column]) for method, column in columns.items()},
        captions=[Caption(row.words) for row in rows],
        blanks={METHODS[method].title: [one.reasons[0] for one in column] for method, column in columns.items()},
        cell_side=CELL_SIDE,
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
        text if text.startswith(("#", "-", "|", "!", "```")) else fill(text, 119, break_on_hyphens=False)
        for text in page(trials, size, command).split("\n\n")
    ]
    (folder / "planted_glyph.md").write_text("\n\n".join(paragraphs), encoding="utf-8")


def page(trials: Sequence[Trial], size: Size, command: str) -> str:
    """Return the page in Markdown; of `--small` its figures are right, and its words too large."""
    vits, class_token, pooled = KINDS[:3], KINDS[:2], KINDS[2:3]

    def between(method: str, kinds: Sequence[Kind], figure: str = "hits", before: bool = False) -> str:
        """Return the range of a figure over the networks of some kinds."""
        values = [
            getattr((trial.untrained if before else trial.figures)[method], figure)
            for trial in trials
            if trial.kind in kinds and method in trial.figures
        ]
        low, high = percent(min(values)), percent(max(values))
        return low if low == high else f"{low} to {high}"

    even = GLYPH**2 / SIDE**2
    accuracies = [[f"{100 * trial.accuracy:.1f}" for trial in trials if trial.kind == kind] for kind in KINDS]
    trained = "\n".join(
        f"- **{kind.name}**: {kind.words}; {kind.steps} steps, accuracy {' and '.join(of_kind)} %"
        for kind, of_kind in zip(KINDS, accuracies, strict=True)
    )
    return f"""# Where is the glyph? Every method, asked where the answer is known

A heatmap of a photo looks right or wrong to whoever looks at it. Here it is right or wrong: one glyph in the image
decides the class, where it stands is known, and a network that is right almost always must have found it. Five kinds
of network, transformers first, are trained and explained by the same one call, `explain(network, images,
methods=[...])`, with no layer named. The command that makes this page, a quarter of an hour on two CPU cores:

```bash
{command}
```

The same command gives the same figures; another processor, or another number of threads, gives slightly different ones.

## The task

An image of {SIDE}×{SIDE} pixels holds three glyphs of {GLYPH}×{GLYPH} at random places, and noise. One of the three is
one of {CLASSES}, which is the class; the others are drawn anew for each image, by the same rule, so that nothing but
its shape tells the class's glyph from them. Glyphs stand at every second pixel: three of four are not on the grid of
{PATCH}×{PATCH} patches of the ViTs. A box of {percent(even)} % of the image is around the class's glyph. Training images
are composed anew in each step of {BATCH}; the accuracy is on {size.num_val} further ones, with one value a seed.

{trained}

Explained is the true class of those of {size.num_explained} of these images that the network classifies correctly.

![One image, five networks, what each method shows; the class's glyph is framed](planted_glyph.jpg)

## Is the maximum on the glyph?

The pointing game: the share of the images, in percent, whose heatmap has its maximum in the glyph's box. One value a
seed; "–" where a network has no such evidence. With {size.num_explained} images one value is good to about 3 points.

{table(trials, pointing_cell)}

{findings}

## Does it know the class?

{table(trials, two_cell)}

## How much of the map is on the glyph?

{table(trials, energy_cell)}

## What an untrained network gets

{table(trials, untrained_cell)}

## What this does not show

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
    print(f"\nPointing game, in percent:\n\n{table(trials, pointing_cell)}")
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
    main()
