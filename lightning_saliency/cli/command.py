"""The arguments of the command line, its help, and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch

from lightning_saliency._names import printable
from lightning_saliency.attribution import METHODS, Fuse
from lightning_saliency.cli.explaining import explain_images
from lightning_saliency.cli.image_files import FIGURE, OVERLAY, RAW, SHEET
from lightning_saliency.cli.reporting import add_report
from lightning_saliency.models.errors import WrongArgumentError, describe_raised
from lightning_saliency.visualization import TUTORIAL_PANELS

_LARGEST_SIZE = 8192
_EPILOG = """examples:
  # ImageNet's classes, with torchvision's weights
  python -m lightning_saliency explain --model torchvision:resnet18 --weights DEFAULT --images cat.jpg --output maps

  # a checkpoint of your own training, three methods, all images in a folder, the classic figure as well
  python -m lightning_saliency explain --model torchvision:resnet18 --num-classes 10 --weights best.ckpt \\
      --class-names classes.txt --images photos/ --methods grad_cam saliency guided_backprop --figure 4 --output maps

  # a model of your own, whose `make` returns it, and the classes that are to be explained
  python -m lightning_saliency explain --model mypackage.models:make --weights best.pt --target dog 3 \\
      --images a.jpg b.png --layer backbone.layer3 backbone.layer4 --fuse mean --output maps

It ends with status 0, with 1 if files that are no images were skipped, with 2 for wrong arguments or an output folder
that cannot be written to, and with 130 after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after `python -m lightning_saliency`; by default those of this process.

    Returns:
        The exit status: 0, or 1 if files were skipped.

    Raises:
        SystemExit: With status 2 for wrong arguments, after an error message of one line; with 0 for `--help`.
    """
    parser = _Parser(prog="python -m lightning_saliency", description="See where a vision model looks.")
    commands = parser.add_subparsers(required=True, metavar="{explain,report}")
    _add_explain(commands)
    add_report(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except WrongArgumentError as error:
        options.command.error(str(error))
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))}\n")


def _add_explain(commands: Any) -> None:
    description = "Explain what a model sees in images: a PNG sheet for each image, and each method's raw map."
    parser: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help=description,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --model MODEL --images PATH [PATH ...] --output DIR [options]",
    )
    add = parser.add_argument_group("model").add_argument
    add("--model", required=True, help="torchvision:NAME; where these are installed timm:NAME, and hf:NAME or "
        "hf:FOLDER of Hugging Face; or package.module:callable, which returns an nn.Module")  # fmt: skip
    add("--weights", help="DEFAULT or another name of torchvision's weights, or a file: a state dict, a checkpoint of "
        "Lightning or timm, or safetensors, in any precision; what does not fit is said")  # fmt: skip
    add(
        "--unsafe-weights",
        action="store_true",
        help="also load a file of weights that holds other objects, which runs the code in it",
    )
    add("--num-classes", type=_whole(1), metavar="K", help="classes of the model; default: the model's own")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", type=_device, default=device, help="such as cuda:1; default: the GPU if there is one")
    add = parser.add_argument_group("images").add_argument
    add("--images", nargs="+", required=True, metavar="PATH", help="files, and folders with all that is in them; of an "
        "animation the first frame, of a transparent image the colors without the transparency")  # fmt: skip
    add("--size", type=_whole(1, _LARGEST_SIZE), help="the shorter side is resized to it, and a square cut out; "
        "default: the model's or the named weights' own, else 224")  # fmt: skip
    default = "default: the model's or the named weights' own, else ImageNet's"
    add("--mean", nargs="+", type=float, help=f"of the images in [0, 1], one or three numbers; {default}")
    add("--std", nargs="+", type=float, help="the same")
    add("--batch-size", type=_whole(1), default=8, help="images at a time; default: 8")
    add = parser.add_argument_group("explanation").add_argument
    add("--methods", nargs="+", default=["grad_cam"], metavar="METHOD", help=f"out of {', '.join(METHODS)}; default: "
        "grad_cam")  # fmt: skip
    add("--target", nargs="+", type=_target, metavar="CLASS", help="classes by index, from the end where negative, or "
        "by name, or predicted: a row each; default: the predicted one")  # fmt: skip
    add("--layer", nargs="+", help="dotted names of the target layers; default: the last convolutional map, found")
    add("--fuse", choices=get_args(Fuse), help="make one map of those of several layers")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, required=True, metavar="DIR", help=f"gets of an image STEM{SHEET}, the labeled sheet "
        f"of what the network sees; STEM.METHOD{OVERLAY}, the map on the photograph itself; and STEM.METHOD{RAW}, the "
        "raw map; of several targets STEM.CLASS.METHOD")  # fmt: skip
    add("--class-names", type=Path, metavar="FILE", help="names of the classes, one a line, in UTF-8; default: the "
        "weights' or the model's own, and ImageNet's where it has as many classes")  # fmt: skip
    add("--figure", type=int, choices=TUTORIAL_PANELS, help=f"also write the tutorials' figure as STEM{FIGURE}: 4: "
        "Grad-CAM, guided backprop and Guided Grad-CAM; 6: CAM and Grad-CAM++ as well")  # fmt: skip
    parser.set_defaults(run=explain_images, command=parser)


def _target(text: str) -> int | str:
    """Return a class's index, or its name."""
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and len(digits) < 19 else text


def _whole(least: int, most: int = 2**63 - 1) -> Callable[[str], int]:
    expected = f"expected a whole number from {least}" + (f" to {most}" if most == _LARGEST_SIZE else "")

    def parse(text: str) -> int:
        if not text.isdecimal() or len(text) > 19 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
        return int(text)

    return parse


def _device(text: str) -> torch.device:
    try:
        probe = torch.zeros(1, device=text)
        probe.cpu()  # which not every kind of device can do
        return probe.device
    except Exception as error:  # each kind of device has errors of its own
        raise argparse.ArgumentTypeError(
            f"expected a device such as cpu or cuda:0, got {text!r}: {describe_raised(error)}"
        ) from error
