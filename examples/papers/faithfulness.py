"""What the network says of what the maps mark: Table 1 of Grad-CAM++, and deletion and insertion of RISE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from maps import Contest
from photographs import Photographs
from tables import REFERENCE, Column, Values, mean_of
from torch import Tensor

from lightning_saliency.metrics import METRICS, measure_faithfulness

REFERENCE_ROW = "Grad-CAM++"
COMPARED = "Grad-CAM"


def measure_scores(contest: Contest, steps: int) -> Callable[[Photographs], dict[str, Values]]:
    """Return how a batch is measured: for the predicted class, a blank map as the worst that there can be.

    Args:
        contest: Who is measured.
        steps: In how many steps pixels are deleted and inserted; 1 where only the drop is wanted.
    """

    def measure(batch: Photographs) -> dict[str, Values]:
        explanation, maps = contest.explain(batch.images, contest.predicted(batch.images))
        if steps == 1 and {COMPARED, REFERENCE_ROW} <= maps.keys():  # its order of pixels is that of the map itself
            maps[f"{COMPARED}, showing as much as ++"] = showing_as_much(maps[COMPARED], maps[REFERENCE_ROW])
        scores = measure_faithfulness(contest.model, explanation, heatmaps=maps, steps=steps)
        return {
            row: {
                "shown": maps[row].mean((1, 2, 3)).double().numpy(),
                **{name: values.nan_to_num(METRICS[name].worst).double().numpy() for name, values in metrics.items()},
            }
            for row, metrics in scores.items()
        }

    return measure


def showing_as_much(heatmaps: Tensor, others: Tensor) -> Tensor:
    """Return heatmaps raised to a power each, so that their mean is that of others: the order of pixels stays.

    A map that shows more of the image loses less. What is left of a difference between two methods when one is made to
    show as much as the other is where they look.

    Args:
        heatmaps: `(N, 1, H, W)` in [0, 1].
        others: The same shape.
    """
    low, high = torch.full((len(heatmaps), 1, 1, 1), 1e-3), torch.full((len(heatmaps), 1, 1, 1), 1e3)
    wanted = others.mean((1, 2, 3), keepdim=True)
    for _ in range(40):  # bisection over the logarithm of the power
        power = (low * high).sqrt()
        shows_more = (heatmaps**power).mean((1, 2, 3), keepdim=True) > wanted
        low, high = torch.where(shows_more, power, low), torch.where(shows_more, high, power)
    return heatmaps ** (low * high).sqrt()


def wins(values: Values) -> float:
    """Return the fraction of the images where the drop is smaller than that of the row of reference."""
    return float(np.mean(values["average_drop"] < values[f"{REFERENCE}average_drop"]))


def losses(values: Values) -> float:
    """Return the fraction of the images where the drop is larger than that of the row of reference."""
    return float(np.mean(values["average_drop"] > values[f"{REFERENCE}average_drop"]))


def difference(name: str) -> Callable[[Values], float]:
    """Return the statistic that is how far the mean is above that of the row of reference."""
    return lambda values: float(np.mean(values[name] - values[f"{REFERENCE}{name}"]))


DROP_COLUMNS = (
    Column("average drop %", mean_of("average_drop")),
    Column("shown of the image %", mean_of("shown")),
    Column("increase %", mean_of("increase_in_confidence")),
    Column(f"drop − that of {REFERENCE_ROW}", difference("average_drop"), is_paired=True),
    Column(f"win % against {REFERENCE_ROW}", wins, is_paired=True),
    Column("loss %", losses, is_paired=True),
)

CURVE_COLUMNS = (
    Column("deletion (lower is better)", mean_of("deletion"), scale=1),
    Column("insertion (higher is better)", mean_of("insertion"), scale=1),
    Column(f"insertion − that of {REFERENCE_ROW}", difference("insertion"), scale=1, is_paired=True),
)
