"""The metrics over a whole validation set: a `torchmetrics.Metric` for each function, for `self.log` and collections.

Each is the mean over the images of what the function of the same name says of one. `update` takes a batch, `compute`
gives a scalar, NaN before the first image. The keyword arguments are those of `torchmetrics.Metric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_saliency.metrics.checks import check_iou, check_threshold, check_thresholds
from lightning_saliency.metrics.faithfulness import area_under_curve, average_drop, increase_in_confidence
from lightning_saliency.metrics.focus import area_above, center_shift, entropy, rank_correlation
from lightning_saliency.metrics.objects import (
    THRESHOLDS,
    box_accuracy,
    box_hits,
    box_iou,
    energy_inside,
    heatmaps_to_boxes,
    pointing_game,
)


class _MeanOfImages(Metric):
    """The mean of a number per image; images without one, NaN, are left out."""

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self._stay_apart()

    def compute(self) -> Tensor:
        return self.total / self.count

    def _add(self, values: Tensor) -> None:
        known = values[~values.isnan()]
        # not in place: the state may have been made in inference mode, and the next update be outside
        self.total = self.total + known.sum()
        self.count = self.count + len(known)

    def _stay_apart(self, *options: object) -> None:
        # A MetricCollection lets metrics whose states are equal after the first batch share one from then on. Two
        # means may be equal by chance, such as 0 hits at two thresholds: this state differs where class or options do.
        name = f"{type(self).__module__}.{type(self).__qualname__}{options}"
        self.add_state("identity", torch.tensor(list(name.encode()), dtype=torch.uint8), dist_reduce_fx="max")


class HeatmapEntropy(_MeanOfImages):
    """How spread out the heatmaps are: the mean of `entropy`, in [0, 1]; lower is more focused.

    `update(heatmaps)`: `(N, 1, H, W)`, not negative. Blank maps are left out.

    Example:
        >>> metric = HeatmapEntropy()
        >>> metric.update(torch.tensor([[[[1.0, 0.0]]], [[[0.3, 0.3]]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def update(self, heatmaps: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)`."""
        self._add(entropy(heatmaps))


class AreaAbove(_MeanOfImages):
    """The share of pixels above a fraction of the maximum: the mean of `area_above`, in (0, 1]; lower is more focused.

    `update(heatmaps)`: `(N, 1, H, W)`, not negative. Blank maps are left out.

    Args:
        threshold: That fraction, in [0, 1).
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: The threshold is out of range.

    Example:
        >>> metric = AreaAbove(threshold=0.5)
        >>> metric.update(torch.tensor([[[[1.0, 0.6, 0.2, 0.0]]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = check_threshold(threshold)
        self._stay_apart(threshold)

    def update(self, heatmaps: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)`."""
        self._add(area_above(heatmaps, self.threshold))


class CenterShift(_MeanOfImages):
    """How far the heatmaps move between two states: the mean of `center_shift`, in [0, √2]; lower is more stable.

    `update(heatmaps, others)`: `(N, 1, H, W)` and `(N, 1, h, w)`, not negative, such as the maps of two epochs. Images
    of which one map is blank are left out.

    Example:
        >>> metric = CenterShift()
        >>> metric.update(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def update(self, heatmaps: Tensor, others: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 1, h, w)`."""
        self._add(center_shift(heatmaps, others))


class RankCorrelation(_MeanOfImages):
    """How alike two kinds of heatmaps are: the mean of `rank_correlation` (Adebayo et al. 2018), in [-1, 1].

    Higher is more alike, which is good for the maps of one model under noise and bad for those of a model with random
    weights: `higher_is_better` is left open. `update(heatmaps, others)`: `(N, 1, H, W)`, both. Images of which one map
    is constant are left out.

    Example:
        >>> metric = RankCorrelation()
        >>> heatmap = torch.tensor([[[[0.1, 0.2, 0.9]]]])
        >>> metric.update(heatmap, heatmap**2)
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = None

    def update(self, heatmaps: Tensor, others: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)`, both."""
        self._add(rank_correlation(heatmaps, others))


class PointingGame(_MeanOfImages):
    """The share of heatmaps whose maximum lies on the object (Zhang et al. 2016), in [0, 1]; higher is better.

    The mean of `pointing_game`. `update(heatmaps, masks)`: `(N, 1, H, W)`, not negative, and `(N, 1, H, W)` bool. A
    blank map misses, and so does any map of an empty mask: leave images without the object out.

    Example:
        >>> metric = PointingGame()
        >>> metric.update(torch.tensor([[[[0.1, 0.9]]]]), torch.tensor([[[[False, True]]]]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 1, H, W)` bool."""
        self._add(pointing_game(heatmaps, masks))


class EnergyInside(_MeanOfImages):
    """The share of the heatmaps that lies on the object (Wang et al. 2020, "Score-CAM"), in [0, 1]; higher is better.

    The mean of `energy_inside`. `update(heatmaps, masks)`: `(N, 1, H, W)`, not negative, and `(N, 1, H, W)` bool. Blank
    maps are left out; an empty mask has nothing inside.

    Example:
        >>> metric = EnergyInside()
        >>> metric.update(torch.tensor([[[[0.5, 1.5]]]]), torch.tensor([[[[False, True]]]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 1, H, W)` bool."""
        self._add(energy_inside(heatmaps, masks))


class BoxIoU(_MeanOfImages):
    """How well the heatmaps' boxes agree with the true ones: the mean of their IoU, in [0, 1]; higher is better.

    The boxes are those of `heatmaps_to_boxes` (Zhou et al. 2016). `update(heatmaps, boxes)`: `(N, 1, H, W)`, not
    negative, and `(N, 4)`. A blank map counts as 0.

    Args:
        threshold: The fraction of each map's maximum that the box is drawn around, in [0, 1).
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: The threshold is out of range.

    Example:
        >>> metric = BoxIoU()
        >>> metric.update(torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]]), torch.tensor([[1, 0, 2, 1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, threshold: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = check_threshold(threshold)
        self._stay_apart(threshold)

    def update(self, heatmaps: Tensor, boxes: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 4)`."""
        self._add(box_iou(heatmaps_to_boxes(heatmaps, self.threshold)[0], boxes))


class BoxAccuracy(_MeanOfImages):
    """The share of objects that the heatmaps' boxes find (Zhou et al. 2016), in [0, 1]; higher is better.

    The mean of `box_accuracy`. `update(heatmaps, boxes)`: `(N, 1, H, W)`, not negative, and `(N, 4)`. A blank map
    misses.

    Args:
        threshold: The fraction of each map's maximum that the box is drawn around, in [0, 1).
        iou: The overlap that counts, in (0, 1].
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> metric = BoxAccuracy(threshold=0.2, iou=0.5)
        >>> metric.update(torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]]), torch.tensor([[1, 0, 4, 1]]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, threshold: float = 0.2, iou: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = check_threshold(threshold)
        self.iou = check_iou(iou)
        self._stay_apart(threshold, iou)

    def update(self, heatmaps: Tensor, boxes: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 4)`."""
        self._add(box_accuracy(heatmaps, boxes, self.threshold, self.iou))


class MaxBoxAccuracy(_MeanOfImages):
    """The share of objects found at the best threshold for the whole set (Choe et al. 2020), in [0, 1].

    `max_box_accuracy`; higher is better. `update(heatmaps, boxes)`: `(N, 1, H, W)`, not negative, and `(N, 4)`. A blank
    map misses.

    Args:
        thresholds: τ, fractions of each map's maximum, in [0, 1).
        iou: δ, the overlap that counts, in (0, 1].
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: An option is out of range.

    Example:
        >>> metric = MaxBoxAccuracy(iou=0.7)
        >>> metric.update(torch.tensor([[[[0.1, 0.9, 0.6, 0.0]]]]), torch.tensor([[1, 0, 2, 1]]))
        >>> metric.update(torch.tensor([[[[1.0, 0.3, 0.0, 0.0]]]]), torch.tensor([[0, 0, 1, 1]]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, iou: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = check_thresholds(thresholds)
        self.iou = check_iou(iou)
        self.add_state("total", torch.zeros(len(self.thresholds), dtype=torch.float32), dist_reduce_fx="sum")
        self._stay_apart(self.thresholds, iou)

    def update(self, heatmaps: Tensor, boxes: Tensor) -> None:
        """Adds a batch: `(N, 1, H, W)` and `(N, 4)`."""
        hits = box_hits(heatmaps, boxes, self.thresholds, self.iou)
        self.total = self.total + hits.sum(1)
        self.count = self.count + len(heatmaps)

    def compute(self) -> Tensor:
        """The share at the threshold that has the most."""
        return (self.total / self.count).max()


class AverageDrop(_MeanOfImages):
    """Which share of its confidence the model loses when it sees only what the heatmaps mark; lower is better.

    The mean of `average_drop` (Chattopadhyay et al. 2018, "Grad-CAM++"), in [0, 1]. `update(before, after)`:
    the explained class's probability, `(N,)`, for the images and for the images times their heatmaps. Images without a
    positive `before` are left out.

    Example:
        >>> metric = AverageDrop()
        >>> metric.update(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        >>> metric.compute()
        tensor(0.1250)
    """

    higher_is_better = False

    def update(self, before: Tensor, after: Tensor) -> None:
        """Adds a batch: `(N,)`, both."""
        self._add(average_drop(before, after))


class IncreaseInConfidence(_MeanOfImages):
    """The share of images of which the model is surer when it sees only what the heatmaps mark; higher is better.

    The mean of `increase_in_confidence` (Chattopadhyay et al. 2018, "Grad-CAM++"), in [0, 1]. `update(before, after)`:
    the explained class's probability, `(N,)`, for the images and for the images times their heatmaps.

    Example:
        >>> metric = IncreaseInConfidence()
        >>> metric.update(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def update(self, before: Tensor, after: Tensor) -> None:
        """Adds a batch: `(N,)`, both."""
        self._add(increase_in_confidence(before, after))


class AreaUnderCurve(_MeanOfImages):
    """The area under the curves of deletion or insertion (Petsiuk et al. 2018, "RISE"): the mean of `area_under_curve`.

    In [0, 1] for probabilities. Deletion: lower is better; insertion: higher is better; so `higher_is_better` is left
    open. `update(curves)`: `(N, S)`, the scores at S ≥ 2 equally spaced steps. Curves with a NaN are left out.

    Example:
        >>> deletion = AreaUnderCurve()
        >>> deletion.update(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
        >>> deletion.compute()
        tensor(0.3750)
    """

    higher_is_better = None

    def update(self, curves: Tensor) -> None:
        """Adds a batch: `(N, S)`."""
        self._add(area_under_curve(curves))
