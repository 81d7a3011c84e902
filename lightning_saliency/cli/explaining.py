"""The work of the command line `explain`: from files of images to files of pictures and raw maps."""

from __future__ import annotations

import argparse
import codecs
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from lightning_saliency._names import printable, to_file_name
from lightning_saliency.attribution import ExplainedSamples, Explanation, HeatmapStage, explain, parse_methods
from lightning_saliency.cli.image_files import FIGURE, SHEET, find_images, output_names
from lightning_saliency.data import NoImageError, SampleBatch, read_image
from lightning_saliency.history.folders import LocalFolder
from lightning_saliency.models.sources import WrongArgumentError, describe_raised, load_model, user_code
from lightning_saliency.visualization import TUTORIAL_PANELS, Style, draw_sheets, find_names, tutorial_figure

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's
_SIZE = 224
_LONGEST_METHOD = 70  # bytes of a method's key in a file name, which may hold a layer's name
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def explain_images(options: argparse.Namespace) -> int:
    """Explain images as the arguments of a command line say.

    Returns:
        The exit status: 0, or 1 if files were skipped.

    Raises:
        WrongArgumentError: An argument does not fit, or the output cannot be written.
    """
    try:
        methods = parse_methods(options.methods)
    except ValueError as error:
        raise WrongArgumentError(f"--methods: {error}") from error
    paths, unreadable = find_images(options.images)
    for folder, reason in unreadable.items():
        _say_skipped(folder, reason)
    named_classes = _class_names(options.class_names) if options.class_names else None
    model, weights = load_model(options.model, options.weights, options.num_classes, unsafe=options.unsafe_weights)
    transform, mean, std = _preprocessing(weights, options.size, options.mean, options.std)
    names = named_classes if named_classes is not None or not weights else weights.meta["categories"]
    style = Style(mean=mean, std=std, class_names=names)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise WrongArgumentError(
            f"Expected --output to be a folder, got {options.output}: {_reason(error)}."
        ) from error
    with user_code(f"--model to be moved to --device {options.device}"):
        model = model.to(options.device)

    writer = _ImageWriter(model, list(methods), options, style)
    files, skipped = list(zip(paths, output_names(paths), strict=True)), 0
    with tqdm(total=len(files), unit="image") as bar:
        for start in range(0, len(files), options.batch_size):
            batch = files[start : start + options.batch_size]
            with user_code(f"images of --size and --batch-size {options.batch_size} to fit into the memory"):
                images = {file: transform(photo) for file in batch if (photo := _read(file[0], options.size))}
                inputs = torch.stack([*images.values()]) if images else None
            skipped += len(batch) - len(images)
            bar.update(len(batch) - len(images))
            if inputs is None:
                continue
            explanation = writer.explain(inputs)
            for index, (path, name) in enumerate(images):
                writer.write(explanation[index : index + 1], path, name)
                bar.update()
    _print(f"Explained {len(files) - skipped} of {len(files)} images: {printable(str(options.output))}")
    return 1 if skipped or unreadable else 0


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
            raise WrongArgumentError(str(error) or describe_raised(error)) from error
        except (Exception, SystemExit) as error:  # the model's
            raise WrongArgumentError(
                f"Expected --model to take images {tuple(images.shape)}, got {describe_raised(error)} (try another "
                "--size, --batch-size or --device)."
            ) from error
        names, num_classes = self.style.class_names, explanation.num_classes
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
        self._put(f"{name}{SHEET}", _png(sheet))
        for key, raw in maps.items():
            # file names of Windows must not hold a colon, which is part of a layer's name with `:activated`
            method = to_file_name(key.replace(":", "-"), _LONGEST_METHOD)
            self._put(f"{name}.{method}.npy", _npy(raw[0, 0]))
        if self.options.figure:
            self._put(f"{name}{FIGURE}", _png(tutorial_figure(explanation, self.options.figure, style=self.style)))

    def _put(self, name: str, content: bytes) -> None:
        """Write a file whole, or raise an error and leave no part of it."""
        try:
            LocalFolder(self.options.output).put(name, content)
        except OSError as error:
            raise WrongArgumentError(
                f"Expected --output to be a folder that can be written to, got {self.options.output}: "
                f"{_reason(error)}, for {name}."
            ) from error


def _png(picture: Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def _npy(values: Tensor) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values.cpu().numpy())
    return stream.getvalue()


def _read(path: Path, size: int | None) -> Image.Image | None:
    """Return the photo of a file; None for one that is no image, which is said in one line."""
    try:
        photo = read_image(path, size or _SIZE)
    except NoImageError as error:
        _say_skipped(path, str(error))
        return None
    if photo.is_first_frame:
        tqdm.write(f"Of {printable(str(path))} the first frame is explained.", file=sys.stderr)
    return photo.image


def _say_skipped(path: Path, reason: str) -> None:
    tqdm.write(f"Skipped {printable(str(path))}: {printable(reason)}", file=sys.stderr)


def _print(text: str) -> None:
    """Print a line in whatever encoding the output has, or raise an error where it takes none."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more at its end
        raise WrongArgumentError(f"Expected the standard output to take text, got {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


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
    square = [v2.Resize(size or _SIZE, antialias=True), v2.CenterCrop(size or _SIZE)]
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**normalization)]
    return v2.Compose(square + scale), normalization["mean"], normalization["std"]


def _class_names(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8, or in what its byte order mark says."""
    try:
        if not path.is_file():  # a pipe would never end
            raise OSError("it is no file")
        content = path.read_bytes()
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding).rstrip()
    except (OSError, ValueError) as error:
        raise WrongArgumentError(
            f"Expected --class-names to be a text file in UTF-8, got {path}: {_reason(error)}."
        ) from error
    if not text:
        raise WrongArgumentError(f"Expected --class-names to name the classes, one a line, got none in {path}.")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
