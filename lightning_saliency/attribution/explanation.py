"""`Explanation`: the attributions of a model's scores for images, with the settings that produced them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import lightning_saliency  # the public face, which loads the room that draws, above this one, when it is asked for
from lightning_saliency._checks import is_int
from lightning_saliency.attribution.heatmaps import Heatmaps, Normalize, make_heatmaps
from lightning_saliency.attribution.methods import find_map, is_fine
from lightning_saliency.attribution.settings import Settings
from lightning_saliency.data import Answer, Call, SampleBatch
from lightning_saliency.evidence import TASKS, Task

_MOST_NAMED = 3
"""The most explained classes in a `repr`."""

_MOST_IN_NOTEBOOK = 8
"""The most images in a picture that nobody has asked for."""


@dataclass(frozen=True)
class Explanation:
    """The attributions of a model's scores for N images, with the settings that produced them.

    (H, W) and (h, w) stand for as many spatial axes as the images have: one of signals, three of volumes.

    Attributes:
        settings: The methods, the target, the layers and how the model is run.
        call: What the model was called with, on its device.
        inputs: The images as floating-point numbers, as the model takes them or first converts them, `(N, C, H, W)`.
        logits: `(N, K)`, at least float32; K = 1 for a binary model with a single logit.
        scores: The explained logit per image, `(N,)`.
        classes: The explained class per image, `(N,)` int64, −1 where a detector has found nothing; None where the
            target was a callable.
        attributions: The raw attributions of each method, `(N, 1, h, w)` float32, not normalized. Several
            layers that are not fused have one entry each: `grad_cam@layer3`.
        signed: The signed attributions of each channel, `(N, C, H, W)` float32, of the methods in input space.
        notes: Numbers that methods report for each map, `(N,)`: the `completeness_error` of integrated gradients under
            `integrated_gradients/completeness_error`.
        all_class_weights: The weights of every class, read by `class_maps`; only where `cam` is among the methods. See
            `Evidence`.
        pooled_activations: The activations that they weigh; see `Evidence`.
        task: What the model's output means.
        masks: The predicted class of each pixel, `(N, H, W)` int64, of a segmentation, or where the classes overlap
            the pixels of each, `(N, K, H, W)` bool; else None.
        boxes: Of a detection the best box of each class, `(N, K, 4)`, (x1, y1, x2, y2) in pixels, not a number where
            there is none; else None.
        value_maps: Of a value beside which the model returns a map of values, as anomaly detectors do, that map,
            `(N, 1, H, W)`; else None.
        predicted_attributions: Those of the predicted class, of one method, where another class is explained; see
            `Settings.compares`.
        labels: The true classes `(N,)` int64, where they were passed; negative for an unknown one.
        class_names: The names of the classes, where they are known.
        transform: What turned photographs into `images`, whose normalization is undone in pictures.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> len(explanation), explanation.overlay("Grad-CAM").shape, explanation[1].heatmap("saliency").shape
        (2, torch.Size([2, 3, 32, 32]), torch.Size([1, 1, 32, 32]))
        >>> picture = explanation.picture()  # an image of Pillow, which a notebook shows for `explanation` too
    """

    settings: Settings
    call: Call
    inputs: Tensor
    logits: Tensor
    scores: Tensor
    classes: Tensor | None
    attributions: Mapping[str, Tensor]
    signed: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    all_class_weights: Tensor | None = None
    pooled_activations: Tensor | None = None
    task: Task = TASKS["multiclass"]
    masks: Tensor | None = None
    boxes: Tensor | None = None
    value_maps: Tensor | None = None
    predicted_attributions: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    transform: Callable[..., Any] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        explained = ["a function"] * len(self) if self.classes is None else list(map(self._describe, range(len(self))))
        few = [*explained[:_MOST_NAMED], *(["…"] if len(self) > _MOST_NAMED else [])]
        return (
            f"Explanation of {len(self)} image{'' if len(self) == 1 else 's'} ({size}): {'; '.join(few)}\n"
            f"methods: {', '.join(self.attributions)}\n"
            f"layer: {self.layer or 'none'}"
        )

    def _describe(self, row: int) -> str:
        """Return in words which class of an image is explained, and which is predicted where that is another one."""
        index, predicted = -1 if self.classes is None else int(self.classes[row]), int(self.predictions[row])
        explained = self._describe_class(row, index)
        if predicted == index or not self.task.has_one_class:
            return explained
        return f"predicted {self._describe_class(row, predicted)}, explained {explained}"

    def _describe_class(self, row: int, index: int) -> str:
        """Return a class by its name or number, with the probability that an image has of it; values have none."""
        probabilities = self.probabilities
        if probabilities is None:
            return f"value {index}"
        if index < 0:
            return "no class"
        name = (self.class_names[index] if self.class_names else "") or f"class {index}"
        probability = float(probabilities[row, index])
        return f"{name} {f'{probability:.0%}' if math.isfinite(probability) else 'not finite'}"

    def _repr_png_(self) -> bytes:
        """Return the picture of the first images, which notebooks show."""
        return lightning_saliency.visualization.explanation_png(self[:_MOST_IN_NOTEBOOK])

    @property
    def images(self) -> Tensor:
        """The images as the model was given them, `(N, C, H, W)`."""
        return self.call.images

    @property
    def layers(self) -> tuple[str, ...]:
        """The target layers' names; empty where no method needed a layer.

        A name that ends in `:activated` was read after the activation function that follows the layer.
        """
        return tuple(map(str, self.settings.read_layers))

    @property
    def layer(self) -> str | None:
        """The name of the target layer, several names joined by commas, or None where no method needed one."""
        return ", ".join(self.layers) or None

    @property
    def predictions(self) -> Tensor:
        """The predicted class per image, `(N,)` int64; see `Task.predictions`."""
        return self.task.predictions(self.logits, self.masks)

    @property
    def probabilities(self) -> Tensor | None:
        """The probability of each class, `(N, K)`, `(N, 2)` for a single logit; None where the output is values."""
        return self.task.probabilities(self.logits, self.masks)

    @property
    def pixel_classes(self) -> Tensor | None:
        """The predicted class of each pixel, one of several, `(N, H, W)`, −1 for none; None but of segmentations."""
        return None if self.masks is None else self.task.pixel_classes(self.masks)

    @property
    def num_classes(self) -> int:
        """How many classes, or values, can be explained."""
        return self.task.num_classes(self.logits)

    @property
    def answers(self) -> list[Answer | None]:
        """What the model says of each image: a class, a set of classes, or values; None of an embedding."""
        return self.task.answers(self.logits, self.masks)

    @property
    def answer_probabilities(self) -> list[tuple[float, ...]]:
        """The probability of each class in `answers`, per image; empty where the output is values."""
        probabilities = self.probabilities
        if probabilities is None:
            return [() for _ in range(len(self))]
        sets = [answer if isinstance(answer, tuple) else (answer,) for answer in self.answers]
        return [
            tuple(row[int(index)] for index in classes if index is not None)
            for row, classes in zip(probabilities.tolist(), sets, strict=True)
        ]

    @property
    def confidences(self) -> list[float | None]:
        """The probability of the predicted class per image, of several the largest.

        None where the output is values, or a detector has found nothing.
        """
        probabilities = self.probabilities
        if probabilities is None:
            return [None for _ in range(len(self))]
        predicted = self.predictions.tolist()
        own = probabilities.gather(1, self.predictions.clamp(min=0)[:, None])[:, 0].tolist()
        return [None if index < 0 else probability for probability, index in zip(own, predicted, strict=True)]

    @property
    def absences(self) -> list[str | None]:
        """In words why there is nothing to explain of an image; None where there is something."""
        pairs = zip(self.scores.tolist(), self.predictions.tolist(), strict=True)
        return [self.task.absence(score, predicted) for score, predicted in pairs]

    def is_fine(self, method: str | None = None) -> bool:
        """Whether a method's maps have a value of their own for each pixel of the images; those of patches do not.

        Args:
            method: As for `heatmap`.
        """
        key = self._key(method)
        return is_fine(key, self.attributions[key].shape[2:], self.images.shape[2:])

    def heatmaps(self, size: Sequence[int] | None = None, normalize: Normalize = "max") -> dict[str, Tensor]:
        """Return the attributions as heatmaps in [0, 1], `(N, 1, H, W)` float32.

        Args:
            size: (H, W); the images' own by default.
            normalize: See `lightning_saliency.attribution.make_heatmaps`.
        """
        size = size or self.images.shape[2:]
        return {method: make_heatmaps(raw, size, normalize).maps for method, raw in self.attributions.items()}

    def heatmap(
        self, method: str | None = None, size: Sequence[int] | None = None, normalize: Normalize = "max"
    ) -> Tensor:
        """Return the heatmaps of one method, `(N, 1, H, W)` float32 in [0, 1].

        Args:
            method: However it is spelled, `"Grad-CAM"`, and with a layer where several were read, `"grad_cam@layer3"`;
                None for the first.
            size: As for `heatmaps`.
            normalize: As for `heatmaps`.

        Raises:
            ValueError: It is not among the explanation's.
        """
        return make_heatmaps(self.attributions[self._key(method)], size or self.images.shape[2:], normalize).maps

    def overlay(self, method: str | None = None, *, style: lightning_saliency.Style | None = None) -> Tensor:
        """Return the images under the heatmaps of one method, without words: uint8 `(N, 3, H, W)`, on the CPU.

        Args:
            method: As for `heatmap`.
            style: How they look, `lightning_saliency.Style`.

        Raises:
            ValueError: It is not among the explanation's, or the inputs are no images.
        """
        return lightning_saliency.visualization.explanation_overlay(self, self._key(method), style)

    def picture(self, *, style: lightning_saliency.Style | None = None) -> Any:
        """Return a labeled sheet of all images and methods, as an image of Pillow.

        Args:
            style: How it looks, `lightning_saliency.Style`.
        """
        return lightning_saliency.visualization.explanation_picture(self, style)

    def show(self, *, style: lightning_saliency.Style | None = None) -> None:
        """Show the labeled sheet: in a notebook below its cell, else in the system's viewer of images.

        Where there is neither, it is written to a file, and one line says where.

        Args:
            style: How it looks, `lightning_saliency.Style`.
        """
        lightning_saliency.visualization.show_explanation(self, style)

    def save(self, folder: str | PathLike[str], *, style: lightning_saliency.Style | None = None) -> list[Path]:
        """Write the labeled sheet, and of each image and method the overlay and the raw map.

        Args:
            folder: Where to; it is made where it is not there, and files of these names in it are replaced.
            style: How the pictures look, `lightning_saliency.Style`.

        Returns:
            The files: `sheet.png`, and of the first image `0.grad_cam.png` and `0.grad_cam.npy`, the raw map `(h, w)`.
        """
        return lightning_saliency.visualization.save_explanation(self, folder, style)

    def _key(self, method: str | None) -> str:
        """Return the key of a method's maps; of a method that read several layers, its first."""
        maps = list(self.attributions)
        if method is None:
            return maps[0]
        first_of = {key.partition("@")[0]: key for key in reversed(maps)}
        found = find_map(method, [*maps, *first_of.keys() - set(maps)], expected="one of the explanation's methods")
        return first_of.get(found, found)

    def class_maps(self, classes: Tensor | None = None) -> Tensor:
        """Return the class activation maps of several classes of each image, if `cam` is among the methods.

        They come from the same forward; nothing is run.

        Args:
            classes: `(N, k)` int64; all classes by default.

        Returns:
            `(N, k, h, w)` float32, signed.

        Raises:
            ValueError: `cam` is not among the methods.

        Example:
            >>> from torch import nn
            >>> from lightning_saliency import explain
            >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
            >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods="cam", layer="0")
            >>> explanation.class_maps(explanation.logits.topk(3).indices).shape
            torch.Size([2, 3, 30, 30])
        """
        if self.all_class_weights is None or self.pooled_activations is None:
            raise ValueError("Expected `cam` among the methods, for the maps of several classes: it is not.")
        if classes is None:
            return torch.einsum("kd,nd...->nk...", self.all_class_weights, self.pooled_activations).float()
        return torch.einsum("nkd,nd...->nk...", self.all_class_weights[classes], self.pooled_activations).float()

    def __getitem__(self, rows: int | slice) -> Explanation:
        """Return the explanation of one image, or of a slice of them; its tensors keep their axis N."""
        if not isinstance(rows, slice):
            if not is_int(rows):
                raise TypeError(
                    f"Expected the index of an image or a slice of them, such as [2] or [2:4], got {rows!r}."
                )
            if not -len(self) <= rows < len(self):
                raise IndexError(f"Expected the index of an image to be below {len(self)}, got {rows}.")
            rows = slice(rows % len(self), rows % len(self) + 1)

        def select_rows(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: values[rows] for key, values in maps.items()}

        return replace(
            self,
            call=self.call[rows],
            inputs=self.inputs[rows],
            logits=self.logits[rows],
            scores=self.scores[rows],
            classes=None if self.classes is None else self.classes[rows],
            attributions=select_rows(self.attributions),
            signed=select_rows(self.signed),
            notes=select_rows(self.notes),
            pooled_activations=None if self.pooled_activations is None else self.pooled_activations[rows],
            masks=None if self.masks is None else self.masks[rows],
            boxes=None if self.boxes is None else self.boxes[rows],
            value_maps=None if self.value_maps is None else self.value_maps[rows],
            predicted_attributions={key: maps[rows] for key, maps in self.predicted_attributions.items()},
            labels=None if self.labels is None else self.labels[rows],
        )


