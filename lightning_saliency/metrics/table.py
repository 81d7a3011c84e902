"""The table of all metrics that are logged, from which scalars, documentation and torchmetrics classes are made.

A metric of your own is one row more, in the table before the training starts:

    >>> def contrast(heatmaps):
    ...     return heatmaps.flatten(1).std(1)
    >>> METRICS["contrast"] = Metric(
    ...     "contrast", contrast, "standard deviation", ("heatmaps",), (0, 0.5), higher_is_better=None, worst=0
    ... )
    >>> print(metrics_table().splitlines()[-1])
    | `contrast` | standard deviation | 0 to 0.5 | 0 |
    >>> del METRICS["contrast"]
"""

from __future__ import annotations

from dataclasses import replace

from lightning_saliency.metrics import concentration, faithfulness, localization, randomization, similarity
from lightning_saliency.metrics.metric import Metric

_BY_DEFAULT = ("entropy", "rank_correlation_initial", "energy_in_box")
"""Those that say most: how focused the maps are, what training has changed, and whether they are on objects."""

METRICS: dict[str, Metric] = {
    row.name: replace(row, by_default=row.name in _BY_DEFAULT)
    for row in (
        *concentration.ROWS,
        *similarity.ROWS,
        *localization.ROWS,
        *faithfulness.ROWS,
        *randomization.ROWS,
    )
}
"""By name, in the order of the documentation."""


def metrics_table() -> str:
    """Return the table as Markdown: each metric, what it says, its range, which end is better, and the worst value.

    Example:
        >>> print(metrics_table().splitlines()[2])
        | `entropy` | entropy of the map over that of an even one: the lower, the more focused | 0 to 1, lower | 1 |
    """
    lines = ["| metric | what it says | range, better | worst |", "|---|---|---|---|"]
    section = ""
    for name, metric in METRICS.items():
        if metric.section != section:
            section = metric.section
            lines.append(f"| *{section}* | | | |")
        paper = f" ({metric.paper})" if metric.paper else ""
        cells = f"| `{name}` | {metric.description}{paper} | {metric.bounds} | {metric.worst:g} |"
        lines.append(cells.replace("|  |", "| |"))
    return "\n".join(lines) + "\n"
