"""Whether the layer that is chosen on one model is right, and all that the default methods make of it."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from typing import Any

import model_training
from model_kinds import Published, Size, built, random_images
from model_truth import grad_cam, has_aspect, measure, misread, shortcoming
from model_watching import Reading
from torch import nn

from lightning_saliency import explain
from lightning_saliency.attribution import default_methods
from lightning_saliency.evidence import TargetLayer, find_layers, find_target_layer

Record = dict[str, Any]

_IMAGES = 2
_EXPLAINED = 4


def examine(published: Published, train: bool) -> Record:
    """Build a model, and return what is chosen on it, and whether that is right."""
    try:
        model, size = built(published)
    except Exception as error:  # the model's own, whatever it is
        return {"verdict": "not built", "reason": str(error)[:500]}
    record: Record = {"size": size, "verdict": "right", "has_map": published.has_map}
    for step in (choose, judge, explain_by_default, compare, learn)[: None if train else -1]:
        try:
            record |= step(model, size, record)
        except Exception as error:
            is_reason = isinstance(error, ValueError)
            reason = str(error) if is_reason else f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            return {**record, "verdict": "refused" if is_reason else "error", "reason": f"{step.__name__}: {reason}"}
        if record["verdict"] != "right":
            return record
    return record


def choose(model: nn.Module, size: Size, record: Record) -> Record:
    """Return the layer and the methods that are chosen with no settings."""
    layers = find_layers(model, random_images(_IMAGES, size))
    inputs = [asdict(reading_of(layer)) for layer in layers.attention_inputs]
    found = {"methods": list(default_methods(layers)), "attention_inputs": inputs}
    if layers.target is None:
        verdict = "refused" if record["has_map"] else "right"
        return {**found, "verdict": verdict, "reason": layers.problem}
    layer = layers.target
    module = type(model.get_submodule(layer.name)).__name__
    reading = asdict(reading_of(layer))
    return {**found, "layer": str(layer), "module": module, "reading": reading, "activated": layer.activated}


def reading_of(layer: TargetLayer) -> Reading:
    """Return how a layer is said to be read, in this script's own words."""
    layout = layer.layout
    return Reading(layer.name, layout.axes, layout.prefix, layout.suffix, tuple(layout.element))


def judge(model: nn.Module, size: Size, record: Record) -> Record:
    """Return what is true of the chosen layer, and whether it is right."""
    if "reading" not in record:
        return {}
    reading = Reading(**record["reading"])
    truth = measure(model, reading, size)
    inputs = [Reading(**given) for given in record["attention_inputs"]]
    reason = shortcoming(truth, reading.axes, size) or misread(model, inputs, truth, size)
    verdict = {} if reason is None else {"verdict": "wrong", "reason": reason}
    return {"truth": asdict(truth), "order": str(truth.order), **verdict}


def explain_by_default(model: nn.Module, size: Size, record: Record) -> Record:
    """Return the default methods, and what is wrong with their attributions."""
    explanation = explain(model, random_images(_EXPLAINED, size), methods=record["methods"])
    faults = []
    for method, maps in explanation.attributions.items():
        if maps.dim() != 4 or maps.shape[:2] != (_EXPLAINED, 1) or not has_aspect(maps.shape[2:], size):
            faults.append(f"{method} is {tuple(maps.shape)} for {_EXPLAINED} images of {size[0]}×{size[1]}")
        elif not maps.isfinite().all():
            faults.append(f"{method} is not finite")
        elif (maps.amax((1, 2, 3)) == maps.amin((1, 2, 3))).all():
            faults.append(f"{method} is constant")
    return {"verdict": "wrong", "reason": "; ".join(faults)} if faults else {}


def compare(model: nn.Module, size: Size, record: Record) -> Record:
    """Return whether Grad-CAM is that of the chosen map, read without the library."""
    if record.get("activated", True):  # or no map
        return {}
    images = random_images(_IMAGES, size)
    layer = find_target_layer(model, images)
    ours = explain(model, images, methods=["grad_cam"], layer=layer).attributions["grad_cam"]
    expected = grad_cam(model, Reading(**record["reading"]), images)
    if ours.shape == expected.shape and (ours - expected).abs().max() <= 1e-2 * expected.abs().max():
        return {}
    return {"verdict": "wrong", "reason": "Grad-CAM is not that of the map as it is said to be read"}


def learn(model: nn.Module, size: Size, _: Record) -> Record:
    """Return what came of a training of one step with the callback."""
    result = model_training.train(model, size)
    faults = [] if result["same_weights"] else ["the callback changed the weights"]
    if not result["pictures"]:
        faults.append("the callback wrote no picture")
    return {"training": result, **({"verdict": "wrong", "reason": "; ".join(faults)} if faults else {})}
