"""The functional face: a model and images in, raw attributions and heatmaps out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import (
    METHODS,
    Heatmaps,
    MethodOptions,
    Normalize,
    fused,
    fused_signed,
    make_heatmaps,
    parse_methods,
    parse_options,
    to_heatmaps,
)
from lightning_saliency.evidence import (
    Evidence,
    ForwardContext,
    Need,
    Passes,
    as_model_input,
    bare_module,
    collect_layers,
    find_target_layer,
    in_fastest_layout,
    undisturbed,
)
from lightning_saliency.layers import TargetLayer, name_layer
from lightning_saliency.targets import (
    ParsedTarget,
    Target,
    Task,
    class_probabilities,
    parse_target,
    predicted_classes,
)

Layer: TypeAlias = str | nn.Module | TargetLayer
"""A dotted name, a module of the model, or what `find_target_layer` returned."""

_CACHED_PIXELS = 8 * 224 * 224
"""Of images that go through the model together on a CPU; see docs/performance.md."""

_BATCH_SIZE = 32
"""Of changed copies of one image that go through the model without a graph."""

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several target layers become one."""


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        images: The images as they were given, `(N, C, H, W)`, without their graph.
        logits: `(N, K)`, at least float32; K = 1 for a binary model with a single logit.
        scores: The explained logit per image, `(N,)`.
        classes: The explained class per image, `(N,)` int64; None where the target was a callable.
        attributions: The raw attributions of each method, `(N, 1, h, w)` float32, not normalised. Of several layers, if
            they are not fused, each has its own: `grad_cam@layer3`.
        layers: The target layers' names, which `explain` takes as `layer`; `:activated` behind one says that it was
            read after the activation function that follows it. Empty where no method needed a layer.
        signed: Of the methods in input space the attributions of each channel, signed, `(N, C, H, W)` float32.
        notes: What methods say of their maps, `(N,)`: the `completeness_error` of integrated gradients under
            `integrated_gradients/completeness_error`.
        task: What probabilities are made of the logits: softmax, or for `"multilabel"` each class's sigmoid.
        all_class_weights: For `class_maps`, where `cam` is among the methods; see `Evidence`.
        pooled_activations: The same.
    """

    images: Tensor
    logits: Tensor
    scores: Tensor
    classes: Tensor | None
    attributions: dict[str, Tensor]
    layers: tuple[str, ...] = ()
    signed: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    task: Task = "multiclass"
    all_class_weights: Tensor | None = None
    pooled_activations: Tensor | None = None

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
        return class_probabilities(self.logits, self.task)

    def heatmaps(self, size: Sequence[int] | None = None, normalize: Normalize = "max") -> dict[str, Tensor]:
        """The attributions as heatmaps in [0, 1], `(N, 1, H, W)` float32.

        Args:
            size: (H, W); the images' own by default.
            normalize: See `lightning_saliency.attribution.to_heatmaps`.
        """
        size = size or self.images.shape[2:]
        return {method: to_heatmaps(raw, size, normalize) for method, raw in self.attributions.items()}

    def class_maps(self, classes: Tensor | None = None) -> Tensor:
        """The CAMs of several classes of each image, from the same forward; where `cam` is among the methods.

        Args:
            classes: `(N, k)` int64; all classes by default.

        Returns:
            `(N, k, h, w)` float32, signed.

        Raises:
            ValueError: `cam` is not among the methods.

        Example:
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
        """The explanation of some of its images."""
        if not isinstance(rows, slice):
            raise TypeError(f"Expected a slice of the images, such as [2:3] for the third, got {rows!r}.")

        def some(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {key: values[rows] for key, values in maps.items()}

        return replace(
            self,
            images=self.images[rows],
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
        explanation: Of N samples, which holds their images.
        heatmaps: By scale and method the heatmaps: `heatmaps("max")["grad_cam"].maps`.
        labels: The true class of each, `(N,)` int64 on the CPU, or None where that is not known.
        positions: Their places among all samples that are looked at.
        masks: Where the objects are, `(N, 1, H, W)` bool on the CPU, or None where that is not known.
    """

    explanation: Explanation
    heatmaps: HeatmapStage
    positions: tuple[int, ...]
    labels: Tensor | None = None
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    methods: str | Iterable[str] = ("grad_cam",),
    target: Target = None,
    layer: Layer | Sequence[Layer] | None = None,
    fuse: Fuse | None = None,
    flip: bool = False,
    method_options: MethodOptions | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    task: Task = "multiclass",
    chunk_size: int | None = None,
    progress: bool = True,
    forward_context: ForwardContext = nullcontext,
) -> Explanation:
    """Explain what a model sees in images, by any set of methods from one shared pass.

    Each image goes forward once, and backward once if a method needs a gradient. The model is run in eval mode and left
    exactly as it was: modes, gradients, buffers, random states and hooks. It works under `no_grad` and
    `inference_mode`, and on frozen models.

    Args:
        model: Any module that returns logits: `(N, K)`, or `(N,)` / `(N, 1)` for a binary model, whose class 1 is
            explained by the logit and class 0 by its negative; or a tuple, dict or object that holds them.
        images: `(N, C, H, W)`, as the model takes them; moved to its device and precision.
        methods: Keys of `lightning_saliency.METHODS`.
        target: Which class is explained: None (the predicted one), an int, one class per image `(N,)`, or a callable
            from logits `(n, K)` to scores `(n,)`, which sees one chunk at a time.
        layer: Whose activations the CAM methods read: None (found from a run of one image, as the papers choose it), a
            dotted name, a module of the model, or what `find_target_layer` returned, which saves that run. Several
            layers are read from the same pass.
        fuse: Of several layers one map, the `"mean"` or `"max"` of their heatmaps; None for a map a layer.
        flip: Explain the mirrored images too, and take the mean: another pass of everything, for smoother maps.
        method_options: By method key, options of its function in `lightning_saliency.attribution`, such as
            `{"smooth_grad": {"num_samples": 50}, "grad_cam": {"principal": True}, "saliency": {"reduce": "signed"}}`.
        output_fn: Takes the logits out of what the model returns, where that is not found by itself.
        task: For the probabilities only: `"multiclass"` (softmax), or `"multilabel"` (each class's sigmoid).
        chunk_size: At most so many images at a time, which bounds the memory; but for rounding, the result does not
            depend on it. On a CPU it is about eight of 224×224 in any case, which is faster.
        progress: Whether a bar shows how far methods are that take many passes and more than a few seconds.
        forward_context: Makes the context for the forward, for instance
            `lambda: torch.autocast("cuda", torch.bfloat16)`.

    Returns:
        The explanation; its tensors are on the model's device and carry no graph.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit; the model has no such layer; a method's condition does not hold (`cam` on
            a model without global average pooling before its linear layer).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> explanation.layer
        '1'
        >>> {method: tuple(maps.shape) for method, maps in explanation.heatmaps().items()}
        {'grad_cam': (2, 1, 32, 32), 'saliency': (2, 1, 32, 32)}
    """
    keys = parse_methods(methods)
    options = parse_options(method_options, keys)
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected `model` to be a torch.nn.Module, got {type(model).__name__}.")
    check_images(images)
    for option, value, allowed in (("task", task, get_args(Task)), ("fuse", fuse, (*get_args(Fuse), None))):
        if value not in allowed:
            raise ValueError(f"Expected `{option}` to be one of {', '.join(map(str, allowed))}, got {value!r}.")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"Expected `chunk_size` to be a positive int or None, got {chunk_size!r}.")
    images = images.detach()
    parsed = parse_target(target, len(images))
    model = bare_module(model)
    layers, reads_layer = _parse_layers(model, layer), any(METHODS[key].reads_layer for key in keys)
    run: dict[str, Any] = {"output_fn": output_fn, "forward_context": forward_context}
    inputs = as_model_input(model, images)
    step = _chunk(inputs, chunk_size or len(images), parsed)
    further = {"batch_size": min(_BATCH_SIZE, chunk_size or _BATCH_SIZE), "progress": progress}

    def read(memory_format: torch.memory_format) -> Explanation:
        with undisturbed(model):
            found = (layers or [find_target_layer(model, inputs, **run)]) if reads_layer else []
            laid_out = {**run, "memory_format": memory_format}
            reader = _Reader(model, keys, options, found, fuse, task, further, laid_out)
            parts = []
            for chunk in (slice(start, start + step) for start in range(0, len(images), step)):
                chosen = parsed[chunk] if isinstance(parsed, Tensor) else parsed
                part = reader.read(inputs[chunk], chosen)
                if flip:
                    mirrored = reader.read(inputs[chunk].flip(3), chosen if part.classes is None else part.classes)
                    part = _mean_of_mirrored(part, mirrored)
                parts.append(part)
        return _joined(images, parts)

    is_perturbed = any(METHODS[key].further == "perturbed" for key in keys)
    at_once = max(step, further["batch_size"]) if is_perturbed else step
    return in_fastest_layout(model, inputs, at_once, read)


def _chunk(images: Tensor, most: int, target: ParsedTarget) -> int:
    """How many images go through the model at a time, in parts that are as even as can be.

    On a CPU as many as its caches hold; a callable target sees all that it may see.
    """
    if images.device.type == "cpu" and (target is None or isinstance(target, Tensor)):
        most = min(most, max(1, round(_CACHED_PIXELS / math.prod(images.shape[2:]))))
    return math.ceil(len(images) / math.ceil(len(images) / most))


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        TypeError: `images` is not a floating-point tensor.
        ValueError: It is not of shape `(N, C, H, W)`, or empty.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Expected `images` to be a tensor (N, C, H, W), got {type(images).__name__}.")
    if images.dim() != 4 or not images.numel():
        hint = " For one image pass `image[None]`." if images.dim() == 3 else ""
        raise ValueError(f"Expected `images` to be (N, C, H, W), got shape {tuple(images.shape)}.{hint}")
    if not images.is_floating_point():
        raise TypeError(
            f"Expected `images` to be floating point, as the model takes them, got {images.dtype}. "
            "Convert and normalise them as in training."
        )


@dataclass(frozen=True)
class _Reader:
    """Reads all methods off one pass, and the further ones that some need."""

    model: nn.Module
    methods: Sequence[str]
    options: Mapping[str, Mapping[str, Any]]
    layers: Sequence[TargetLayer]
    fuse: Fuse | None
    task: Task
    further: Mapping[str, Any]
    run: Mapping[str, Any]

    def read(self, images: Tensor, target: ParsedTarget) -> Explanation:
        needs = frozenset[Need]().union(*(METHODS[key].needs for key in self.methods))
        found = collect_layers(self.model, images, target=target, needs=needs, layers=self.layers, **self.run)
        first = found[0]
        explanation = Explanation(
            images=images,
            logits=first.logits,
            scores=first.scores,
            classes=first.classes,
            attributions={},
            layers=tuple(map(str, self.layers)),
            task=self.task,
            all_class_weights=first.all_class_weights,
            pooled_activations=first.pooled_activations,
        )
        fixed = first.classes if first.classes is not None else target
        shared: dict[str, Tensor] = {}
        for key in self.methods:
            self._attribute(key, found, fixed, shared, explanation)
        return explanation

    def _attribute(
        self, key: str, found: Sequence[Evidence], target: ParsedTarget, shared: dict[str, Tensor], into: Explanation
    ) -> None:
        """Add a method's attributions: of each layer its own, or fused."""
        method, maps, every_signed = METHODS[key], [], []
        evidences = found if method.reads_layer else found[:1]
        for index, evidence in enumerate(evidences):
            name = f"{key}@{self.layers[index]}" if len(evidences) > 1 and self.fuse is None else key
            layer = self.layers[index] if method.reads_layer else None
            passes = Passes(self.model, target, len(evidence.images), layer, shared=shared, **self.further, **self.run)
            raw, signed = method.attribute(evidence, passes, self.options.get(key))
            into.attributions[name] = _of_scores(evidence.scores, raw)
            if signed is not None:
                into.signed[name] = _of_scores(evidence.scores, signed).contiguous()
                every_signed.append(into.signed[name])
            into.notes.update({f"{name}/{note}": values for note, values in passes.notes.items()})
            maps.append(into.attributions[name])
        if len(maps) > 1 and self.fuse is not None:
            into.attributions[key] = fused(maps, self.fuse)
            if every_signed:
                into.signed[key] = fused_signed(every_signed, self.fuse)


def _of_scores(scores: Tensor, maps: Tensor) -> Tensor:
    """The maps `(N, c, h, w)`; of an image that has no score none, though a gradient may still look like one."""
    has_score = scores.isfinite()
    return maps if has_score.all() else maps.masked_fill(~has_score[:, None, None, None], torch.nan)


def _parse_layers(model: nn.Module, layer: Layer | Sequence[Layer] | None) -> list[TargetLayer]:
    """The target layers that were named, none for those that are to be found.

    Raises:
        ValueError: One is named twice.
    """
    if layer is None:
        return []
    given: Sequence[Any] = layer if isinstance(layer, list | tuple) else [layer]
    layers = [one if isinstance(one, TargetLayer) else name_layer(model, one) for one in given]
    names = list(map(str, layers))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected `layer` to name different layers, got {names}.")
    return layers


def _mean_of_mirrored(part: Explanation, mirrored: Explanation) -> Explanation:
    """The mean of the maps and of the mirrored images' maps, mirrored back."""

    def mean(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: (maps + other[key].flip(3)) / 2 for key, maps in one.items()}

    def mean_of(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else (one + other.flip(3)) / 2

    return replace(
        part,
        attributions=mean(part.attributions, mirrored.attributions),
        signed=mean(part.signed, mirrored.signed),
        # the classes' maps are linear in these: their mean is the mean of the maps
        pooled_activations=mean_of(part.pooled_activations, mirrored.pooled_activations),
    )


def _joined(images: Tensor, parts: Sequence[Explanation]) -> Explanation:
    """The explanations of chunks as one."""

    def cat(tensors: Iterable[Tensor | None]) -> Tensor | None:
        kept = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(kept) if kept else None

    def cat_each(name: str) -> dict[str, Tensor]:
        if len(parts) == 1:  # ours, unlike what the model made: it need not be copied
            return dict(getattr(parts[0], name))
        return {key: torch.cat([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

    weights = parts[0].all_class_weights
    return replace(
        parts[0],
        images=images,
        logits=torch.cat([part.logits for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        classes=cat(part.classes for part in parts),
        attributions=cat_each("attributions"),
        signed=cat_each("signed"),
        notes=cat_each("notes"),
        all_class_weights=None if weights is None else weights.clone(),  # the model's own go on to be trained
        pooled_activations=cat(part.pooled_activations for part in parts),
    )
