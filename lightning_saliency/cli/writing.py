"""`ImageWriter`: explains photographs, and writes the files of each."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from lightning_saliency._names import one_line, printable, to_file_name
from lightning_saliency.attribution import ExplainedSamples, Explanation, HeatmapStage, explain
from lightning_saliency.cli.image_files import FIGURE, OVERLAY, RAW, SHEET
from lightning_saliency.data import Placement, SampleBatch, find_class_names, find_placement
from lightning_saliency.evidence import PREDICTED, Target
from lightning_saliency.history.folders import LocalFolder
from lightning_saliency.models.errors import WrongArgumentError, describe_raised, user_code
from lightning_saliency.models.loaded import Preprocessing
from lightning_saliency.visualization import (
    TUTORIAL_PANELS,
    Names,
    Style,
    draw_sheets,
    lay_over,
    to_pil,
    tutorial_figure,
)

_PREDICTED = "predicted"
_LONGEST_PART = 70
"""The most bytes of a class's name, and of a method's key, which may hold a layer's name, in the name of a file."""

_JPEG: dict[str, Any] = {"quality": 92, "subsampling": 0}
_UNSEEN = 0.4
"""The brightness of what the network does not see of a photograph, beside that of the photograph."""


class NamedPhoto(NamedTuple):
    """A photograph, the first part of the names of its files, and its own file's name."""

    name: str
    title: str
    image: Image.Image