class HeatmapStage:
    """The heatmaps of an explanation at the size of its images, computed once per scale and cached.

    Args:
        explanation: The explanation whose attributions become heatmaps.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> stage = HeatmapStage(explain(model, torch.randn(2, 3, 32, 32)))
        >>> stage("max")["grad_cam"] is stage("max")["grad_cam"]
        True
    """

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        self._cache: dict[Normalize, dict[str, Heatmaps]] = {}

    def __call__(self, normalize: Normalize = "max") -> Mapping[str, Heatmaps]:
        """Return the heatmaps of each method on this scale; see `lightning_saliency.attribution.make_heatmaps`."""
        if normalize not in self._cache:
            size = self.explanation.images.shape[2:]
            attributions = self.explanation.attributions.items()
            made = {key: make_heatmaps(raw, size, normalize) for key, raw in attributions}
            self._cache[normalize] = {key: self._with_absences(heatmaps) for key, heatmaps in made.items()}
        return MappingProxyType(self._cache[normalize])

    def _with_absences(self, heatmaps: Heatmaps) -> Heatmaps:
        """Return the heatmaps with the reasons why there was nothing to explain before those of the maps."""
        pairs = zip(self.explanation.absences, heatmaps.reasons, strict=True)
        return replace(heatmaps, reasons=tuple(absence or reason for absence, reason in pairs))


@dataclass(frozen=True)
class ExplainedSamples:
    """Samples of one size, their explanation and its cached heatmaps.

    Attributes:
        samples: N samples, on the CPU.
        explanation: The explanation of these samples.
        heatmaps: The heatmaps by scale and method: `heatmaps("max")["grad_cam"].maps`.
    """

    samples: SampleBatch
    explanation: Explanation
    heatmaps: HeatmapStage

    def __len__(self) -> int:
        return len(self.samples)
