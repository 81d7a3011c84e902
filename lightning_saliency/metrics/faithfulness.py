"""How much the model itself relies on what heatmaps mark: metrics of its scores for changed images."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lightning_saliency._checks import check_shape, refuse
from lightning_saliency.metrics._maps import at_least_float32
from lightning_saliency.metrics.metric import Metric


def average_drop(before: Tensor, after: Tensor) -> Tensor:
    """Return the fraction of its confidence that the model loses when it sees only what the heatmap marks.

    max(0, before − after) / before, Chattopadhyay et al. 2018, "Grad-CAM++". The paper's figure is the
    mean over the images, in percent. Lower is better: the heatmap has kept what mattered.

    Args:
        before: `(N,)`, the explained class's probability for the full image.
        after: `(N,)`, that for the image times its heatmap.

    Returns:
        `(N,)` in [0, 1], if these are probabilities; NaN where `before` is not positive, or one is NaN.

    Raises:
        ValueError: They are not `(N,)`, both.

    Example:
        >>> average_drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([0.2500, 0.0000])
    """
    before, after = _checked(before, after)
    return torch.where(before > 0, (before - after).clamp(min=0) / before, torch.nan)


def increase_in_confidence(before: Tensor, after: Tensor) -> Tensor:
    """Return whether the model is more confident when it sees only what the heatmap marks.

    after > before, Chattopadhyay et al. 2018, "Grad-CAM++". The paper's figure is the percentage of
    the images. Higher is better: the heatmap has left out what confused.

    Args:
        before: `(N,)`, the explained class's probability for the full image.
        after: `(N,)`, that for the image times its heatmap.

    Returns:
        `(N,)` bool, True is better; NaN is no increase.

    Raises:
        ValueError: They are not `(N,)`, both.

    Example:
        >>> increase_in_confidence(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([False,  True])
    """
    before, after = _checked(before, after)
    return after > before


def area_under_curve(curves: Tensor) -> Tensor:
    """Return the area under each curve of scores, such as those of deletion and insertion, by the trapezoidal rule.

    Petsiuk et al. 2018, "RISE", take an image's pixels away, the most important
    first, or put them in, and note the explained class's probability at each step. Deletion: lower is better, it falls
    early. Insertion: higher is better, it rises early.

    Args:
        curves: `(N, S)`, the scores at S ≥ 2 equally spaced steps from none of the pixels (0) to all of them (1).

    Returns:
        `(N,)`, in the scores' range: [0, 1] for probabilities; NaN where one is NaN.

    Raises:
        ValueError: The curves are not `(N, S)` with S ≥ 2.

    Example:
        >>> area_under_curve(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
        tensor([0.5000, 0.2500])
    """
    if curves.dim() != 2 or curves.shape[1] < 2:
        refuse("curves", "(N, S) with 2 steps or more", f"shape {tuple(curves.shape)}")
    return torch.trapezoid(at_least_float32(curves), dx=1 / (curves.shape[1] - 1), dim=1)


def _checked(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    check_shape("before", before, ("N",))
    check_shape("after", after, tuple(before.shape), "as `before`")
    return at_least_float32(before), at_least_float32(after)


AREA_UNDER_CURVE = Metric(
    "area_under_curve", area_under_curve, "area under the curve of scores", inputs=(), range=(0, 1),
    higher_is_better=None, worst=0,
)  # fmt: skip

_of_scores = partial(Metric, inputs=(), range=(0, 1), section="with `faithfulness`")
_GRAD_CAM_PLUS_PLUS = "[Chattopadhyay 2018](https://arxiv.org/abs/1710.11063)"
_RISE = "[Petsiuk 2018](https://arxiv.org/abs/1806.07421)"

ROWS = (
    _of_scores(
        "average_drop", average_drop, higher_is_better=False, worst=1, paper=_GRAD_CAM_PLUS_PLUS,
        description="fraction of the class's probability that is lost where the image is multiplied by the map",
    ),
    _of_scores(
        "increase_in_confidence", increase_in_confidence, higher_is_better=True, worst=0, paper=_GRAD_CAM_PLUS_PLUS,
        description="fraction of the images where the class's probability rises by that instead",
    ),
    _of_scores(
        "deletion", area_under_curve, higher_is_better=False, worst=1, paper=_RISE,
        description="area under the curve of the probability while pixels are deleted, the most important first",
    ),
    _of_scores(
        "insertion", area_under_curve, higher_is_better=True, worst=0, paper=_RISE,
        description="area under the same curve while pixels are inserted into a blurred copy",
    ),
)  # fmt: skip
