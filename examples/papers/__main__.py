r"""The tables of the papers, on any network and any folder of photographs with boxes.

    python examples/papers average-drop --model torchvision:squeezenet1_0 --weights squeezenet1_0.pth \
        --images photographs --labels photographs.json

Each command prints one table in Markdown, with 95 % confidence intervals over the images, ours beside the libraries
that are installed (`pip install -e ".[benchmarks]"`), a random map and a centered blob:

- average-drop: Table 1 of Grad-CAM++ (Chattopadhyay et al. 2018)
- localization: localization error (Zhou et al. 2016, Selvaraju et al. 2017), MaxBoxAccV2 (Choe et al. 2020), pointing
  game (Zhang et al. 2016), energy in the box (Wang et al. 2020), how many of several objects are lit
- deletion-insertion: of RISE (Petsiuk et al. 2018)
- randomization: the cascading randomization of Adebayo et al. 2018
- agreement: whether the libraries' maps are ours
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from agreement import AGREEMENT_COLUMNS, measure_agreement
from faithfulness import CURVE_COLUMNS, DROP_COLUMNS, REFERENCE_ROW, measure_scores
from localization import PLACE_COLUMNS, error_columns, measure_places
from maps import Contest, measured
from photographs import Photographs, read_photographs
from randomization import blocks, cascade_columns, measure_cascade
from tables import Column, Values, markdown

from lightning_saliency import METHODS
from lightning_saliency.models.sources import load_model

CAMS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "eigen_cam")
GRADIENTS = ("saliency", "input_x_gradient", "guided_backprop", "deconvnet", "guided_grad_cam")

Measurement = tuple[Callable[[Photographs], dict[str, Values]], Sequence[Sequence[Column]]]


def average_drop(contest: Contest, args: argparse.Namespace) -> Measurement:
    """Table 1 of Grad-CAM++."""
    return measure_scores(contest, steps=1), (DROP_COLUMNS,)


def localization(contest: Contest, args: argparse.Namespace) -> Measurement:
    """Localization errors and the other measures of place."""
    return measure_places(contest), (error_columns(contest), PLACE_COLUMNS)


def deletion_insertion(contest: Contest, args: argparse.Namespace) -> Measurement:
    """Deletion and insertion of RISE."""
    return measure_scores(contest, args.steps), (CURVE_COLUMNS,)


def randomization(contest: Contest, args: argparse.Namespace) -> Measurement:
    """The cascading randomization of Adebayo et al."""
    names = blocks(contest.model, args.photographs.images, args.depth)
    return measure_cascade(contest, names), (cascade_columns(names),)


def agreement(contest: Contest, args: argparse.Namespace) -> Measurement:
    """Whether the libraries' maps are ours."""
    return measure_agreement(contest), (AGREEMENT_COLUMNS,)


TABLES: dict[str, tuple[Callable[[Contest, argparse.Namespace], Measurement], tuple[str, ...]]] = {
    "average-drop": (average_drop, CAMS),
    "localization": (localization, (*CAMS, *GRADIENTS, "occlusion")),
    "deletion-insertion": (deletion_insertion, (*CAMS, "saliency", "guided_backprop")),
    "randomization": (randomization, (*CAMS, *GRADIENTS)),
    "agreement": (agreement, CAMS),
}
"""By command what it measures, and the methods that it asks for by default."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python examples/papers", description="Measure a table of the papers.")
    parser.add_argument("table", choices=TABLES)
    parser.add_argument(
        "--model", required=True, help="torchvision:NAME, timm:NAME, hf:NAME or package.module:callable"
    )
    parser.add_argument("--weights", help="a file, or the name of torchvision's weights")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--labels", required=True, type=Path, metavar="FILE", help="JSON: file, label and boxes of each"
    )
    parser.add_argument("--boxes-key", default="boxes", metavar="KEY", help="of the boxes in that file")
    parser.add_argument("--count", type=int, help="how many images, the first of the list; all by default")
    parser.add_argument("--size", type=int, default=224, help="side of the images as the network gets them")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406))
    parser.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225))
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD")
    parser.add_argument(
        "--task", choices=("embedding",), help="of a network without classes, whose maps localization can measure"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of each batch's values: a later run goes on there")
    parser.add_argument("--steps", type=int, default=16, help="of deletion and insertion")
    parser.add_argument("--depth", type=int, default=2, help="parts of a module's name that make a block to randomize")
    args = parser.parse_args(argv)
    if args.task is not None and args.table != "localization":
        parser.error(f"Expected --task {args.task} with localization, got {args.table}, which asks for classes.")
    return args


def main(argv: Sequence[str] | None = None) -> str:
    """Measure and print a table."""
    args = parse(argv)
    args.photographs = read_photographs(
        args.images, args.labels, boxes_key=args.boxes_key, size=args.size, mean=args.mean, std=args.std,
        count=args.count,
    )  # fmt: skip
    model = load_model(args.model, args.weights, None, size=args.size).model.float().eval().requires_grad_(False)
    make, methods = TABLES[args.table]
    contest = Contest.of(model, args.methods or methods, args.photographs.images, args.task)
    measure, tables = make(contest, args)
    rows = measured(args.photographs, measure, batch_size=args.batch_size, keep=args.keep)
    reference = REFERENCE_ROW if REFERENCE_ROW in rows else next(iter(rows))
    text = "\n\n".join(markdown(columns, rows, reference) for columns in tables)
    print(f"{args.model}, layer {contest.layer}, {len(args.photographs)} images\n\n{text}")
    return text


if __name__ == "__main__":
    main()
