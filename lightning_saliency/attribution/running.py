"""`explain_call`: the raw attributions for the images of a call of the model, in chunks, in one shared pass each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_saliency.attribution.absent import explain_detected, find_detected
from lightning_saliency.attribution.explanation import Explanation
from lightning_saliency.attribution.heatmaps import fused, fused_signed
from lightning_saliency.attribution.methods import METHODS
from lightning_saliency.attribution.settings import Settings
from lightning_saliency.data import Call, over_axes
from lightning_saliency.evidence import (
    Evidence,
    Forward,
    Need,
    ParsedTarget,
    Passes,
    SharedPass,
    UnknownLayoutError,
    collect,
    find_layers,
    with_layout,
)

_CACHED_PIXELS = 8 * 224 * 224
"""The most pixels that go through the model together on a CPU; see docs/performance.md."""

_BATCH_SIZE = 32
"""The most changed copies of one image that go through the model together, without a graph."""


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
