"""Whether the libraries' maps are ours: Pearson's correlation of the maps of one method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from maps import Contest
from photographs import Photographs
from tables import Column, Values, mean_of
from torch import Tensor


def measure_agreement(contest: Contest) -> Callable[[Photographs], dict[str, Values]]:
    """Return how a batch is measured, for the predicted class: each library's maps beside ours of the same method."""

    def measure(batch: Photographs) -> dict[str, Values]:
        _, maps = contest.explain(batch.images, contest.predicted(batch.images))
        return {
            row: {"correlation": pearson(heatmaps, maps[row.partition(", ")[0]])}
            for row, heatmaps in maps.items()
            if ", " in row and row.partition(", ")[0] in maps
        }

    return measure


def pearson(maps: Tensor, others: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the correlation of each two maps over their pixels, `(N,)`; NaN where one is blank."""
    one, other = (rows.flatten(1).double() for rows in (maps, others))
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    result: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = (
        (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    ).numpy()
    return result


def tenth_percentile(values: Values) -> float:
    """Return the correlation that a tenth of the images fall below."""
    numbers = values["correlation"][np.isfinite(values["correlation"])]
    return float(np.percentile(numbers, 10)) if numbers.size else np.nan


AGREEMENT_COLUMNS = (
    Column("mean correlation", mean_of("correlation"), scale=1),
    Column("10th percentile", tenth_percentile, scale=1),
    Column("images below 0.9, %", lambda values: float((values["correlation"] < 0.9).mean())),
)
