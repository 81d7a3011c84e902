"""A sample as tensors and plain values, for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_saliency.data.calls import Call
from lightning_saliency.data.normalization import Normalization
from lightning_saliency.data.object_boxes import ObjectBoxes
from lightning_saliency.data.packing import pack, unpack
from lightning_saliency.data.sample import Sample
from lightning_saliency.data.trees import Path, mapped

_PLAIN = (Tensor, int, float, str, bool, bytes, type(None))
"""The types that a checkpoint can hold without importing user code."""


def is_plain(sample: Sample) -> bool:
    """Whether a sample holds nothing else than a checkpoint can hold."""
    containers = (dict, list, tuple)

    def _plain(value: Any) -> bool:
        if type(value) in containers:
            return all(map(_plain, (*value, *value.values()) if isinstance(value, dict) else value))
        return type(value) in _PLAIN

    return _plain(dict(sample.call.arguments))


def state_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as tensors and plain values, its images in as few bytes as hold them exactly."""
    call = sample.call
    packed: dict[Path, dict[str, Any]] = {}

    def kept(path: Path, value: Any) -> Any:
        smaller = pack(value) if isinstance(value, Tensor) else None
        if smaller is None:
            return value
        packed[path] = smaller
        return None

    arguments = mapped(dict(call.arguments), kept)
    return {
        "arguments": arguments,
        "packed": packed,
        "image": call.image,
        "per_sample": sorted(call.per_sample, key=str),
        "truth": sample.truth,
        "mask": sample.mask,
        "logits": sample.logits,
        "pixel_labels": sample.pixel_labels,
        "normalization": None if sample.normalization is None else tuple(sample.normalization),
        "objects": None if sample.objects is None else (sample.objects.corners, sample.objects.classes),
    }


def from_state(state: Mapping[str, Any]) -> Sample:
    """Return the sample of which `state_of` returned this."""
    packed = {path: unpack(values) for path, values in state["packed"].items()}
    arguments = mapped(state["arguments"], lambda path, value: packed.get(path, value))
    call = Call(arguments, tuple(state["image"]), frozenset(map(tuple, state["per_sample"])))
    numbers = state["normalization"]
    normalization = None if numbers is None else Normalization(*numbers)
    objects = None if state["objects"] is None else ObjectBoxes(*state["objects"])
    return Sample(call, state["truth"], state["mask"], state["logits"], state["pixel_labels"], normalization, objects)
