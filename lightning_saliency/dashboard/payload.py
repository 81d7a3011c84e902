"""What the front end gets of a record: JSON, and the bytes of images and maps."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.history import LookSummary, Record, RecordedLevels, RecordedSamples
from lightning_saliency.history.about import answer_to_json

PERCENTILE = 0.99
"""Of the positive values of a fine map: what stands for 1, for few pixels come near the largest."""


def to_json_bytes(value: Any) -> bytes:
    """Return JSON that every reader takes: ASCII, without NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def describe_run(name: str, num_looks: int, num_samples: int, stamp: str, problem: str) -> dict[str, Any]:
    """Return what a list of runs says of a record."""
    return {
        "id": name,
        "name": name,
        "looks": num_looks,
        "samples": num_samples,
        "stamp": stamp,
        "problem": problem,
    }


def describe_record(
    name: str,
    record: Record,
    stamp: str,
    samples: list[dict[str, Any]],
    class_names: Sequence[str] | None,
    methods: list[dict[str, Any]],
    problems: Mapping[str, str],
) -> dict[str, Any]:
    """Return what is known of a record besides its looks.

    Args:
        name: Its id.
        record: The record.
        stamp: Another text after the record has changed.
        samples: What `describe_samples` returns.
        class_names: The names of the classes, if there are any.
        methods: What `join_methods` returns.
        problems: By file what cannot be shown and why.
    """
    return {
        "id": name,
        "name": name,
        "stamp": stamp,
        "run": record.run or "",
        "class_names": None if class_names is None else list(class_names),
        "problems": list(problems.values()),
        "superseded": len(record.superseded),
        "samples": samples,
        "methods": methods,
    }


def look_key(file: str) -> str:
    """Return what a look is asked for by: its file's name without the suffix."""
    return file.removesuffix(".npz")


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


def join_methods(of_looks: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the methods of all looks, in the order in which they appear."""
    joined: dict[str, dict[str, Any]] = {}
    for methods in of_looks:
        for method in methods:
            joined.setdefault(method["key"], method)
    return list(joined.values())


def pack_images(samples: RecordedSamples) -> bytes:
    """Return each sample's pixels, deflated: of images and volumes with the channels last, of signals as they are."""
    last = (np.moveaxis(image, 0, -1) if image.ndim > 2 else image for image in samples.images)
    return deflated((np.ascontiguousarray(pixels).tobytes() for pixels in last), zlib.Z_DEFAULT_STRATEGY)


def map_bytes(levels: RecordedLevels) -> Iterator[bytes]:
    """Yield the maps of a look: `(n, 2)` float32 ranges, then the levels, filled up to a multiple of 4 bytes."""
    yield levels.ranges.astype("<f4").tobytes()
    for level in levels.maps:
        yield level.tobytes()
    yield bytes(-sum(level.size for level in levels.maps) % 4)


def peaks_of(levels: RecordedLevels) -> list[tuple[float, float] | None]:
    """Return what stands for 1 of each map where it is scaled by its own peak, as in the package's pictures.

    Args:
        levels: The maps.

    Returns:
        The largest value and the largest magnitude, of a fine map the 99th percentiles of its positive values and of
        its magnitudes; 0 where there is none that is positive, None for a map that is not finite.

    Example:
        >>> levels = (np.arange(256, dtype=np.uint8),)
        >>> peaks_of(RecordedLevels(levels, np.array([[0, 255]], np.float32), is_fine=True))
        [(253.0, 253.0)]
        >>> peaks_of(RecordedLevels(levels, np.array([[-255, 51]], np.float32), is_fine=False))
        [(51.0, 255.0)]
    """
    return [
        _peaks(level, float(low), float(high), levels.is_fine)
        for level, (low, high) in zip(levels.maps, levels.ranges, strict=True)
    ]


def _peaks(level: NDArray[np.uint8], low: float, high: float, is_fine: bool) -> tuple[float, float] | None:
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    if not is_fine:
        return max(0.0, high), max(abs(low), abs(high))
    values = np.linspace(low, high, 256)
    counts = np.bincount(level.ravel(), minlength=256)
    return _percentile(values, counts), _percentile(np.abs(values), counts)


def _percentile(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Return the percentile of the positive values, each of which is there so many times; 0 where none is positive."""
    order = np.argsort(values, kind="stable")
    sums = np.where(values > 0, counts, 0)[order].cumsum()
    wanted = math.ceil(PERCENTILE * sums[-1])
    return float(values[order[np.searchsorted(sums, wanted)]]) if wanted else 0.0


def deflated(pieces: Iterable[bytes], strategy: int = zlib.Z_RLE) -> bytes:
    """Return the pieces together in zlib's format, without ever holding them all.

    Args:
        pieces: What is packed.
        strategy: As records are packed, runs and Huffman codes alone: a search for repeats takes three times as long
            for maps, which hardly have any. Images may have many.
    """
    compressor = zlib.compressobj(strategy=strategy)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(boxes: NDArray[np.float32]) -> list[list[float | None]]:
    return [[_number(float(corner)) for corner in box] for box in boxes]
