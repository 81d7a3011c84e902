"""What a model sees in images, and how that was found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.attribution.heatmaps import Heatmaps, Normalize, make_heatmaps
from lightning_saliency.data import Call, SampleBatch
from lightning_saliency.evidence import (
    Forward,
    Target,
    TargetLayer,
    Task,
    class_probabilities,
    predicted_classes,
)

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several target layers become one."""


@dataclass(frozen=True)
class Settings:
    """How an explanation is made.

    Attributes:
        forward: How the model is run.
        methods: By key of `METHODS` the options of its function.
        target: Which class is explained.
        layers: The target layers; none where they are to be found, or where no method reads one.
        fuse: How the maps of several layers become one; None for a map a layer.
        flip: Whether the maps are means with those of the mirrored images.
        task: What probabilities are made of logits.
        chunk_size: At most so many images at a time; None for as many as are fast.
        progress: Whether a bar shows how far methods are that take many passes.
    """

    forward: Forward
    methods: Mapping[str, Mapping[str, Any]]
    target: Target = field(default_factory=Target)
    layers: tuple[TargetLayer, ...] = ()
    fuse: Fuse | None = None
    flip: bool = False
    task: Task = "multiclass"
    chunk_size: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class Explanation:
    """What a model sees in images, and how that was found out.

    Attributes:
        settings: How it was made.
        call: What the model was called with, on its device.
        inputs: The images as floating-point numbers, as the model takes them or first makes them, `(N, C, H, W)`.
        logits: `(N, K)`, at least float32; K = 1 for a binary model with a single logit.
        scores: The explained logit per image, `(N,)`.
        classes: The explained class per image, `(N,)` int64; None where the target was a callable.
        attributions: The raw attributions of each method, `(N, 1, h, w)` float32, not normalized. Of several layers, if
            they are not fused, each has its own: `grad_cam@layer3`.
        signed: Of the methods in input space the attributions of each channel, signed, `(N, C, H, W)` float32.
        notes: What methods say of their maps, `(N,)`: the `completeness_error` of integrated gradients under
            `integrated_gradients/completeness_error`.
        all_class_weights: For `class_maps`, where `cam` is among the methods; see `Evidence`.
        pooled_activations: The same.
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

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def images(self) -> Tensor:
        """The images as the model was given them, `(N, C, H, W)`."""
        return self.call.images

    @property
    def layers(self) -> tuple[str, ...]:
        """The target layers' names; empty where no method needed a layer.

        `:activated` behind one says that it was read after the activation function that follows it.
        """
        return tuple(map(str, self.settings.layers))

    @property
    def layer(self) -> str | None:
        """The target layer's name, those of several with commas between, or None where no method needed one."""
        return ", ".join(self.layers) or None

    @property
    def predictions(self) -> Tensor:
        """The predicted class per image, `(N,)` int64."""
        return predicted_classes(self.logits)

    @property
    def probabilities(self) -> Tensor:
        """The probability of each class, `(N, K)`; `(N, 2)` for a single logit."""
        return class_probabilities(self.logits, self.settings.task)

    def heatmaps(self, size: Sequence[int] | None = None, normalize: Normalize = "max") -> dict[str, Tensor]:
        """Return the attributions as heatmaps in [0, 1], `(N, 1, H, W)` float32.

        Args:
            size: (H, W); the images' own by default.
            normalize: See `lightning_saliency.attribution.make_heatmaps`.
        """
        size = size or self.images.shape[2:]
        return {method: make_heatmaps(raw, size, normalize).maps for method, raw in self.attributions.items()}

    def class_maps(self, classes: Tensor | None = None) -> Tensor:
        """The CAMs of several classes of each image, from the same forward; where `cam` is among the methods.

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
            return torch.einsum("kd,ndhw->nkhw", self.all_class_weights, self.pooled_activations).float()
        return torch.einsum("nkd,ndhw->nkhw", self.all_class_weights[classes], self.pooled_activations).float()

    def __getitem__(self, rows: slice) -> Explanation:
        """Return the explanation of some of its images."""
        if not isinstance(rows, slice):
            raise TypeError(f"Expected a slice of the images, such as [2:3] for the third, got {rows!r}.")

        def some(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: values[rows] for key, values in maps.items()}

        return replace(
            self,
            call=self.call[rows],
            inputs=self.inputs[rows],
            logits=self.logits[rows],
            scores=self.scores[rows],
            classes=None if self.classes is None else self.classes[rows],
            attributions=some(self.attributions),
            signed=some(self.signed),
            notes=some(self.notes),
            pooled_activations=None if self.pooled_activations is None else self.pooled_activations[rows],
        )


class HeatmapStage:
    """The heatmaps of an explanation at its images' size, made once for each scale, whoever asks for them how often.

    Args:
        explanation: Whose attributions become heatmaps.

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
        self._made: dict[Normalize, dict[str, Heatmaps]] = {}

    def __call__(self, normalize: Normalize = "max") -> Mapping[str, Heatmaps]:
        """By method the heatmaps on this scale; see `lightning_saliency.attribution.make_heatmaps`."""
        if normalize not in self._made:
            size = self.explanation.images.shape[2:]
            attributions = self.explanation.attributions.items()
            self._made[normalize] = {key: make_heatmaps(raw, size, normalize) for key, raw in attributions}
        return MappingProxyType(self._made[normalize])


@dataclass(frozen=True)
class ExplainedSamples:
    """Samples of one size, their explanation, and the heatmaps that are made of it once.

    Attributes:
        samples: N samples, on the CPU.
        explanation: Of these.
        heatmaps: By scale and method the heatmaps: `heatmaps("max")["grad_cam"].maps`.
    """

    samples: SampleBatch
    explanation: Explanation
    heatmaps: HeatmapStage

    def __len__(self) -> int:
        return len(self.samples)
