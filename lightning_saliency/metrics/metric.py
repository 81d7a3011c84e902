"""What a row of the table of metrics says: how a metric is computed for an image, and what its values mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from torch import Tensor

from lightning_saliency._checks import check_choice, refuse

INPUTS = {
    "attributions": "raw attributions of the method, `(N, 1, h, w)`",
    "heatmaps": "its heatmaps at image size, `(N, 1, H, W)` in [0, 1]",
    "coarse_heatmaps": "the same, averaged down to at most 32 pixels a side",
    "ranks": "the rank of each pixel of the coarse heatmaps in its map, `(N, P)`",
    "other_methods_ranks": "the same of the M other methods, `(N, M, P)`; where there are others",
    "masks": "pixels of the objects, `(N, 1, H, W)` bool; of images that have one",
    "boxes": "boxes around these, `(N, 4)`; of images that have one",
    "previous_heatmaps": "coarse heatmaps of the last look; of images that it had",
    "previous_ranks": "the ranks of these",
    "initial_heatmaps": "coarse heatmaps before training; of images that were there",
    "initial_ranks": "the ranks of these",
    "prefix_relevance": "its note of this name, `(N,)`; of `attention_relevance`",
}
"""What a metric can read of one method's maps at a look, by name; all on the CPU."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric: a number for each image, which becomes one for a set of images.

    It is a row of `lightning_saliency.metrics.METRICS`, from which a look's scalars, the documentation's table and the
    torchmetrics classes are made.

    Attributes:
        name: The last part of the scalar `saliency/<method>/<name>`, and the row's key in the table.
        function: Returns a value per image, `(N,)`, or several, `(N, K)`; NaN where there is none. Its parameters
            without a default are what it reads, those with one are options.
        description: What the metric says, in a line for the documentation.
        inputs: Which of `INPUTS` the function is called with at a look; none where its values come from running the
            model, and are handed to `measure`.
        range: The lowest and the highest value; infinite where there is no bound.
        higher_is_better: Whether it is; None where neither is.
        worst: What is logged where no image has a value, as a training that monitors NaN ends: the bad end of the
            range; 0 where no end is bad, and for a correlation or a shift, of which there is none to speak of.
        paper: Where it comes from, as a link in Markdown.
        section: The heading that the documentation's table lists it under.
        class_name: Of its torchmetrics class; the name in CamelCase by default.
        checks: By option a function of its name and value that refuses a wrong value, or returns the right one.
        best_of: The option that the K values per image belong to, each to one entry. The value of a set of images is
            then the best one of the K means, which is one entry for all images. Without it, it is the mean of these.
        by_default: Whether it is logged where the user names no metrics; of the first method's maps.

    Example:
        >>> def peak(heatmaps, power=1):
        ...     return heatmaps.amax((1, 2, 3)) ** power
        >>> row = Metric("peak", peak, "largest value", ("heatmaps",), (0, 1), higher_is_better=True, worst=0)
        >>> row.arguments, row.options, row.bounds
        (('heatmaps',), {'power': 1}, '0 to 1, higher')
    """

    name: str
    function: Callable[..., Tensor]
    description: str
    inputs: tuple[str, ...]
    range: tuple[float, float]
    higher_is_better: bool | None
    worst: float
    paper: str = ""
    section: str = ""
    class_name: str | None = None
    checks: Mapping[str, Callable[[str, Any], Any]] = field(default_factory=dict)
    best_of: str | None = None
    by_default: bool = True

    def __post_init__(self) -> None:
        for name in self.inputs:
            check_choice("inputs", name, list(INPUTS))
        if self.inputs and len(self.inputs) != len(self.arguments):
            refuse("inputs", f"one for each of {', '.join(self.arguments)}", ", ".join(self.inputs))
        if not math.isfinite(self.worst) or not self.range[0] <= self.worst <= self.range[1]:
            refuse("worst", f"a finite number from {self.range[0]} to {self.range[1]}", self.worst)
        check_choice("best_of", self.best_of, [None, *self.options])

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the function reads, by its own names."""
        parameters = signature(self.function).parameters.values()
        return tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)

    @property
    def options(self) -> dict[str, Any]:
        """The function's options and their defaults."""
        parameters = signature(self.function).parameters.values()
        return {one.name: one.default for one in parameters if one.default is not one.empty}

    @property
    def bounds(self) -> str:
        """The range and the better end in words; empty where there is neither."""
        low, high = (f"{round(end, 2):g}".replace("-", "−") for end in self.range)
        better = {None: "", True: "higher", False: "lower"}[self.higher_is_better]
        return ", ".join(filter(None, ("" if "inf" in low + high else f"{low} to {high}", better)))

    def over_images(self, values: Tensor) -> float:
        """Return the value of a set of images, which is always finite.

        Args:
            values: Those of its images, `(N,)` or `(N, K)`; what is not finite is left out.
        """
        columns = (values if values.dim() == 2 else values[:, None]).unbind(1)
        known = [column[column.isfinite()].double() for column in columns]
        means = [float(column.mean()) if len(column) else self.worst for column in known]
        if self.best_of is None:
            return sum(means) / len(means)
        return min(means) if self.higher_is_better is False else max(means)
