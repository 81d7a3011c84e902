"""The pixels that a cell of the tab should have, by the functions that draw the package's own sheets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lightning_saliency.attribution import Heatmaps, make_heatmaps
from lightning_saliency.history import Record
from lightning_saliency.visualization.cells import DIMMED, fit, resize, resize_image, under_heatmaps
from lightning_saliency.visualization.colors import Shading, colorize, darkened
from lightning_saliency.visualization.scaling import to_common_scale, to_percentile

SIGNED = "coolwarm"
"""The color map of which the middle is 0."""


@dataclass(frozen=True)
class Cell:
    """How a cell is drawn.

    Args:
        method: Of its map; None for the image alone.
        size: Its height and width in pixels.
        scale: `map`, each map by itself; `sample`, the sample's maps of all epochs; `shared`, those of all samples.
        colors: The color map.
        alpha: The weight of the color of the largest value.
    """

    method: str | None
    size: tuple[int, int]
    scale: str = "map"
    colors: str = "plasma"
    alpha: float = 0.85


def expected_cell(record: Record, index: int, position: int, cell: Cell):
    """The pixels of a sample's cell at a look, uint8 (h, w, 3)."""
    image = torch.from_numpy(record.samples.images[record.samples.positions.index(position)].copy())[None]
    below = resize_image(image, cell.size)
    if cell.method is None:
        return _pixels(below)
    look = record[index]
    row = look.positions.index(position)
    reason = look.reasons[cell.method][row]
    if reason is not None and not (cell.colors == SIGNED and reason == "all negative"):
        return _pixels((below * DIMMED).round().to(torch.uint8))
    if cell.colors == SIGNED:
        return _signed_cell(record, look.attributions[cell.method][row], image, below, position, cell)
    heatmaps = _on_scale(record, look.attributions[cell.method][row], image, position, cell)
    shading = Shading(cell.colors, alpha=cell.alpha)
    return _pixels(under_heatmaps(below, resize(heatmaps, cell.size), shading, is_fine=cell.method in look.fine))


def fitted(record: Record, position: int, side: int):
    """The height and width that the package's sheets give a sample's image."""
    image = torch.from_numpy(record.samples.images[record.samples.positions.index(position)].copy())[None]
    return tuple(fit(image, side).shape[2:])


def _own_scale(raw, size, is_fine) -> Heatmaps:
    heatmaps = make_heatmaps(torch.from_numpy(raw.copy())[None, None], size)
    if not is_fine:
        return heatmaps
    return Heatmaps(*to_percentile(heatmaps.maps, heatmaps.peaks), heatmaps.reasons)


def _on_scale(record, raw, image, position, cell):
    own = _own_scale(raw, image.shape[2:], cell.method in record[-1].fine)
    if cell.scale == "map":
        return own.maps
    largest = torch.tensor(_largest(record, position, cell, np.abs if cell.colors == SIGNED else lambda values: values))
    return to_common_scale(own.maps, own.peaks, largest.clamp(min=own.peaks))


def _largest(record, position, cell, of_values):
    """The largest value of all epochs, of the sample or of all of them."""
    peaks = []
    for look in record:
        if look.epoch is None or cell.method not in look.attributions:
            continue
        for other, raw in zip(look.positions, look.attributions[cell.method], strict=True):
            if np.isfinite(raw).all() and (cell.scale == "shared" or other == position):
                size = record.samples.images[record.samples.positions.index(other)].shape[1:]
                peaks.append(float(_own_scale(of_values(raw), size, cell.method in look.fine).peaks))
    return max(peaks)


def _signed_cell(record, raw, image, below, position, cell):
    """Values around the middle of the color map, the more opaque, the larger they are."""
    is_fine = cell.method in record[-1].fine
    top = float(_own_scale(np.abs(raw), image.shape[2:], is_fine).peaks)
    values = torch.nn.functional.interpolate(
        torch.from_numpy(raw.copy())[None, None], image.shape[2:], mode="bilinear", align_corners=False
    )
    if is_fine:
        values = values.clamp(-top, top)
    else:
        top = float(values.abs().amax())
    if cell.scale != "map":
        top = max(top, _largest(record, position, cell, np.abs))
    shares = (resize(values, cell.size) / top).clamp(-1, 1)
    colors = colorize((shares + 1) / 2, SIGNED).float()
    dark = darkened(below) if is_fine else below
    return _pixels(torch.lerp(dark.float(), colors, cell.alpha * shares.abs()).round().to(torch.uint8))


def _pixels(images):
    return images[0].permute(1, 2, 0).numpy()
