"""How much the model itself relies on what a heatmap marks: from its scores, however they were obtained."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.metrics.checks import at_least_float32


def average_drop(before: Tensor, after: Tensor) -> Tensor:
    """Which share of its confidence the model loses when it sees only what the heatmap marks.

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
    """Whether the model is surer when it sees only what the heatmap marks.

    after > before, Chattopadhyay et al. 2018, "Grad-CAM++". The paper's figure is the share of the images,
    in percent. Higher is better: the heatmap has left out what confused.

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
    """The area under each curve of scores, such as those of deletion and insertion.

    By the trapezoidal rule. Petsiuk et al. 2018, "RISE", take an image's pixels away, the most important
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
        raise ValueError(f"Expected `curves` to be (N, S) with 2 steps or more, got shape {tuple(curves.shape)}.")
    return torch.trapezoid(at_least_float32(curves), dx=1 / (curves.shape[1] - 1), dim=1)


def _checked(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    if before.dim() != 1:
        raise ValueError(f"Expected `before` to be (N,), got shape {tuple(before.shape)}.")
    if after.shape != before.shape:
        raise ValueError(f"Expected `after` to be {tuple(before.shape)} as `before`, got shape {tuple(after.shape)}.")
    return at_least_float32(before), at_least_float32(after)
