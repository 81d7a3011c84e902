"""Tables in Markdown of what was measured on each image, with 95 % confidence intervals over the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = Mapping[str, NDArray[Any]]
"""What was measured, by name; the first axis is that of the images."""

RESAMPLES = 1000
REFERENCE = "reference "
"""Before the names of what was measured on the table's row of reference, beside which another row is put."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        statistic: The figure, a fraction, from what was measured on all images.
        scale: By what it is multiplied: 100 for percent.
        is_paired: Whether it compares with the row of reference, and so says nothing in that row itself.
    """

    title: str
    statistic: Callable[[Values], float]
    scale: float = 100
    is_paired: bool = False


def mean_of(name: str) -> Callable[[Values], float]:
    """Return the statistic that is the mean of what has a number."""
    return lambda values: float(np.nanmean(values[name])) if np.isfinite(values[name]).any() else np.nan


def interval(statistic: Callable[[Values], float], values: Values, seed: int = 0) -> tuple[float, float, float]:
    """Return a statistic with its 95 % confidence interval: the percentile bootstrap over the images.

    Example:
        >>> interval(mean_of("drop"), {"drop": np.full(10, 0.5)})
        (0.5, 0.5, 0.5)
    """
    count = len(next(iter(values.values())))
    draws = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    resampled = [statistic({name: numbers[rows] for name, numbers in values.items()}) for rows in draws]
    low, high = np.nanpercentile(resampled, [2.5, 97.5]) if np.isfinite(resampled).any() else (np.nan, np.nan)
    return statistic(values), float(low), float(high)


def markdown(columns: Sequence[Column], rows: Mapping[str, Values], reference: str) -> str:
    """Return a table: each figure with its interval, rows in the order given.

    Args:
        columns: The columns after the first, which has the rows' names.
        rows: By the row's name, what was measured.
        reference: The row that paired columns compare with.
    """
    lines = [f"| map | {' | '.join(column.title for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    beside = {f"{REFERENCE}{name}": numbers for name, numbers in rows[reference].items()}
    for row, values in rows.items():
        cells = [
            "" if column.is_paired and row == reference else _cell(column, {**values, **beside}) for column in columns
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(column: Column, values: Values) -> str:
    figure, low, high = (column.scale * number for number in interval(column.statistic, values))
    digits = 1 if column.scale == 100 else 2
    if np.isnan(figure):
        return "–"
    return f"{figure:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})".replace("-", "−")
