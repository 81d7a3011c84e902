"""Perturbation methods: the change of the score when the image or the activations change, by forward passes only.

Symbols: A = activations of the target layer, k a channel, x = the input, S = the score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from lightning_saliency._checks import check_count, check_number, optional
from lightning_saliency.attribution.cam_family import required, weighted_sum
from lightning_saliency.attribution.method import Method
from lightning_saliency.data import interpolated, over_axes, shorter_lengths, spatial_axes
from lightning_saliency.evidence import Evidence, Need, Passes


def score_cam(evidence: Evidence, passes: Passes) -> Tensor:
    """Score-CAM (Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for CNNs").

    L = ReLU(Σ_k w_k A_k), w = softmax_k(S(x ⊙ H_k) − S(0)), H_k = A_k upsampled to the image and scaled to [0, 1]. A
    channel that is constant has the weight 0. S is the logit, as in the paper's Algorithm 1, so that the
    weights can be near to one channel's alone; the authors' code weighs by the class's probability instead.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs one forward for each channel of each image.
    """
    A = required(evidence.activations)
    masks = interpolated(A, evidence.images.shape[2:])
    masks = masks - masks.amin(spatial_axes(masks), keepdim=True)
    peak = masks.amax(spatial_axes(masks), keepdim=True)
    # upsampling leaves rounding noise in a constant channel: tested on A itself
    is_usable = (peak.flatten(1) > 0) & (A.amax(spatial_axes(A)) > A.amin(spatial_axes(A)))
    masks = torch.where(peak > 0, masks / peak, 0.0)

    def masked_scores(row: int, channels: slice) -> Tensor:
        return passes.scores(evidence.images[row] * masks[row, channels, None], row)

    scores = _channel_scores(passes, A, masked_scores, "score_cam").masked_fill(~is_usable, -torch.inf)
    weights = scores.softmax(1).nan_to_num(0.0)  # S(0) is the same for all channels: the softmax does not see it
    return weighted_sum(over_axes(weights, A), A).relu()


def ablation_cam(evidence: Evidence, passes: Passes) -> Tensor:
    """Ablation-CAM (Desai & Ramaswamy 2020, "Ablation-CAM: Visual Explanations ... via Gradient-free Localization").

    L = ReLU(Σ_k w_k A_k), w_k = (S − S_k) / S, S_k the score where channel k of A is set to 0. The divisor here is
    |S|: the same for positive scores, which the paper assumes, and the right sign for negative ones.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs one forward for each channel of each image.
    """
    A = required(evidence.activations)

    def ablated_scores(row: int, channels: slice) -> Tensor:
        ablated = torch.arange(A.shape[1], device=A.device)[channels]
        copies = _copies(A[row], len(ablated))
        copies[torch.arange(len(ablated), device=A.device), ablated] = 0
        image = evidence.images[row]
        return passes.scores(image.expand(len(ablated), *image.shape), row, copies)

    scores = _channel_scores(passes, A, ablated_scores, "ablation_cam")
    full_scores = evidence.scores[:, None]
    weights = torch.where(full_scores == 0, 0.0, (full_scores - scores) / full_scores.abs())
    return weighted_sum(over_axes(weights, A), A).relu()


def occlusion(
    evidence: Evidence,
    passes: Passes,
    *,
    size: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014, section 4.2).

    A square slides over the image; the map at a pixel is the mean of S(x) − S(x with the square covered) over the
    squares that cover it, signed; 0 where none does. Over a volume slides a cuboid, over a signal a window.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs one forward for each position of the square in each image.
        size: Side of the square in pixels; an eighth of the image's shorter side by default. In depth, a cuboid is an
            eighth of the volume's by default: it may be in other units than the slices.
        stride: Step between squares; half of the size by default. The last one ends at the border.
        fill: The value of the covered pixels; 0 is the mean color where the input is normalized.
    """
    x = evidence.images
    windows = _windows(x.shape[2:], size, stride)
    drops, counts = x.new_zeros(len(x), *x.shape[2:]), x.new_zeros(x.shape[2:])
    for window in windows:
        counts[window] += 1
    chunks = [
        (row, windows[start : start + passes.batch_size])
        for row in range(len(x))
        for start in range(0, len(windows), passes.batch_size)
    ]
    for row, chunk in passes.steps(chunks, "occlusion"):
        covered = _copies(x[row], len(chunk))
        for copy, window in zip(covered, chunk, strict=True):
            copy[(slice(None), *window)] = fill
        for drop, window in zip(evidence.scores[row] - passes.scores(covered, row), chunk, strict=True):
            drops[row][window] += drop
    return (drops / counts.clamp(min=1))[:, None]


_LAYER: frozenset[Need] = frozenset({"activations"})
_SQUARE = {"size": optional(check_count), "stride": optional(check_count), "fill": check_number}
ROWS = {
    "score_cam": Method(score_cam, "Score-CAM", _LAYER, extra="perturbed"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM", _LAYER, extra="perturbed"),
    "occlusion": Method(
        occlusion, "Occlusion", frozenset(), extra="perturbed", checks=_SQUARE, aliases=("occlusion_sensitivity",)
    ),
}
"""Rows of the method table."""


def _channel_scores(passes: Passes, A: Tensor, scores: Callable[[int, slice], Tensor], title: str) -> Tensor:
    """Return the score for each channel of each image, `(N, D)`."""
    starts = range(0, A.shape[1], passes.batch_size)
    chunks = [(row, slice(start, start + passes.batch_size)) for row in range(len(A)) for start in starts]
    chunk_scores = [scores(row, channels) for row, channels in passes.steps(chunks, title)]
    return torch.cat(chunk_scores).view(len(A), -1)


def _copies(tensor: Tensor, count: int) -> Tensor:
    """Return so many copies of a tensor, into which one may write."""
    return tensor.repeat(count, *[1] * tensor.dim())


def _windows(image_size: Sequence[int], side: int | None, stride: int | None) -> list[tuple[slice, ...]]:
    """Return the places of the square, or of the window with as many axes as the image."""
    axes = []
    for length, shorter in zip(image_size, shorter_lengths(image_size), strict=True):
        size = min(side or max(shorter // 8, 1), shorter)
        axes.append([slice(start, start + size) for start in _starts(length, size, stride or max(size // 2, 1))])
    return list(product(*axes))


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixel of each square along one axis: in strides, the last square ending at the border."""
    return sorted({*range(0, length - size + 1, stride), length - size})
