"""Images in which a detector finds nothing: they have no score, and no map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_saliency.attribution.explanation import Explanation
from lightning_saliency.attribution.settings import Settings
from lightning_saliency.data import Call
from lightning_saliency.evidence import Forward, ParsedTarget, Reading
from lightning_saliency.evidence.backward import widen


@dataclass(frozen=True)
class Detected:
    """What a detector that lists its detections says of N images.

    Attributes:
        reading: What it says.
        rows: The indices of the images in which it detects something.
    """

    reading: Reading
    rows: tuple[int, ...]


def find_detected(forward: Forward, call: Call) -> Detected | None:
    """Return what a model detects, by a run without a graph; None for a model that does not list its detections.

    Of a model whose task is not known, one that is called with a list of images may do so.
    """
    is_unknown = forward.task is None and not isinstance(call.given, Tensor) and not callable(forward.output_fn)
    if not is_unknown and (forward.task is None or forward.task.has_all_classes):
        return None
    with forward.undisturbed() as isolated, torch.no_grad():
        reading = isolated.read(call)
    if reading.task.has_all_classes:
        return None
    return Detected(reading, tuple((reading.predictions >= 0).nonzero()[:, 0].tolist()))


def explain_detected(
    settings: Settings,
    call: Call,
    target: ParsedTarget,
    detected: Detected,
    explain: Callable[[Settings, Call, ParsedTarget], Explanation],
) -> Explanation:
    """Explain the images in which something is detected; the maps of the others are not a number everywhere.

    Args:
        settings: How to explain.
        call: What the model is called with, on its device.
        target: The resolved target of these samples.
        detected: What it detects.
        explain: Explains samples each of which has detections.
    """
    rows = list(detected.rows)
    blank = _blank(settings, call, target, detected.reading)
    if not rows:
        return blank
    found = explain(settings, call[rows], target[rows] if isinstance(target, Tensor) else target)

    def spread(values: Tensor, fill: float = torch.nan) -> Tensor:
        whole = values.new_full((len(call), *values.shape[1:]), fill)
        whole[rows] = values
        return whole

    def spread_each(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: spread(values) for key, values in maps.items()}

    return replace(
        blank,
        settings=found.settings,
        scores=spread(found.scores, -torch.inf),
        classes=None if found.classes is None else spread(found.classes, -1),
        attributions=spread_each(found.attributions),
        signed=spread_each(found.signed),
        notes=spread_each(found.notes),
    )


def _blank(settings: Settings, call: Call, target: ParsedTarget, reading: Reading) -> Explanation:
    """Return the explanation of images without any detection."""
    inputs = settings.forward.floating_point_images(call).detach()
    logits = widen(reading.logits)
    none = torch.full((len(call), *[1] * (inputs.dim() - 1)), torch.nan, device=logits.device)
    return Explanation(
        settings,
        call,
        inputs,
        logits,
        torch.full_like(logits[:, 0], -torch.inf),
        torch.full((len(call),), -1, device=logits.device) if target is None or isinstance(target, Tensor) else None,
        {name: none for key in settings.methods for name in _map_names(settings, key)},
        task=reading.task,
        boxes=reading.boxes,
    )


def _map_names(settings: Settings, key: str) -> Sequence[str]:
    """Return the names of a method's maps: of each layer, where several are named and not fused."""
    layers = settings.layers_of(key)
    return [f"{key}@{layer}" for layer in layers] if len(layers) > 1 and settings.fuse is None else [key]
