"""What the heatmaps of a moment say in numbers: how focused, how steady, how alike, how much on the object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution import blank_reasons, to_heatmaps
from lightning_saliency.explain import Explanation
from lightning_saliency.metrics import (
    THRESHOLDS,
    area_above,
    box_overlaps,
    center_shift,
    energy_inside,
    entropy,
    masks_to_boxes,
    pointing_game,
)
from lightning_saliency.metrics.focus import correlation, ranks

_SIDE = 32
"""Of the maps that are compared: coarse, so that it costs little, and says the same of images of any size."""


@dataclass(frozen=True)
class Seen:
    """The heatmaps of a moment, as small as numbers need them, to compare with those of another.

    Attributes:
        rows: Which samples.
        maps: By method `(n, 1, h, w)` in [0, 1], the means of areas of the heatmaps, at most 32 pixels wide and high.
    """

    rows: list[int]
    maps: dict[str, Tensor]

    @cached_property
    def ranks(self) -> dict[str, Tensor]:
        """By method the order of the maps' pixels, `(n, P)`: sorted once, compared several times."""
        return {key: ranks(maps) for key, maps in self.maps.items()}

    @classmethod
    def of(cls, explanation: Explanation, rows: Sequence[int]) -> Seen:
        """What an explanation of these samples shows."""
        height, width = explanation.images.shape[2:]
        shrink = min(1.0, _SIDE / max(height, width))
        size = max(1, round(height * shrink)), max(1, round(width * shrink))
        maps = {}
        for key, raw in explanation.attributions.items():  # one after another: at full size they are large
            maps[key] = F.adaptive_avg_pool2d(to_heatmaps(raw, (height, width)), size).cpu()
        return cls(list(rows), maps)

    def state_dict(self) -> dict[str, Any]:
        """Half as long, for a checkpoint."""
        return {"rows": torch.tensor(self.rows), "maps": {key: maps.half() for key, maps in self.maps.items()}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Seen:
        """What `state_dict` returned."""
        return cls(state["rows"].tolist(), {key: maps.float() for key, maps in state["maps"].items()})


def measure(explanation: Explanation, seen: Seen, masks: Tensor | None = None) -> dict[str, float]:
    """The numbers of one moment, as means over the images, by `<method>/<metric>`.

    A map with nothing to show is left out of a mean, other than of `blank_fraction`; where all are, the value is the
    worst one.

    - `entropy`: how spread out, from 0 (one pixel) to 1 (even); see `lightning_saliency.metrics.entropy`.
    - `area_above_half`: the share of the image that is above half of the map's maximum, in (0, 1].
    - `blank_fraction`: how many maps have nothing to show, in [0, 1].
    - `raw_maximum`: the largest value of the raw attributions: a colourful map can hide a vanishing signal.
    - `agreement`: the rank correlation with the other methods' maps, in [-1, 1]; where there are several.
    - `pointing_game`, `energy_in_box`, `box_iou`, `box_accuracy`, `max_box_accuracy`, where `masks` are given: those of
      `lightning_saliency.metrics` (`energy_in_box` is `energy_inside`), over the images with an object, boxes drawn at
      20 % of each map's maximum, or at the best threshold; all in [0, 1], higher is better.

    Args:
        explanation: Of N images.
        seen: What `Seen.of` makes of it.
        masks: Where the objects are, `(N, 1, H, W)` bool.
    """
    found: dict[str, float] = {}
    blanks = {key: blank_reasons(raw) for key, raw in explanation.attributions.items()}
    heatmaps = explanation.heatmaps() if masks is not None else {}
    for key, maps in seen.maps.items():
        raw = explanation.attributions[key].flatten(1).amax(1)
        found[f"{key}/entropy"] = mean_of(entropy(maps), 1.0)
        found[f"{key}/area_above_half"] = mean_of(area_above(maps), 1.0)
        found[f"{key}/blank_fraction"] = sum(reason is not None for reason in blanks[key]) / len(maps)
        found[f"{key}/raw_maximum"] = mean_of(raw.where(raw.isfinite(), torch.nan), 0.0)
        if masks is not None:
            on_object = _on_objects(heatmaps[key].cpu(), masks)
            found.update({f"{key}/{metric}": value for metric, value in on_object.items()})
    found.update(_agreement(seen.ranks))
    return found


def drift(seen: Seen, earlier: Seen, name: str) -> dict[str, float]:
    """How far the maps have moved since an earlier moment, as means over the images that both have in the same size.

    `<method>/rank_correlation_<name>`, in [-1, 1], 1 for the same; `<method>/center_shift_<name>`, the way of the
    centre of mass in shares of the image's width and height, in [0, √2].
    """
    common = [row for row in seen.rows if row in earlier.rows]
    if not common:
        return {}
    now, then = ([one.rows.index(row) for row in common] for one in (seen, earlier))
    found: dict[str, float] = {}
    for key, maps in seen.maps.items():
        if key in earlier.maps and maps.shape[1:] == earlier.maps[key].shape[1:]:
            likeness = correlation(seen.ranks[key][now], earlier.ranks[key][then])
            found[f"{key}/rank_correlation_{name}"] = mean_of(likeness, 0.0)
            found[f"{key}/center_shift_{name}"] = mean_of(center_shift(maps[now], earlier.maps[key][then]), 0.0)
    return found


def _on_objects(heatmaps: Tensor, masks: Tensor) -> dict[str, float]:
    present = masks.flatten(1).any(1)
    if not present.any():
        return {}
    heatmaps, masks = heatmaps[present], masks[present]
    overlaps = box_overlaps(heatmaps, masks_to_boxes(masks))
    usual = overlaps[THRESHOLDS.index(0.2)]
    return {
        "pointing_game": mean_of(pointing_game(heatmaps, masks).float(), 0.0),
        "energy_in_box": mean_of(energy_inside(heatmaps, masks), 0.0),
        "box_iou": mean_of(usual, 0.0),
        "box_accuracy": mean_of((usual >= 0.5).float(), 0.0),
        "max_box_accuracy": float((overlaps >= 0.5).float().mean(1).amax()),
    }


def _agreement(ranks: Mapping[str, Tensor]) -> dict[str, float]:
    likeness: dict[str, list[float]] = {key: [] for key in ranks}
    for one, other in combinations(ranks, 2):
        value = mean_of(correlation(ranks[one], ranks[other]), 0.0)
        likeness[one].append(value)
        likeness[other].append(value)
    return {f"{key}/agreement": _average(values) for key, values in likeness.items() if values}


def mean_of(values: Tensor, of_none: float) -> float:
    """Over the images that have a value, else what stands for none: a scalar that is not finite ends a training."""
    kept = values[values.isfinite()]
    return float(kept.double().mean()) if len(kept) else of_none


def _average(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
