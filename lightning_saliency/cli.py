"""The command line `explain`: pictures and raw attributions of your own images and model, written to a folder."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from tqdm import tqdm

from lightning_saliency.attribution import (
    METHODS,
    ExplainedSamples,
    Explanation,
    Fuse,
    HeatmapStage,
    explain,
    parse_methods,
)
from lightning_saliency.data import SampleBatch
from lightning_saliency.models.sources import WrongArgumentError, first_line, load_model
from lightning_saliency.visualization import TUTORIAL_PANELS, Style, draw_sheets, find_names, tutorial_figure

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's
_SHEET, _FIGURE = ".sheet.png", ".figure.png"
_EPILOG = """examples:
  # ImageNet's classes, with torchvision's weights
  python -m lightning_saliency explain --model torchvision:resnet18 --weights DEFAULT --images cat.jpg --output maps

  # a checkpoint of your own training, three methods, all images in a folder, the classic figure as well
  python -m lightning_saliency explain --model torchvision:resnet18 --num-classes 10 --weights best.ckpt \\
      --class-names classes.txt --images photos/ --methods grad_cam saliency guided_backprop --figure 4 --output maps

  # a model of your own, whose `make` returns it, and the class that is to be explained
  python -m lightning_saliency explain --model mypackage.models:make --weights best.pt --target 3 \\
      --images a.jpg b.png --layer backbone.layer3 backbone.layer4 --fuse mean --output maps

It ends with status 0, with 1 if files that are no images were skipped, and with 2 for wrong arguments."""


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
    command = _add_explain(parser.add_subparsers(required=True, metavar="explain"))
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except WrongArgumentError as error:
        command.error(str(error))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def _add_explain(commands: Any) -> argparse.ArgumentParser:
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
    add("--model", required=True, help="torchvision:NAME, or package.module:callable, which returns an nn.Module")
    add("--weights", help="DEFAULT or another name of torchvision's weights, or a file: a state dict or a checkpoint")
    add("--num-classes", type=_whole(1), metavar="K", help="classes of the model; default: the model's own")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", type=_device, default=device, help="such as cuda:1; default: the GPU if there is one")
    add = parser.add_argument_group("images").add_argument
    add("--images", nargs="+", required=True, metavar="PATH", help="files, and folders with all that is in them")
    add("--size", type=_whole(1), help="the shorter side is resized to it, and a square cut out; default: the named "
        "weights' own, else 224")  # fmt: skip
    default = "default: the named weights' own, else ImageNet's"
    add("--mean", nargs="+", type=float, help=f"of the images in [0, 1], one or three numbers; {default}")
    add("--std", nargs="+", type=float, help="the same")
    add("--batch-size", type=_whole(1), default=8, help="images at a time; default: 8")
    add = parser.add_argument_group("explanation").add_argument
    add("--methods", nargs="+", default=["grad_cam"], metavar="METHOD", help=f"out of {', '.join(METHODS)}; default: "
        "grad_cam")  # fmt: skip
    add("--target", type=_whole(0), metavar="CLASS", help="index of the class; default: the predicted one")
    add("--layer", nargs="+", help="dotted names of the target layers; default: the last convolutional map, found")
    add("--fuse", choices=get_args(Fuse), help="make one map of those of several layers")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, required=True, metavar="DIR", help=f"gets STEM{_SHEET} and STEM.METHOD.npy of an image")
    add(
        "--class-names", type=Path, metavar="FILE", help="names of the classes, one a line; default: named weights' own"
    )
    add("--figure", type=int, choices=TUTORIAL_PANELS, help=f"also write the tutorials' figure as STEM{_FIGURE}: 4: "
        "Grad-CAM, guided backprop and Guided Grad-CAM; 6: CAM and Grad-CAM++ as well")  # fmt: skip
    return parser


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def _device(text: str) -> torch.device:
    try:
        return torch.zeros(1, device=text).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a device such as cpu or cuda:0, got {text!r}: {first_line(error)}"
        ) from error


def _run(options: argparse.Namespace) -> int:
    try:
        methods = parse_methods(options.methods)
    except ValueError as error:
        raise WrongArgumentError(f"--methods: {error}") from error
    paths = _find_images(options.images)
    named_classes = _class_names(options.class_names) if options.class_names else None
    model, weights = load_model(options.model, options.weights, options.num_classes)
    transform, mean, std = _preprocessing(weights, options.size, options.mean, options.std)
    names = named_classes if named_classes is not None or not weights else weights.meta["categories"]
    style = Style(mean=mean, std=std, class_names=names)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongArgumentError(
            f"Expected --output to be a folder, got {options.output}: {error.strerror}."
        ) from error

    writer = _ImageWriter(model.to(options.device), list(methods), options, style)
    files, skipped = list(zip(paths, _output_names(paths), strict=True)), 0
    with tqdm(total=len(files), unit="image") as bar:
        for start in range(0, len(files), options.batch_size):
            batch = files[start : start + options.batch_size]
            photos = {file: photo for file in batch if (photo := _read(file[0])) is not None}
            skipped += len(batch) - len(photos)
            bar.update(len(batch) - len(photos))
            if not photos:
                continue
            explanation = writer.explain(torch.stack([transform(photo) for photo in photos.values()]))
            for index, (path, name) in enumerate(photos):
                writer.write(explanation[index : index + 1], path, name)
                bar.update()
    print(f"Explained {len(files) - skipped} of {len(files)} images: {options.output}")
    return 1 if skipped else 0


@dataclass(frozen=True)
class _ImageWriter:
    """Explains images with a model, and writes the files of each image."""

    model: nn.Module
    methods: Sequence[str]
    options: argparse.Namespace
    style: Style

    def explain(self, images: Tensor) -> Explanation:
        figure_methods = TUTORIAL_PANELS.get(self.options.figure, ())
        choices = {"target": self.options.target, "layer": self.options.layer, "fuse": self.options.fuse}
        try:
            explanation = explain(self.model, images, methods=(*self.methods, *figure_methods), **choices)
        except (ValueError, TypeError) as error:
            raise WrongArgumentError(str(error)) from error
        except (RuntimeError, AssertionError) as error:
            raise WrongArgumentError(
                f"Expected --model to take images {tuple(images.shape)}, got {type(error).__name__}: {error} (try "
                "another --size, --batch-size or --device)"
            ) from error
        names, num_classes = self.style.class_names, explanation.probabilities.shape[1]
        if names is not None and len(names) != num_classes:
            raise WrongArgumentError(
                f"Expected --class-names to name the model's {num_classes} classes, one a line, got {len(names)}."
            )
        return explanation

    def write(self, explanation: Explanation, path: Path, name: str) -> None:
        """Write the files of one image."""
        maps = {key: raw for key, raw in explanation.attributions.items() if key.partition("@")[0] in self.methods}
        target = self.options.target
        shown = replace(explanation, attributions=maps)
        samples = SampleBatch(explanation.call.to("cpu"), (None,), (0,))
        pictures = draw_sheets(
            [ExplainedSamples(samples, shown, HeatmapStage(shown))],
            self.style,
            title=path.name,
            explained="predicted class" if target is None else f"class {find_names(self.style)[target]}",
        )
        sheet = pictures["overview"] if len(maps) > 1 else pictures[next(iter(maps))]
        _save(sheet, self.options.output / f"{name}{_SHEET}")
        for key, raw in maps.items():
            # file names of Windows must not hold a colon, which is part of a layer's name with `:activated`
            np.save(self.options.output / f"{name}.{key.replace(':', '-')}.npy", raw[0, 0].cpu().numpy())
        if self.options.figure:
            figure = tutorial_figure(explanation, self.options.figure, style=self.style)
            _save(figure, self.options.output / f"{name}{_FIGURE}")


def _save(picture: Tensor, path: Path) -> None:
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def _preprocessing(
    weights: Any, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Callable[[Image.Image], Tensor], list[float], list[float]]:
    """Return the transform from a photo to the model's input, and its mean and standard deviation."""
    if (mean is None) != (std is None):
        raise WrongArgumentError("Expected --mean and --std together or neither, got only one of them.")
    normalization = {}
    for option, numbers in (("mean", mean), ("std", std)):
        if numbers is not None:
            if len(numbers) not in (1, 3) or not all(
                -math.inf < x < math.inf and (option == "mean" or x > 0) for x in numbers
            ):
                expected = "one positive number or three" if option == "std" else "one number or three"
                raise WrongArgumentError(f"Expected --{option} to be {expected}, got {' '.join(map(str, numbers))}.")
            normalization[option] = [*numbers] * (3 // len(numbers))
    if weights is not None:
        preset = weights.transforms(**normalization, **({"crop_size": size, "resize_size": size} if size else {}))
        return preset, preset.mean, preset.std
    normalization = {"mean": _MEAN, "std": _STD} | normalization
    square = [v2.Resize(size or 224, antialias=True), v2.CenterCrop(size or 224)]
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**normalization)]
    return v2.Compose(square + scale), normalization["mean"], normalization["std"]


