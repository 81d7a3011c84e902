"""Where the maps of the true class lie, beside the boxes of its objects: the localization tables of five papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from maps import Contest
from numpy.typing import NDArray
from photographs import Photographs
from scipy import ndimage
from tables import Column, Values, mean_of
from torch import Tensor
from torchvision.ops import box_iou

from lightning_saliency.data import boxes_to_masks
from lightning_saliency.metrics import THRESHOLDS, energy_inside, heatmaps_to_boxes, pointing_game

TOLERANCE = 15
"""Pixels beside a box that still count in the pointing game (Zhang et al. 2016)."""
OVERLAPS = (0.3, 0.5, 0.7)
"""The intersections over union of MaxBoxAccV2 (Choe et al. 2020)."""
LIT = 0.2
"""Of the map's maximum: what is above is marked, as in Zhou et al. 2016."""
CUTS = {20: "Zhou 2016", 15: "Selvaraju 2017"}
"""The papers' thresholds, in percent of the map's maximum, from which a box is drawn."""
_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=int)


def measure_places(contest: Contest) -> Callable[[Photographs], dict[str, Values]]:
    """Return how a batch is measured, for the true class of each image, or for its embedding."""

    def measure(batch: Photographs) -> dict[str, Values]:
        explanation, maps = contest.explain(batch.images, batch.labels)
        ranked = explanation.logits.topk(min(5, explanation.num_classes)).indices == batch.labels[:, None]
        # without classes none is predicted first, and only the errors of a known class say something
        right = {1: ranked[:, 0].numpy(), 5: ranked.any(1).numpy()} if contest.task is None else {}
        return {row: _places(heatmaps, batch.boxes, right) for row, heatmaps in maps.items()}

    return measure


def _places(heatmaps: Tensor, boxes: Sequence[Tensor], right: dict[int, NDArray[Any]]) -> Values:
    """What is measured of one row's maps."""
    size = tuple(heatmaps.shape[2:])
    masks, wider = _masks(boxes, size, 0), _masks(boxes, size, TOLERANCE)
    values: dict[str, NDArray[Any]] = {
        "pointing": pointing_game(heatmaps, masks).double().numpy(),
        "pointing_tolerant": pointing_game(heatmaps, wider).double().numpy(),
        "energy": energy_inside(heatmaps, masks).nan_to_num(0).double().numpy(),
        "box_hits": np.stack([best_overlaps(*pair) for pair in zip(heatmaps[:, 0], boxes, strict=True)]),
    }
    for cut in CUTS:
        drawn, _ = heatmaps_to_boxes(heatmaps, cut / 100)
        hits = np.array([bool((box_iou(one[None], true) >= 0.5).any()) for one, true in zip(drawn, boxes, strict=True)])
        values |= {f"error_{top}_{cut}": (~(hits & is_right)).astype(float) for top, is_right in right.items()}
        values[f"error_known_{cut}"] = (~hits).astype(float)
    marked = heatmaps > LIT
    several = np.array([len(true) > 1 for true in boxes])
    lit = np.array([lit_objects(one, true) for one, true in zip(marked[:, 0], boxes, strict=True)])
    outside = ((marked & ~masks).flatten(1).sum(1) / (~masks).flatten(1).sum(1)).double().numpy()
    values["lit"] = np.where(several, lit, 0)
    values["objects"] = np.where(several, [len(true) for true in boxes], 0)
    values["outside"] = np.where(several, outside, np.nan)
    return values


def best_overlaps(heatmap: Tensor, boxes: Tensor) -> NDArray[np.float64]:
    """Return at each threshold the best intersection over union of any marked region's box with any true box.

    MaxBoxAccV2 takes all connected regions, and not the largest alone (Choe et al. 2020, "Evaluating Weakly Supervised
    Object Localization Methods Right", journal version, section 5).

    Args:
        heatmap: `(H, W)` in [0, 1].
        boxes: `(k, 4)`.

    Returns:
        `(T,)` for `lightning_saliency.metrics.THRESHOLDS`; 0 for a blank map.
    """
    pixels = heatmap.numpy()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    # a connected region has as many pixels as its box is long: a smaller one overlaps no true box enough to count
    fewest = float((min(OVERLAPS) * sides.prod(1).min()).sqrt())
    overlaps = np.zeros(len(THRESHOLDS))
    for row, threshold in enumerate(THRESHOLDS if pixels.max() > 0 else ()):
        regions, _ = ndimage.label(pixels > threshold * pixels.max(), structure=_EIGHT_NEIGHBORS)
        large = np.bincount(regions.ravel())[1:] >= fewest
        places = [place for place, kept in zip(ndimage.find_objects(regions), large, strict=True) if kept]
        if places:
            corners = [(x.start, y.start, x.stop, y.stop) for y, x in places]
            overlaps[row] = float(box_iou(torch.tensor(corners, dtype=torch.float32), boxes).max())
    return overlaps


def lit_objects(marked: Tensor, boxes: Tensor) -> int:
    """Return how many objects are lit: at least half of the pixels in their box are marked.

    Args:
        marked: `(H, W)` bool.
        boxes: `(k, 4)`.
    """
    corners = boxes.round().int().tolist()
    return sum(bool(marked[y1:y2, x1:x2].float().mean() >= 0.5) for x1, y1, x2, y2 in corners)


def _masks(boxes: Sequence[Tensor], size: tuple[int, ...], margin: float) -> Tensor:
    """`(N, 1, H, W)` bool: the pixels of any of an image's boxes, each wider by a margin."""
    grown = torch.tensor([-margin, -margin, margin, margin])
    limit = torch.tensor([size[1], size[0]]).repeat(2)
    each = [boxes_to_masks(torch.minimum((true + grown).clamp(min=0), limit), size).any(0) for true in boxes]
    return torch.stack(each)


def max_box_accuracy_v2(values: Values) -> float:
    """Return the mean over three overlaps of the fraction of images localized at the best threshold for all."""
    best = [(values["box_hits"] >= overlap).mean(0).max() for overlap in OVERLAPS]
    return float(np.mean(best))


def lit_fraction(values: Values) -> float:
    """Return the fraction of the objects that are lit, of images with several."""
    return float(values["lit"].sum() / values["objects"].sum()) if values["objects"].sum() else np.nan


def error_columns(contest: Contest) -> tuple[Column, ...]:
    """Return the columns of the localization errors: those of a known class alone where there are no classes."""
    ranks: dict[int | str, str] = {1: "top-1", 5: "top-5"} if contest.task is None else {}
    return tuple(
        Column(f"{of} error at {cut} % ({paper})", mean_of(f"error_{top}_{cut}"))
        for cut, paper in CUTS.items()
        for top, of in {**ranks, "known": "class-known"}.items()
    )


PLACE_COLUMNS = (
    Column("MaxBoxAccV2", max_box_accuracy_v2),
    Column("pointing game", mean_of("pointing")),
    Column(f"… with {TOLERANCE} pixels' tolerance", mean_of("pointing_tolerant")),
    Column("energy in the box", mean_of("energy")),
    Column("of several objects lit", lit_fraction),
    Column("of the background beside them", mean_of("outside")),
)
