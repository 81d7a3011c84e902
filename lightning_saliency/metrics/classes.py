"""The metrics as torchmetrics classes, which add them up over batches and processes, for `self.log` and collections.

`update` takes a batch, `compute` gives a scalar, NaN before the first image.

Example:
    >>> import torch
    >>> metric = BoxAccuracy(threshold=0.2, iou=0.5)
    >>> metric.update(torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]]), torch.tensor([[1, 0, 4, 1]]))
    >>> metric.compute()
    tensor(1.)
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import torch
import torchmetrics
from torch import Tensor

from lightning_saliency.metrics.faithfulness import AREA_UNDER_CURVE
from lightning_saliency.metrics.metric import Metric
from lightning_saliency.metrics.similarity import CENTER_SHIFT, RANK_CORRELATION
from lightning_saliency.metrics.table import METRICS


class MetricOverImages(torchmetrics.Metric):
    """The base of the torchmetrics classes: the mean of a metric over the images that have a value, which is not NaN.

    Args:
        *args: The options of the metric's function.
        **kwargs: The same by name, and the arguments of `torchmetrics.Metric`.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option is out of range.
    """

    is_differentiable = False
    full_state_update = False
    metric: ClassVar[Metric]
    total: Tensor
    count: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(type(self)).bind(*args, **kwargs)
        given.apply_defaults()
        options = given.arguments
        super().__init__(**options.pop("kwargs"))
        for name, value in options.items():
            check = self.metric.checks.get(name)
            setattr(self, name, check(name, value) if check else value)
        best_of = self.metric.best_of
        values = torch.zeros(() if best_of is None else len(getattr(self, best_of)))
        self.add_state("total", values, dist_reduce_fx="sum")
        self.add_state("count", values.long(), dist_reduce_fx="sum")
        # A MetricCollection lets metrics whose states are equal after the first batch share one from then on. Two
        # means may be equal by chance, such as 0 hits at two thresholds: this state differs where class or options do.
        identity = f"{type(self).__module__}.{type(self).__qualname__}{self._options()}"
        self.add_state("identity", torch.tensor(list(identity.encode()), dtype=torch.uint8), dist_reduce_fx="max")

    def update(self, *args: Tensor, **kwargs: Tensor) -> None:
        """Add a batch: what the metric's function reads."""
        values = self.metric.function(*args, **kwargs, **self._options())
        known = ~values.isnan()
        # not in place: the state may have been made in inference mode, and the next update be outside
        self.total = self.total + values.where(known, 0).sum(0)
        self.count = self.count + known.sum(0)

    def compute(self) -> Tensor:
        """Return the mean over the images; of a metric with a best option, the best of the means."""
        means = self.total / self.count
        if self.metric.best_of is None:
            return means
        return means.min() if self.metric.higher_is_better is False else means.max()

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.metric.options}


def torchmetrics_class(metric: Metric, module: str = __name__) -> type[MetricOverImages]:
    """Make the torchmetrics class of a metric.

    Args:
        metric: A row of `METRICS`, or one of your own.
        module: Where the class will stand, which is where pickle looks for it: pass `__name__`.

    Returns:
        The class, named `class_name`, or as the metric in CamelCase. Its constructor takes the options of the
        metric's function, its `update` what the function reads.

    Example:
        >>> def peak(heatmaps):
        ...     return heatmaps.amax((1, 2, 3))
        >>> row = Metric("peak", peak, "largest value", ("heatmaps",), (0, 1), higher_is_better=True, worst=0)
        >>> Peak = torchmetrics_class(row, __name__)
        >>> mean = Peak()
        >>> mean.update(torch.tensor([[[[0.25, 0.5]]], [[[1.0, 0.0]]]]))
        >>> mean.compute()
        tensor(0.7500)
    """

    def update(self: MetricOverImages, *args: Tensor, **kwargs: Tensor) -> None:
        MetricOverImages.update(self, *args, **kwargs)

    name = metric.class_name or "".join(word.capitalize() for word in metric.name.split("_"))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    reads = [inspect.Parameter(name, kind, annotation=Tensor) for name in ("self", *metric.arguments)]
    options = [inspect.Parameter(name, kind, default=value) for name, value in metric.options.items()]
    # a MetricCollection gives each of its members the arguments that the signature names
    update.__dict__["__signature__"] = inspect.Signature(reads, return_annotation=None)
    update.__doc__ = f"Add a batch: {', '.join(metric.arguments)}."
    namespace = {
        "__module__": module,
        "__doc__": _docstring(metric),
        "__signature__": inspect.Signature([*options, inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]),
        "metric": metric,
        "higher_is_better": metric.higher_is_better,
        "update": update,
    }
    made: type[MetricOverImages] = type(name, (MetricOverImages,), namespace)
    return made


def _docstring(metric: Metric) -> str:
    """What the class is, made of the row and of what its function's docstring says of the arguments."""
    _, _, text = inspect.cleandoc(metric.function.__doc__ or "").partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", text.partition("\n\n")[0], re.MULTILINE)
    lines = {name: f"    {name}: {line}" for name, line in entries}
    paper = f" ({metric.paper})" if metric.paper else ""
    of_best = f" at the best of the `{metric.best_of}`, one for all images" if metric.best_of else ""
    bounds = f" Range and better end: {metric.bounds}." if metric.bounds else ""
    return "\n".join(
        [
            f"{metric.description[:1].upper()}{metric.description[1:]}{paper}.\n",
            f"The mean of `{metric.function.__name__}` over the images{of_best}; those without a value, NaN, are left "
            f"out.{bounds} `update({', '.join(metric.arguments)})` adds a batch.\n",
            "Args:",
            *(lines.get(name, f"    {name}: An option of the function.") for name in metric.options),
            "    **kwargs: Those of `torchmetrics.Metric`.\n",
            "What `update` takes:",
            *(lines.get(name, f"    {name}: As the function reads it.") for name in metric.arguments),
        ]
    )


HeatmapEntropy = torchmetrics_class(METRICS["entropy"])
AreaAbove = torchmetrics_class(METRICS["area_above_half"])
BlankFraction = torchmetrics_class(METRICS["blank_fraction"])
PrefixRelevance = torchmetrics_class(METRICS["prefix_relevance"])
RawMaximum = torchmetrics_class(METRICS["raw_maximum"])
RankCorrelation = torchmetrics_class(RANK_CORRELATION)
CenterShift = torchmetrics_class(CENTER_SHIFT)
PointingGame = torchmetrics_class(METRICS["pointing_game"])
EnergyInside = torchmetrics_class(METRICS["energy_in_box"])
BoxIoU = torchmetrics_class(METRICS["box_iou"])
BoxAccuracy = torchmetrics_class(METRICS["box_accuracy"])
MaxBoxAccuracy = torchmetrics_class(METRICS["max_box_accuracy"])
AverageDrop = torchmetrics_class(METRICS["average_drop"])
IncreaseInConfidence = torchmetrics_class(METRICS["increase_in_confidence"])
AreaUnderCurve = torchmetrics_class(AREA_UNDER_CURVE)
