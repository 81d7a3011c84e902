"""Methods that change the image or the activations and look at the score: forward passes only.

Symbols: A = activations of the target layer, k a channel, x = the input, S = the score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.attribution.cam_family import required, weighted_sum
from lightning_saliency.attribution.method import NUMBER, OPTIONAL_COUNT, Method
from lightning_saliency.evidence import Evidence, Need, Passes


def score_cam(evidence: Evidence, passes: Passes) -> Tensor:
    """Score-CAM (Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for CNNs").

    L = ReLU(Σ_k w_k A_k), w = softmax_k(S(x ⊙ H_k) − S(0)), H_k = A_k upsampled to the image and brought to [0, 1]. A
    channel that is constant marks nothing: it takes no part. S is the logit, as in the paper's Algorithm 1, so that the
    weights can be near to one channel's alone; the authors' code weighs by the class's probability instead.

    Args:
        evidence: Of the shared pass.
        passes: For one forward a channel and image.
    """
    A = required(evidence.activations)
    masks = F.interpolate(A, evidence.images.shape[2:], mode="bilinear", align_corners=False)
    masks = masks - masks.amin((2, 3), keepdim=True)
    top = masks.amax((2, 3), keepdim=True)
    # upsampling leaves rounding noise in a constant channel: looked for in A itself
    marks = (top[:, :, 0, 0] > 0) & (A.amax((2, 3)) > A.amin((2, 3)))
    masks = torch.where(top > 0, masks / top, 0.0)

    def masked_scores(row: int, channels: slice) -> Tensor:
        return passes.scores(evidence.images[row] * masks[row, channels, None], row)

    scores = _over_channels(passes, A, masked_scores, "score_cam").masked_fill(~marks, -torch.inf)
    weights = scores.softmax(1).nan_to_num(0.0)  # S(0) is the same for all channels: the softmax does not see it
    return weighted_sum(weights[:, :, None, None], A).relu()


def ablation_cam(evidence: Evidence, passes: Passes) -> Tensor:
    """Ablation-CAM (Desai & Ramaswamy 2020, "Ablation-CAM: Visual Explanations ... via Gradient-free Localization").

    L = ReLU(Σ_k w_k A_k), w_k = (S − S_k) / S, S_k the score where channel k of A is set to 0. Divided is by |S|, which
    is the same for the positive scores that the paper has in mind, and keeps the meaning for others.

    Args:
        evidence: Of the shared pass.
        passes: For one forward a channel and image.
    """
    A = required(evidence.activations)

    def ablated_scores(row: int, channels: slice) -> Tensor:
        numbers = torch.arange(A.shape[1], device=A.device)[channels]
        copies = A[row].repeat(len(numbers), 1, 1, 1)
        copies[torch.arange(len(numbers), device=A.device), numbers] = 0
        return passes.scores(evidence.images[row].expand(len(numbers), -1, -1, -1), row, copies)

    scores = _over_channels(passes, A, ablated_scores, "ablation_cam")
    whole = evidence.scores[:, None]
    weights = torch.where(whole == 0, 0.0, (whole - scores) / whole.abs())
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
        evidence: Of the shared pass.
        passes: For one forward a place of the square and image.
        size: Side of the square in pixels; an eighth of the image's shorter side by default.
        stride: Step between squares; half of the size by default. The last one ends at the border.
        fill: What covers; 0 is the mean colour where the input is normalised.
    """
    x = evidence.images
    height, width = x.shape[2:]
    size = min(size or max(min(height, width) // 8, 1), height, width)
    stride = stride or max(size // 2, 1)
    places = [(top, left) for top in _starts(height, size, stride) for left in _starts(width, size, stride)]
    drops, covers = x.new_zeros(len(x), height, width), x.new_zeros(height, width)
    for top, left in places:
        covers[top : top + size, left : left + size] += 1
    chunks = [
        (row, places[at : at + passes.batch_size])
        for row in range(len(x))
        for at in range(0, len(places), passes.batch_size)
    ]
    for row, chunk in passes.steps(chunks, "occlusion"):
        covered = x[row].repeat(len(chunk), 1, 1, 1)
        for copy, (top, left) in zip(covered, chunk, strict=True):
            copy[:, top : top + size, left : left + size] = fill
        for drop, (top, left) in zip(evidence.scores[row] - passes.scores(covered, row), chunk, strict=True):
            drops[row, top : top + size, left : left + size] += drop
    return (drops / covers.clamp(min=1))[:, None]


_LAYER: frozenset[Need] = frozenset({"activations"})
_SQUARE = {"size": OPTIONAL_COUNT, "stride": OPTIONAL_COUNT, "fill": NUMBER}
ROWS = {
    "score_cam": Method(score_cam, "Score-CAM", _LAYER, extra="perturbed"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM", _LAYER, extra="perturbed"),
    "occlusion": Method(occlusion, "Occlusion", frozenset(), extra="perturbed", checks=_SQUARE),
}
"""Rows of the method table."""


def _over_channels(passes: Passes, A: Tensor, scores: Callable[[int, slice], Tensor], what: str) -> Tensor:
    """The scores of all channels of all images, `(N, D)`."""
    starts = range(0, A.shape[1], passes.batch_size)
    chunks = [(row, slice(start, start + passes.batch_size)) for row in range(len(A)) for start in starts]
    found = [scores(row, channels) for row, channels in passes.steps(chunks, what)]
    return torch.cat(found).view(len(A), -1)


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Where the squares begin: in steps, and the last one at the border."""
    return sorted({*range(0, length - size + 1, stride), length - size})
