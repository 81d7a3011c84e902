"""What the front end gets of a record: JSON, and the bytes of images and maps."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history import LookSummary, RecordedLevels, RecordedSamples
from lightning_saliency.history.about import answer_to_json


def to_json_bytes(value: Any) -> bytes:
    """Return JSON that every reader takes: ASCII, without NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def describe_samples(samples: RecordedSamples) -> list[dict[str, Any]]:
    """Return what is known of each sample besides its image."""
    described = []
    for place, (position, image, label) in enumerate(
        zip(samples.positions, samples.images, samples.labels, strict=True)
    ):
        described.append(
            {
                "position": position,
                "size": list(image.shape[1:]),
                "channels": image.shape[0],
                "label": answer_to_json(label),
                "boxes": _numbers(samples.boxes[place]) if samples.boxes else [],
                "box_classes": list(samples.box_classes[place]) if samples.boxes else [],
            }
        )
    return described


def describe_look(key: str, look: LookSummary) -> dict[str, Any]:
    """Return what is known of a look besides its maps.

    Args:
        key: Its file's name without the suffix.
        look: Its small parts.
    """
    return {
        "key": key,
        "epoch": look.epoch,
        "step": look.step,
        "time": _number(look.time),
        "positions": list(look.positions),
        "predictions": [answer_to_json(answer) for answer in look.predictions],
        "probabilities": [None if value is None else _number(value) for value in look.probabilities],
        "classes": list(look.classes),
        "explained": look.explained,
        "task": look.task,
        "layers": list(look.layers),
        "scalars": {name: _number(value) for name, value in look.scalars.items()},
        "methods": {
            method: {"shapes": [list(shape) for shape in shapes], "reasons": list(look.reasons[method])}
            for method, shapes in look.shapes.items()
        },
        "boxes": [_numbers(boxes) for boxes in look.boxes] or [[] for _ in look.positions],
        "box_classes": [list(classes) for classes in look.box_classes] or [[] for _ in look.positions],
    }


def describe_methods(look: LookSummary) -> list[dict[str, Any]]:
    """Return the methods of a look, in the order in which it has them."""
    return [{"key": key, "title": look.titles.get(key, key), "fine": key in look.fine} for key in look.shapes]


def image_bytes(samples: RecordedSamples) -> Iterator[bytes]:
    """Yield each sample's pixels: of an image and a volume with the channels last, of a signal as they are."""
    for image in samples.images:
        pixels = np.moveaxis(image, 0, -1) if image.ndim > 2 else image
        yield np.ascontiguousarray(pixels).tobytes()


def map_bytes(levels: RecordedLevels) -> Iterator[bytes]:
    """Yield the maps of a look: `(n, 2)` float32 ranges, then the levels, filled up to a multiple of 4 bytes."""
    yield levels.ranges.astype("<f4").tobytes()
    for level in levels.maps:
        yield level.tobytes()
    yield bytes(-sum(level.size for level in levels.maps) % 4)


def deflated(pieces: Iterable[bytes]) -> bytes:
    """Return the pieces together in zlib's format, without ever holding them all.

    Huffman codes alone and runs, as records are packed: a search for repeats takes three times as long for maps.
    """
    compressor = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(boxes: NDArray[np.float32]) -> list[list[float | None]]:
    return [[_number(float(corner)) for corner in box] for box in boxes]