@dataclass
class ImageWriter:
    """Explains photographs with a model, and writes the files of each.

    Attributes:
        model: The model, on its device.
        methods: Keys of the methods.
        options: The arguments of the command line.
        transform: From a photograph to the model's input.
        given_names: The names of the classes that the user has given.
        own_names: Those that belong to the model's weights.
    """

    model: nn.Module
    methods: Sequence[str]
    options: argparse.Namespace
    transform: Preprocessing
    given_names: Sequence[str] | None = None
    own_names: Sequence[str] | None = None
    _names: Names | None = field(default=None, init=False)
    _placements: dict[tuple[int, int], Placement | None] = field(default_factory=dict, init=False)

    def write(self, photos: Sequence[NamedPhoto]) -> Iterator[str]:
        """Explain photographs together, write the files of each, and yield a line of each, which says what it shows."""
        with user_code(f"images of --size and --batch-size {self.options.batch_size} to fit into the memory"):
            inputs = torch.stack([self.transform(photo.image) for photo in photos])
        targets = self._targets(inputs)
        explanation = self._explain(inputs.repeat_interleave(len(targets), 0), targets * len(inputs))
        for index, photo in enumerate(photos):
            rows = explanation[index * len(targets) : (index + 1) * len(targets)]
            self._write_photo(rows, photo)
            yield f"{printable(photo.title)}: {self._describe(rows)}"

    def _targets(self, inputs: Tensor) -> list[int]:
        """Return the explained classes by index, the predicted one among them by its own number."""
        chosen = [PREDICTED if target == _PREDICTED else target for target in self.options.target or [_PREDICTED]]
        target = Target(chosen)
        if target.has_names:
            one = self._explain(inputs[:1], [PREDICTED])  # shows how many classes there are, which the names must fit
            try:
                target = target.named(self._class_names(one.num_classes).names)
            except ValueError as error:
                raise WrongArgumentError(str(error)) from error
        classes: Any = target.choice  # a tuple, of a list
        return list(classes)

    def _explain(self, images: Tensor, targets: Sequence[int]) -> Explanation:
        figure_methods = TUTORIAL_PANELS.get(self.options.figure, ())
        choices = {"target": targets, "layer": self.options.layer, "fuse": self.options.fuse}
        try:
            explanation = explain(self.model, images, methods=(*self.methods, *figure_methods), **choices)
        except (ValueError, TypeError) as error:
            raise WrongArgumentError(str(error) or describe_raised(error)) from error
        except (Exception, SystemExit) as error:  # the model's, or what says so
            raise WrongArgumentError(
                f"Expected --model to take images {tuple(images.shape)}, got "
                f"{describe_raised(error.__cause__ or error)} (try another --size, --batch-size or --device)."
            ) from error
        names = self._class_names(explanation.num_classes).names
        return replace(explanation, class_names=None if names is None else tuple(names))

    def _class_names(self, num_classes: int) -> Names:
        """Return the names of the classes: given, of the weights, of the model, or ImageNet's if it has as many.

        Raises:
            WrongArgumentError: Other classes than the model's are named.
        """
        if self._names is None:
            self._names = Names(self._find_names(num_classes))
        return self._names

    def _find_names(self, num_classes: int) -> tuple[str, ...] | None:
        if self.given_names is not None and len(self.given_names) != num_classes:
            raise WrongArgumentError(
                f"Expected --class-names to name the model's {num_classes} classes, one a line, got "
                f"{len(self.given_names)}."
            )
        own = self.own_names if self.own_names and len(self.own_names) == num_classes else None
        names = self.given_names or own or find_class_names(self.model, num_classes=num_classes)
        imagenet = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        if names is None and num_classes == len(imagenet):
            names = imagenet
            print("Class names: ImageNet's, as there are 1000; --class-names names others.", file=sys.stderr)
        return None if names is None else tuple(map(one_line, names))

    def _write_photo(self, rows: Explanation, photo: NamedPhoto) -> None:
        """Write the files of one photograph, of which there is a row for each target."""
        maps = {key: raw for key, raw in rows.attributions.items() if key.partition("@")[0] in self.methods}
        shown = replace(rows, attributions=maps)
        placement = self._placement(photo.image)
        style = Style(class_names=rows.class_names)
        if placement is not None:
            style = replace(style, mean=placement.mean, std=placement.std)
        count = len(rows)
        pictures = draw_sheets(
            [
                ExplainedSamples(
                    SampleBatch(rows.call.to("cpu"), (None,) * count, tuple(range(count))), shown, HeatmapStage(shown)
                )
            ],
            style,
            title=photo.title,
            explained=self._describe_explained(rows),
            dataset=self.transform,
        )
        sheet = next(iter(pictures.values()))
        self._put(f"{photo.name}{SHEET}", _png(sheet))
        for row in range(count):
            for key, raw in maps.items():
                name = f"{photo.name}{self._class_part(rows, row)}.{_file_part(key)}"
                self._put(f"{name}{RAW}", _npy(raw[row, 0]))
                overlay = self._overlay(shown[row], key, photo.image, placement, style)
                self._put(f"{name}{OVERLAY}", _jpeg(overlay))
        if self.options.figure:
            self._put(f"{photo.name}{FIGURE}", _png(tutorial_figure(rows, self.options.figure, style=style)))

    def _overlay(
        self, explanation: Explanation, key: str, photo: Image.Image, placement: Placement | None, style: Style
    ) -> Tensor:
        """Lay a map over the whole photograph, dark where the network sees nothing; or over what it sees."""
        if placement is None:
            return replace(explanation, transform=self.transform).overlay(key, style=style)[0]
        maps = HeatmapStage(explanation)(style.normalize)[key].maps.cpu()
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
        laid = lay_over(pixels, placement.on_photo(maps), style, is_fine=explanation.is_fine(key))
        dark = (pixels * _UNSEEN).round().to(torch.uint8)
        return torch.where(placement.seen, laid, dark)[0]

    def _placement(self, photo: Image.Image) -> Placement | None:
        """Return where the network's input lies on a photograph; None where the transform does not show it."""
        size = (photo.height, photo.width)
        if size not in self._placements:
            self._placements[size] = find_placement(self.transform, size)
            if self._placements[size] is None:
                print(
                    "The transform does more than resize, crop and flip: maps are shown on what the network sees.",
                    file=sys.stderr,
                )
        return self._placements[size]

    def _describe(self, rows: Explanation) -> str:
        """Return in words what is predicted, and which classes are explained."""
        if rows.probabilities is None or rows.classes is None:
            return f"explained: {self._describe_explained(rows)}"
        predicted = self._with_probability(rows, 0, int(rows.predictions[0]))
        explained = "" if self.options.target is None else f", explained: {self._describe_explained(rows)}"
        return f"predicted {predicted}{explained}"

    def _describe_explained(self, rows: Explanation) -> str:
        if rows.classes is None or self.options.target is None:
            of_which = rows.settings.target.describe(task=rows.task)
            return "predicted class" if rows.probabilities is not None else of_which
        classes = [self._with_probability(rows, row, index) for row, index in enumerate(rows.classes.tolist())]
        return f"class {classes[0]}" if len(classes) == 1 else f"classes {', '.join(classes)}, from the top"

    def _with_probability(self, rows: Explanation, row: int, index: int) -> str:
        probabilities = rows.probabilities
        probability = None if probabilities is None else float(probabilities[row, index])
        return Names(rows.class_names).caption(index, probability).text

    def _class_part(self, rows: Explanation, row: int) -> str:
        """Return the part of a file's name that tells the targets of a photograph apart; empty for a single one."""
        if len(rows) == 1 or rows.classes is None:
            return ""
        target = self.options.target[row]
        name = target if target == _PREDICTED else Names(rows.class_names)[int(rows.classes[row])]
        return f".{_file_part(name.replace(' ', '_'))}"

    def _put(self, name: str, content: bytes) -> None:
        """Write a file whole, or raise an error and leave no part of it."""
        try:
            LocalFolder(self.options.output).put(name, content)
        except OSError as error:
            raise WrongArgumentError(
                f"Expected --output to be a folder that can be written to, got {self.options.output}: "
                f"{reason_of(error)}, for {name}."
            ) from error


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read or written."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _file_part(text: str) -> str:
    # file names of Windows must not hold a colon, which is part of a layer's name with `:activated`
    return to_file_name(text.replace(":", "-"), _LONGEST_PART)


def _png(picture: Tensor) -> bytes:
    return _encoded(picture, "PNG", {})


def _jpeg(picture: Tensor) -> bytes:
    return _encoded(picture, "JPEG", _JPEG)


def _encoded(picture: Tensor, file_format: str, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    to_pil(picture).save(stream, file_format, **options)
    return stream.getvalue()


def _npy(values: Tensor) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values.cpu().numpy())
    return stream.getvalue()
