"""Photographs with a label and boxes each, read from a folder and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import normalize, pil_to_tensor


@dataclass(frozen=True)
class Photographs:
    """Photographs as a network takes them, and what is known of each.

    Attributes:
        images: `(N, 3, H, W)` float32, normalized.
        labels: `(N,)` int64.
        boxes: Of each image those of all objects of its class, `(k, 4)`: x1, y1, x2, y2 in pixels of `images`.
    """

    images: Tensor
    labels: Tensor
    boxes: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.labels)

    def batches(self, size: int) -> Iterator[Photographs]:
        """Yield the photographs in order, `size` at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Photographs(self.images[rows], self.labels[rows], self.boxes[rows])


def read_photographs(
    folder: Path,
    labels: Path,
    *,
    boxes_key: str = "boxes",
    size: int = 224,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    count: int | None = None,
) -> Photographs:
    """Read the photographs that a JSON file lists, each squashed to a square, so that no object is cut off.

    Args:
        folder: Where the photographs are.
        labels: A list of mappings with `file` (a path in the folder), `label` (the index of the class), and the boxes,
            a list of (x1, y1, x2, y2) in pixels of the file.
        boxes_key: The key of the boxes.
        size: The side that the network takes.
        mean: Of each channel, by which images in [0, 1] are normalized.
        std: Likewise.
        count: How many are read, the first of the list; None for all.
    """
    entries = json.loads(labels.read_text(encoding="utf-8"))[:count]
    images, boxes = [], []
    for entry in entries:
        with Image.open(folder / entry["file"]) as file:
            image = file.convert("RGB")
        scale = torch.tensor([size / image.width, size / image.height]).repeat(2)
        boxes.append(torch.tensor(entry[boxes_key], dtype=torch.float32).reshape(-1, 4) * scale)
        pixels = pil_to_tensor(image if image.size == (size, size) else image.resize((size, size)))
        images.append(normalize(pixels.float() / 255, list(mean), list(std)))
    return Photographs(torch.stack(images), torch.tensor([entry["label"] for entry in entries]), tuple(boxes))
