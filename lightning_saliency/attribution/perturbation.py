"""Perturbation methods: the change of the score when the image or the activations change, by forward passes only.

Symbols: A = activations of the target layer, k a channel, x = the input, S = the score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency._checks import check_count, check_number, optional
from lightning_saliency.attribution.cam_family import required, weighted_sum
from lightning_saliency.attribution.method import Method
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
    masks = F.interpolate(A, evidence.images.shape[2:], mode="bilinear", align_corners=False)
    masks = masks - masks.amin((2, 3), keepdim=True)
    peak = masks.amax((2, 3), keepdim=True)
    # upsampling leaves rounding noise in a constant channel: tested on A itself
    is_usable = (peak[:, :, 0, 0] > 0) & (A.amax((2, 3)) > A.amin((2, 3)))
    masks = torch.where(peak > 0, masks / peak, 0.0)

    def masked_scores(row: int, channels: slice) -> Tensor:
        return passes.scores(evidence.images[row] * masks[row, channels, None], row)

    scores = _channel_scores(passes, A, masked_scores, "score_cam").masked_fill(~is_usable, -torch.inf)
    weights = scores.softmax(1).nan_to_num(0.0)  # S(0) is the same for all channels: the softmax does not see it
    return weighted_sum(weights[:, :, None, None], A).relu()


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
        copies = A[row].repeat(len(ablated), 1, 1, 1)
        copies[torch.arange(len(ablated), device=A.device), ablated] = 0
        return passes.scores(evidence.images[row].expand(len(ablated), -1, -1, -1), row, copies)

    scores = _channel_scores(passes, A, ablated_scores, "ablation_cam")
    full_scores = evidence.scores[:, None]
    weights = torch.where(full_scores == 0, 0.0, (full_scores - scores) / full_scores.abs())
    return weighted_sum(weights[:, :, None, None], A).relu()


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
    squares that cover it, signed; 0 where none does.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs one forward for each position of the square in each image.
        size: Side of the square in pixels; an eighth of the image's shorter side by default.
        stride: Step between squares; half of the size by default. The last one ends at the border.
        fill: The value of the covered pixels; 0 is the mean color where the input is normalized.
    """
    x = evidence.images
    height, width = x.shape[2:]
    size = min(size or max(min(height, width) // 8, 1), height, width)
    stride = stride or max(size // 2, 1)
    corners = [(top, left) for top in _starts(height, size, stride) for left in _starts(width, size, stride)]
    drops, counts = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
    for top, left in corners:
        counts[top : top + size, left : left + size] += 1
    chunks = [
        (row, corners[start : start + passes.batch_size])
        for row in range(len(x))
        for start in range(0, len(corners), passes.batch_size)
    ]
    for row, chunk in passes.steps(chunks, "occlusion"):
        covered = x[row].repeat(len(chunk), 1, 1, 1)
        for copy, (top, left) in zip(covered, chunk, strict=True):
            copy[:, top : top + size, left : left + size] = fill
        for drop, (top, left) in zip(evidence.scores[row] - passes.scores(covered, row), chunk, strict=True):
            drops[row, top : top + size, left : left + size] += drop
    return (drops / counts.clamp(min=1))[:, None]


_LAYER: frozenset[Need] = frozenset({"activations"})
_SQUARE = {"size": optional(check_count), "stride": optional(check_count), "fill": check_number}
ROWS = {
    "score_cam": Method(score_cam, "Score-CAM", _LAYER, extra="perturbed"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM", _LAYER, extra="perturbed"),
    "occlusion": Method(occlusion, "Occlusion", frozenset(), extra="perturbed", checks=_SQUARE),
}
"""Rows of the method table."""


def _channel_scores(passes: Passes, A: Tensor, scores: Callable[[int, slice], Tensor], title: str) -> Tensor:
    """Return the score for each channel of each image, `(N, D)`."""
    starts = range(0, A.shape[1], passes.batch_size)
    chunks = [(row, slice(start, start + passes.batch_size)) for row in range(len(A)) for start in starts]
    chunk_scores = [scores(row, channels) for row, channels in passes.steps(chunks, title)]
    return torch.cat(chunk_scores).view(len(A), -1)


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixel of each square along one axis: in strides, the last square ending at the border."""
    return sorted({*range(0, length - size + 1, stride), length - size})