def _class_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise WrongArgumentError(f"Expected --class-names to be a text file, got {path}: {error}.") from error


def _find_images(names: Sequence[str]) -> list[Path]:
    """Return the given files, and the images in the given folders, each once."""
    paths: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise WrongArgumentError(f"Expected --images to be existing files and folders, got {path}.")
        files = [path]
        if path.is_dir():
            images = (file for file in path.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
            files = sorted(file for file in images if not file.name.endswith((_SHEET, _FIGURE)))  # our own output
        if not files:
            raise WrongArgumentError(f"Expected --images to be folders with images, got none in {path}.")
        paths += files
    return list({path.resolve(): path for path in paths}.values())


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Return the name of each file's results: its stem; where stems repeat, with the folder's name before it."""
    stems = Counter(path.stem.lower() for path in paths)  # not all file systems are case-sensitive
    taken: dict[str, str] = {}
    for path in paths:
        long_name = f"{path.resolve().parent.name}_{path.stem}"
        short_names = [path.stem] if stems[path.stem.lower()] == 1 else []
        names = chain(
            short_names, [long_name, f"{long_name}_{path.suffix[1:]}"], (f"{long_name}_{number}" for number in count(2))
        )
        name = next(name for name in names if name.lower() not in taken)
        taken[name.lower()] = name
    return list(taken.values())


def _read(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as photo:
            upright = ImageOps.exif_transpose(photo)
            if upright.mode.startswith("I"):  # 16 bits per pixel, which `convert` would clip at 255
                upright = Image.fromarray((np.asarray(upright, dtype=np.float64) / 257).round().astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        tqdm.write(f"Skipped {path}: {error}", file=sys.stderr)
        return None
