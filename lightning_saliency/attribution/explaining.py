"""`explain`: the raw attributions of a model's scores for images, by any set of methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency._checks import (
    check_choice,
    check_count,
    check_each,
    check_flag,
    check_function,
    check_text,
    describe_error,
    optional,
    refuse,
    shown,
)
from lightning_saliency.attribution.absent import explain_detected, find_detected
from lightning_saliency.attribution.explanation import Explanation
from lightning_saliency.attribution.heatmaps import fused, fused_signed
from lightning_saliency.attribution.inputs import parse_inputs
from lightning_saliency.attribution.methods import METHODS, MethodChoice, parse_methods
from lightning_saliency.attribution.settings import Fuse, Settings
from lightning_saliency.data import Call, find_class_names, over_axes
from lightning_saliency.evidence import (
    TASKS,
    Evidence,
    Forward,
    Need,
    ParsedTarget,
    Passes,
    SharedPass,
    Target,
    TargetChoice,
    TargetLayer,
    TaskName,
    UnknownLayoutError,
    as_forward,
    call_note,
    collect,
    find_layers,
    name_layer,
    with_layout,
)

Layer: TypeAlias = str | nn.Module | TargetLayer
"""A dotted name, a module of the model, or what `find_target_layer` returned."""

_CACHED_PIXELS = 8 * 224 * 224
"""The most pixels that go through the model together on a CPU; see docs/performance.md."""

_BATCH_SIZE = 32
"""The most changed copies of one image that go through the model together, without a graph."""


def explain(
    model: nn.Module | Forward,
    images: Any,
    *,
    methods: MethodChoice | None = ("grad_cam",),
    target: TargetChoice | Target = None,
    layer: Layer | Sequence[Layer] | None = None,
    transform: Callable[..., Any] | None = None,
    weights: Any = None,
    class_names: Sequence[str] | None = None,
    fuse: Fuse | None = None,
    flip: bool = False,
    task: TaskName | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Explanation:
    """Explain a model's scores for images: attributions by any set of methods, from one shared pass.

    Each image goes forward once, and backward once if a method needs a gradient. The model is run in eval mode and left
    exactly as it was: modes, gradients, buffers, random states and hooks. It works under `no_grad` and
    `inference_mode`, and on frozen models.

    Args:
        model: Any module that returns logits: `(N, K)`, or `(N,)` / `(N, 1)` for a binary model, whose class 1 is
            explained by the logit and class 0 by its negative; or a tuple, dict or object that holds them. Or how it is
            run: `Forward(model, output_fn=..., context=...)`.
        images: `(N, C, H, W)` or one `(C, H, W)`, as the model takes them; moved to its device and precision. Or
            volumes and videos `(N, C, D, H, W)`; or signals `(N, C, T)`, which are told from one image by whether the
            model takes them. Or a list of images `(C, H, W)` of one size. Or a photograph, or a list of them, with
            `transform` or `weights`: a path, an image of Pillow, an array `(H, W, C)` or a tensor `(C, H, W)` of uint8.
            Or any of these with labels: a batch of a loader, `(images, labels)`, or an entry of a data set. Or for a
            model that takes more than images what it is called with: a pair of positional and keyword arguments,
            `((image, metadata), {})`, or what `lightning_saliency.data.make_call` returns. Maps have as many spatial
            axes as the images.
        methods: Keys of `lightning_saliency.METHODS`, however they are spelled: `"Grad-CAM++"`, `"ig"`; or by key
            options of its function in `lightning_saliency.attribution`, such as
            `{"smooth_grad": {"num_samples": 50}, "grad_cam": {"principal": True}, "saliency": {"reduce": "signed"}}`.
            None for Grad-CAM.
        target: Which class is explained: an index, from the end where it is negative; a name, `"tiger cat"`, where
            case, underscores and hyphens do not matter; one of these per image; `"label"`, the true class, where labels
            came with the images; `"predicted"`; or a callable from logits `(n, K)` to scores `(n,)`, called with one
            chunk at a time. Default: the label where it is known, else the predicted one. Beside the map of a label
            stands that of the predicted class, where this is another one. Of embeddings, it is the similarity to
            themselves (see `lightning_saliency.evidence.Embedding`), and that to a reference
            `target=lambda embeddings: embeddings @ reference`.
        layer: The target layer, whose activations the CAM methods read: None (chosen as the papers do, by a run of one
            image), a dotted name, a module of the model, or what `find_target_layer` returned, which saves that
            run. Several layers are read from the same pass.
        transform: What turns a photograph, an RGB image of Pillow, into a tensor `(C, H, W)`: that of the validation.
        weights: torchvision's weights of the model, `ResNet50_Weights.DEFAULT`, for their transform and class names.
        class_names: The names of the classes. Default: those of `weights`, or that the model has in its config, if any.
        fuse: How the maps of several layers become one: the `"mean"` or `"max"` of their heatmaps; None for one map per
            layer.
        flip: Explain the images mirrored along their last axis too, and take the mean: every pass is run twice, for
            smoother maps.
        task: What the model's output means: `"multiclass"` (softmax), `"multilabel"` (each class's sigmoid),
            `"ordinal"` (K logits of exceeding each but the last of K + 1 ranks), `"regression"` (values, of which
            `target` is one, by default the first), `"segmentation"` (scores of pixels, `(N, K, H, W)`: a class's mean
            over its pixels), `"multilabel_segmentation"` (overlapping classes, each with a sigmoid of its own),
            `"detection"` or `"detection_softmax"` (class scores of boxes, `(N, Q, K)`: the odds of a class's best box),
            or `"embedding"` (a vector `(N, K)` whose similarity to itself is explained). Default: found, as far as the
            output's form tells; that lists of detections are such, `"detection_list"`, always is.
        chunk_size: The most images that go through the model together, which bounds the memory; but for rounding, the
            result does not depend on it. On a CPU it is about eight of 224×224 in any case, which is faster.
        progress: Whether to show a progress bar for methods that take many passes and more than a few seconds.

    Returns:
        The explanation; its tensors are on the model's device and carry no graph.

    Raises:
        TypeError: An argument is of the wrong kind.
        RuntimeError: The model itself fails on the images; its own error is the cause.
        ValueError: An argument does not fit; labels are not one for each image; the model has no such layer; a method's
            condition does not hold (`cam` on a model without global average pooling before its linear layer).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> explanation.layer
        '1'
        >>> {method: tuple(maps.shape) for method, maps in explanation.heatmaps().items()}
        {'grad_cam': (2, 1, 32, 32), 'saliency': (2, 1, 32, 32)}
    """
    parsed = parse_methods("grad_cam" if methods is None else methods)
    transform = check_function("transform", transform) or _transform_of(weights)
    check_choice("task", task, (*get_args(TaskName), None))
    check_choice("fuse", fuse, (*get_args(Fuse), None))
    flip, progress = check_flag("flip", flip), check_flag("progress", progress)
    chunk_size = optional(check_count)("chunk_size", chunk_size)
    forward = as_forward(model)
    forward = forward if task is None else replace(forward, task=TASKS[task])
    given_names = optional(partial(check_each, check=check_text, of="names"))("class_names", class_names)
    inputs = parse_inputs(forward, images, transform)
    names = given_names or _names_of(weights) or find_class_names(forward.model)
    of_target = _parse_target(target, inputs.labels, names)
    settings = Settings(
        forward,
        parsed,
        of_target,
        _parse_layers(forward.model, layer),
        fuse=fuse,
        flip=flip,
        chunk_size=chunk_size,
        progress=progress,
        compares=of_target.choice == "label",
    )
    chosen = settings.target.resolve(len(inputs.call), labels=inputs.labels)
    with _told_of_images(inputs.call):
        explanation = explain_call(settings, inputs.call, chosen)
    fitting = _names_that_fit(given_names, _names_of(weights), forward.model, explanation.num_classes)
    return replace(explanation, labels=inputs.labels, class_names=fitting, transform=inputs.transform)


@contextmanager
def _told_of_images(call: Call) -> Iterator[None]:
    """Within the context raise an error that a model itself raises as one of the images that it was called with."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError):  # which callers answer by smaller chunks
        raise
    except Exception as error:
        note = call_note(error)
        if note is None:
            raise
        raise RuntimeError(
            f"The model failed on images of shape {tuple(call.first_repeated.shape)}. "
            f"{describe_error(error).rstrip('.')}. {note} Pass the images as in training, of the channels and the size "
            "that the model takes, and for a model that takes more than images what it is called with, a pair "
            "`(args, kwargs)`."
        ) from error


def explain_call(settings: Settings, call: Call, target: ParsedTarget = None) -> Explanation:
    """Explain the samples of a model's call with checked settings; `explain` checks its arguments and calls this.

    Args:
        settings: How to explain; where methods read a layer and none is named, it is chosen by a run of one image.
        call: What the model is called with.
        target: The resolved target of these samples; by default that of the settings is resolved for them.

    Returns:
        The explanation, whose settings name the layers that were read.
    """
    call = settings.forward.on_device(call)
    resolved = settings.target.resolve(len(call)) if target is None else target
    detected = find_detected(settings.forward, call)
    if detected is None or len(detected.rows) == len(call):
        return _explain_all(settings, call, resolved)
    return explain_detected(settings, call, resolved, detected, _explain_all)


def _explain_all(settings: Settings, call: Call, resolved: ParsedTarget) -> Explanation:
    """Explain samples each of which has a score."""
    forward, keys = settings.forward, settings.methods
    inputs = forward.floating_point_images(call).detach()
    settings = with_layers(settings, call)
    chunk_size = _even_chunk_size(inputs, settings.chunk_size or len(call), resolved)
    batch_size = min(_BATCH_SIZE, settings.chunk_size or _BATCH_SIZE)

    def explain_chunks(forward: Forward) -> Explanation:
        with forward.undisturbed() as isolated:
            reader = _Reader(replace(settings, forward=isolated), batch_size)
            chunk_explanations = []
            for rows in (slice(start, start + chunk_size) for start in range(0, len(call), chunk_size)):
                classes = resolved[rows] if isinstance(resolved, Tensor) else resolved
                chunk, classes = reader.read(call[rows], inputs[rows], classes)
                if settings.flip:
                    chunk = _mean_of_mirrored(chunk, reader.read(call[rows], inputs[rows].flip(-1), classes)[0])
                chunk_explanations.append(chunk)
        return _joined(settings, call, inputs, chunk_explanations)

    is_perturbed = any(METHODS[key].extra == "perturbed" for key in keys)
    at_once = max(chunk_size, batch_size) if is_perturbed else chunk_size
    try:
        return forward.in_fastest_layout(inputs, at_once, explain_chunks)
    except UnknownLayoutError as error:
        probed = with_layout(forward, error.layer, call)
        if probed.layout is None:
            raise
    layers = tuple(probed if layer == probed else layer for layer in settings.layers)
    return _explain_all(replace(settings, layers=layers), call, resolved)


def with_layers(settings: Settings, call: Call) -> Settings:
    """Return the settings with the layers that their methods read found, where one reads them and none is named."""
    methods = [METHODS[key] for key in settings.methods]
    reads_layer = not settings.layers and any(method.reads_layer for method in methods)
    if settings.found is not None or not (reads_layer or any(method.needs_run for method in methods)):
        return settings
    return replace(settings, found=find_layers(settings.forward, call))


def _even_chunk_size(images: Tensor, most: int, target: ParsedTarget) -> int:
    """Return how many images go through the model together, such that all chunks are of nearly the same size.

    On a CPU as many as its caches hold, unless the target is a callable, which may compare the images of a chunk.
    """
    if images.device.type == "cpu" and (target is None or isinstance(target, Tensor)):
        most = min(most, max(1, round(_CACHED_PIXELS / math.prod(images.shape[2:]))))
    return math.ceil(len(images) / math.ceil(len(images) / most))


@dataclass(frozen=True)
class _Reader:
    """Computes all methods' attributions from one shared pass, and from the extra passes that some need."""

    settings: Settings
    batch_size: int

    def read(self, call: Call, images: Tensor, target: ParsedTarget) -> tuple[Explanation, ParsedTarget]:
        """Return the explanation of images, and the target by which changed ones are explained by the same score."""
        settings = self.settings
        needs = frozenset[Need]().union(
            *(METHODS[key].needs_with(options) for key, options in settings.methods.items())
        )
        shared_pass = collect(
            settings.forward,
            call,
            images,
            target=target,
            needs=needs,
            layers=settings.read_layers,
            found=settings.found,
            compares=settings.compared is not None,
        )
        first = shared_pass.evidence
        shared: dict[str, Tensor] = {}
        attributions: dict[str, Tensor] = {}
        signed: dict[str, Tensor] = {}
        notes: dict[str, Tensor] = {}
        class_evidence = first
        for key in settings.methods:
            maps = self._attribute(key, call, shared_pass, shared)
            attributions |= maps.attributions
            signed |= maps.signed
            notes |= maps.notes
            class_evidence = maps.evidence if maps.evidence.class_weights is not None else class_evidence
        predicted: Mapping[str, Tensor] = {}
        if settings.compared is not None:
            of_predicted = shared_pass.of_predicted or shared_pass  # all right: the maps are those of the prediction
            predicted = self._attribute(settings.compared, call, of_predicted, {}).attributions
        explanation = Explanation(
            settings,
            call,
            images,
            first.logits,
            first.scores,
            first.classes,
            attributions,
            signed,
            notes,
            class_evidence.all_class_weights,
            class_evidence.pooled_activations,
            shared_pass.reading.task,
            shared_pass.reading.masks,
            shared_pass.reading.boxes,
            shared_pass.reading.value_maps,
            predicted,
        )
        return explanation, shared_pass.target

    def _attribute(self, key: str, call: Call, shared_pass: SharedPass, shared: dict[str, Tensor]) -> _Maps:
        """Return the attributions of one method: one map per layer, or their fusion."""
        method, settings = METHODS[key], self.settings
        attributions: dict[str, Tensor] = {}
        every_signed: dict[str, Tensor] = {}
        notes: dict[str, Tensor] = {}
        layers = settings.layers_of(key) or (None,)
        every_evidence = [shared_pass.at(layer, method.needs) for layer in layers]
        for layer, evidence in zip(layers, every_evidence, strict=True):
            name = f"{key}@{layer}" if len(layers) > 1 else key
            forward = shared_pass.forward
            passes = Passes(forward, call, shared_pass.target, layer, self.batch_size, settings.progress, shared=shared)
            raw, signed = method.attribute(evidence, passes, settings.methods[key])
            attributions[name] = _nan_without_score(raw, evidence.scores)
            if signed is not None:
                every_signed[name] = _nan_without_score(signed, evidence.scores).contiguous()
            notes |= {f"{name}/{note}": values for note, values in passes.notes.items()}
        if len(layers) > 1 and settings.fuse is not None:
            attributions = {key: fused(list(attributions.values()), settings.fuse)}
            if every_signed:
                every_signed = {key: fused_signed(list(every_signed.values()), settings.fuse)}
        return _Maps(attributions, every_signed, notes, every_evidence[0])


class _Maps(NamedTuple):
    """The maps and notes of one method, by name, as the attributes of an `Explanation`; and its first evidence."""

    attributions: Mapping[str, Tensor]
    signed: Mapping[str, Tensor]
    notes: Mapping[str, Tensor]
    evidence: Evidence


def _nan_without_score(maps: Tensor, scores: Tensor) -> Tensor:
    """Return the maps `(N, c, h, w)`, all NaN for images whose score is not finite, whose gradient may still be."""
    has_score = scores.isfinite()
    return maps if has_score.all() else maps.masked_fill(over_axes(~has_score, maps), torch.nan)


def _parse_target(target: TargetChoice | Target, labels: Tensor | None, names: Sequence[str] | None) -> Target:
    """Return the target, with its classes by index; the default is the label where it is known."""
    parsed = target if isinstance(target, Target) else Target(target)
    if isinstance(target, str) and target == "label" and labels is None:
        raise ValueError(
            "Expected `target` to be the labels themselves, got 'label': pass a batch with them, `(images, labels)`, "
            "or `target=labels`."
        )
    return Target("label") if parsed.choice is None and labels is not None else parsed.named(names)


def _names_of(weights: Any) -> tuple[str, ...] | None:
    """Return the names of the classes of torchvision's weights."""
    names = getattr(weights, "meta", {}).get("categories")
    return None if names is None else tuple(names)


def _names_that_fit(
    given: tuple[str, ...] | None, known: tuple[str, ...] | None, model: nn.Module, num_classes: int
) -> tuple[str, ...] | None:
    """Return the names of the classes: those that were passed, those of the weights, or the model's, if any.

    Raises:
        ValueError: There is another number of those that were passed; of weights that were fine-tuned, that is usual.
    """
    if given is not None and len(given) != num_classes:
        refuse("class_names", f"the names of the model's {num_classes} classes", f"{len(given)} names")
    if given is None and (known is None or len(known) != num_classes):
        known = tuple(find_class_names(model, num_classes=num_classes) or ()) or None
    return given or known


def _transform_of(weights: Any) -> Callable[..., Any] | None:
    """Return the transform that belongs to torchvision's weights.

    Raises:
        TypeError: They are no such weights.
    """
    if weights is None:
        return None
    if not callable(getattr(weights, "transforms", None)) or not isinstance(getattr(weights, "meta", None), Mapping):
        refuse(
            "weights",
            "an entry of one of torchvision's enums of weights",
            shown(weights),
            hint="A text does not say of which model: pass the entry of the model's own enum, such as "
            "`torchvision.models.ResNet50_Weights.DEFAULT` of `resnet50`. For any other model pass `transform=...` and "
            "`class_names=[...]`.",
            error=TypeError,
        )
    transform: Callable[..., Any] = weights.transforms()
    return transform


def _parse_layers(model: nn.Module, layer: Layer | Sequence[Layer] | None) -> tuple[TargetLayer, ...]:
    """Return the target layers that the user named; empty where the layer is to be chosen automatically.

    Raises:
        ValueError: A layer is named twice.
    """
    if layer is None:
        return ()
    chosen: Sequence[Any] = layer if isinstance(layer, list | tuple) else [layer]
    layers = tuple(item if isinstance(item, TargetLayer) else name_layer(model, item) for item in chosen)
    names = list(map(str, layers))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected `layer` to name different layers, got {names}.")
    return layers


def _mean_of_mirrored(explanation: Explanation, mirrored: Explanation) -> Explanation:
    """Return the mean of an explanation's maps and of the mirrored images' maps, mirrored back along the last axis."""

    def mean_of_each(maps: Mapping[str, Tensor], mirrored_maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: (values + mirrored_maps[key].flip(-1)) / 2 for key, values in maps.items()}

    def mean(maps: Tensor | None, mirrored_maps: Tensor | None) -> Tensor | None:
        return None if maps is None or mirrored_maps is None else (maps + mirrored_maps.flip(-1)) / 2

    return replace(
        explanation,
        attributions=mean_of_each(explanation.attributions, mirrored.attributions),
        signed=mean_of_each(explanation.signed, mirrored.signed),
        # the class maps are linear in these: their mean is the mean of the maps
        pooled_activations=mean(explanation.pooled_activations, mirrored.pooled_activations),
    )


def _joined(settings: Settings, call: Call, inputs: Tensor, chunks: Sequence[Explanation]) -> Explanation:
    """Join the explanations of consecutive chunks into one."""

    def cat(tensors: Iterable[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    def cat_each(name: str) -> dict[str, Tensor]:
        if len(chunks) == 1:  # our own tensors, not the model's: no copy needed
            return dict(getattr(chunks[0], name))
        return {key: torch.cat([getattr(chunk, name)[key] for chunk in chunks]) for key in getattr(chunks[0], name)}

    weights = chunks[0].all_class_weights
    return replace(
        chunks[0],
        settings=settings,
        call=call,
        inputs=inputs,
        logits=torch.cat([chunk.logits for chunk in chunks]),
        scores=torch.cat([chunk.scores for chunk in chunks]),
        classes=cat(chunk.classes for chunk in chunks),
        attributions=cat_each("attributions"),
        signed=cat_each("signed"),
        notes=cat_each("notes"),
        predicted_attributions=cat_each("predicted_attributions"),
        all_class_weights=None if weights is None else weights.clone(),  # training will change the model's own
        pooled_activations=cat(chunk.pooled_activations for chunk in chunks),
        masks=cat(chunk.masks for chunk in chunks),
        boxes=cat(chunk.boxes for chunk in chunks),
        value_maps=cat(chunk.value_maps for chunk in chunks),
    )
