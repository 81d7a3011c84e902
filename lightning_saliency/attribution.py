"""The methods: evidence of one pass -> raw attributions `(N, 1, h, w)`, and from those heatmaps.

Symbols: A = activations of the target layer, g = ∂score/∂A, k a channel, ij a position, Z = h·w, x = the input.
A method is one pure function and one row of `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.evidence import Evidence, Need

Normalize: TypeAlias = Literal["max", "minmax", "shared"]
"""How raw attributions become heatmaps; see `to_heatmaps`."""


def cam(evidence: Evidence) -> Tensor:
    """Class activation map (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization").

    M = Σ_k w_k A_k, with w the class's row of the linear layer after the global average pooling. No bias, no ReLU; no
    gradient is needed. For the models whose head is global average pooling, then linear; of a `GAPHead` with another
    pooling it is the same sum, whose mean is not the logit then.

    Example:
        >>> A = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
        >>> none = torch.zeros(1)
        >>> cam(Evidence(none, none, none, class_weights=torch.tensor([[3.0, -1.0]]), pooled_activations=A))
        tensor([[[[ 3., -2.]]]])
    """
    return _weighted_sum(_given(evidence.class_weights), _given(evidence.pooled_activations))


def grad_cam(evidence: Evidence) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks").

    L = ReLU(Σ_k α_k A_k), α_k = (1/Z) Σ_ij g_kij.

    Example:
        >>> A = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
        >>> g = torch.tensor([[[[4.0, 2.0]], [[-1.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> grad_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    g, A = _given(evidence.activation_grads), _given(evidence.activations)
    return _weighted_sum(g.mean((2, 3)), A).relu()


def grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018, "Grad-CAM++: Improved Visual Explanations").

    L = ReLU(Σ_k w_k A_k), w_k = Σ_ij α_kij ReLU(g_kij), α_kij = g² / (2 g² + g³ Σ_ab A_kab), and 0 where that is 0/0.
    Computed with g² cancelled, w_k = Σ_ij ReLU(g) / (2 + g Σ_ab A_kab), which has no squares and cubes that underflow.
    The paper's score is exp(logit), whose derivatives carry the factor exp(logit) throughout: positive and the same for
    the whole map of an image, it is left out, since it overflows.

    Example:
        >>> A = torch.tensor([[[[1.0, 3.0]]]])
        >>> g = torch.tensor([[[[0.5, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> grad_cam_plus_plus(Evidence(none, none, none, activations=A, activation_grads=g))  # w = 0.5 / (2 + 0.5·4)
        tensor([[[[0.1250, 0.3750]]]])
    """
    g, A = _given(evidence.activation_grads), _given(evidence.activations)
    denominator = 2 + g * A.sum((2, 3), keepdim=True)
    alpha_relu = torch.where(denominator == 0, 0.0, g.relu() / denominator)
    return _weighted_sum(alpha_relu.sum((2, 3)), A).relu()


def hires_cam(evidence: Evidence) -> Tensor:
    """HiResCAM (Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations").

    L = ReLU(Σ_k g_k ⊙ A_k): the gradient is not averaged over positions.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> hires_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    return _channel_sum(_given(evidence.activation_grads) * _given(evidence.activations)).relu()


def layer_cam(evidence: Evidence) -> Tensor:
    """LayerCAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization").

    L = ReLU(Σ_k ReLU(g_k) ⊙ A_k).

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> layer_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    return _channel_sum(_given(evidence.activation_grads).relu() * _given(evidence.activations)).relu()


def xgrad_cam(evidence: Evidence) -> Tensor:
    """XGrad-CAM (Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs").

    L = ReLU(Σ_k α_k A_k), α_k = Σ_ij g_kij A_kij / Σ_ij A_kij, and 0 for a channel whose activations sum to 0.

    Example:
        >>> A = torch.tensor([[[[1.0, 3.0]]]])
        >>> g = torch.tensor([[[[2.0, 6.0]]]])
        >>> none = torch.zeros(1)
        >>> xgrad_cam(Evidence(none, none, none, activations=A, activation_grads=g))  # α = (2 + 18) / 4
        tensor([[[[ 5., 15.]]]])
    """
    g, A = _given(evidence.activation_grads), _given(evidence.activations)
    total = A.sum((2, 3))
    weights = torch.where(total == 0, 0.0, (g * A).sum((2, 3)) / total)
    return _weighted_sum(weights, A).relu()


def eigen_cam(evidence: Evidence) -> Tensor:
    """Eigen-CAM (Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components").

    L = O v₁, with O = A as a matrix (Z × D), uncentred as in the paper, and v₁ its first right singular vector. The
    sign, which a singular vector leaves open, is the one that makes the map's sum positive. It sees no class.

    Example:
        >>> A = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
        >>> none = torch.zeros(1)
        >>> eigen_cam(Evidence(none, none, none, activations=A))
        tensor([[[[5., 0.]]]])
    """
    A = _given(evidence.activations)
    matrix = A.flatten(2).mT
    usable = matrix.isfinite().all(2).all(1)[:, None, None]  # a decomposition raises on what is not finite
    # squared in the Gram matrix: brought to 1 before, so that it neither overflows nor underflows there
    top = matrix.abs().amax((1, 2), keepdim=True).where(usable, 1.0)
    top = torch.where(top > 0, top, 1.0)
    matrix = torch.where(usable, matrix / top, 0.0)
    # the smaller of the two Gram matrices: a few milliseconds where the whole decomposition takes ten times as long
    if matrix.shape[1] <= matrix.shape[2]:
        eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        projection = vectors[:, :, -1:] * eigenvalues[:, -1:, None].clamp(min=0).sqrt()
    else:
        projection = matrix @ torch.linalg.eigh(matrix.mT @ matrix)[1][:, :, -1:]
    projection = torch.where(projection.sum(1, keepdim=True) < 0, -projection, projection) * top
    return projection.where(usable, torch.nan).mT.reshape(len(A), 1, *A.shape[2:])


def saliency(evidence: Evidence) -> Tensor:
    """Gradient saliency (Simonyan et al. 2014, "Deep Inside Convolutional Networks").

    S_ij = max_c |∂score/∂x_cij| over the image's channels c.

    Example:
        >>> g = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.0]]]])
        >>> none = torch.zeros(1)
        >>> saliency(Evidence(none, none, none, input_grads=g))
        tensor([[[[3., 2.]]]])
    """
    return _given(evidence.input_grads).abs().amax(1, keepdim=True)


def input_x_gradient(evidence: Evidence) -> Tensor:
    """Input × gradient (Shrikumar et al. 2016, "Not Just a Black Box").

    S_ij = Σ_c x_cij ∂score/∂x_cij: how much a pixel adds to the score, to first order; signed.

    Example:
        >>> x = torch.tensor([[[[2.0, 1.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> input_x_gradient(Evidence(x, none, none, input_grads=g))
        tensor([[[[ 6., -1.]]]])
    """
    return _channel_sum(evidence.images * _given(evidence.input_grads))


@dataclass(frozen=True)
class Method:
    """A row of the method table.

    Attributes:
        function: Evidence -> raw attributions `(N, 1, h, w)`.
        title: How a picture names it.
        needs: What it reads of the evidence.
    """

    function: Callable[[Evidence], Tensor]
    title: str
    needs: frozenset[Need]


_MAP: frozenset[Need] = frozenset({"activations", "activation_grads"})
METHODS: dict[str, Method] = {
    "cam": Method(cam, "CAM", frozenset({"activations", "class_weights"})),
    "grad_cam": Method(grad_cam, "Grad-CAM", _MAP),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "Grad-CAM++", _MAP),
    "hires_cam": Method(hires_cam, "HiResCAM", _MAP),
    "layer_cam": Method(layer_cam, "LayerCAM", _MAP),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM", _MAP),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", frozenset({"activations"})),
    "saliency": Method(saliency, "Saliency", frozenset({"input_grads"})),
    "input_x_gradient": Method(input_x_gradient, "Input × gradient", frozenset({"input_grads"})),
}


def parse_methods(methods: str | Iterable[str]) -> tuple[str, ...]:
    """Check the keys of methods, and drop repeats.

    Raises:
        ValueError: A key is not in the table, or there is none.

    Example:
        >>> parse_methods("grad_cam")
        ('grad_cam',)
    """
    keys = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    for key in keys:
        if key not in METHODS:
            near = get_close_matches(str(key), METHODS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Expected `methods` out of {', '.join(METHODS)}, got {key!r}.{hint}")
    if not keys:
        raise ValueError(f"Expected `methods` to name at least one of {', '.join(METHODS)}, got none.")
    return keys


def to_heatmaps(attributions: Tensor, size: Sequence[int], normalize: Normalize = "max") -> Tensor:
    """Turn raw attributions into heatmaps: upsampled bilinearly to the image, in [0, 1].

    Args:
        attributions: `(N, 1, h, w)`, signed or not.
        size: (H, W) of the images.
        normalize: `"max"`: max(raw, 0) / max, each image on its own; `"minmax"`: (raw − min) / (max − min), each image
            on its own, so that a negative map shows too; `"shared"`: max(raw, 0) / the largest value of the whole
            batch, so that a weak map looks weak.

    Returns:
        `(N, 1, H, W)` float32. A map without any signal (see `blank_reasons`) is 0 everywhere.

    Raises:
        ValueError: `normalize` is none of these.

    Example:
        >>> to_heatmaps(torch.tensor([[[[-1.0, 2.0], [4.0, 0.0]]]]), size=(2, 2))
        tensor([[[[0.0000, 0.5000],
                  [1.0000, 0.0000]]]])
    """
    if normalize not in get_args(Normalize):
        raise ValueError(f"Expected `normalize` to be one of {', '.join(get_args(Normalize))}, got {normalize!r}.")
    blank = torch.tensor([reason is not None for reason in blank_reasons(attributions, normalize)])
    raw = attributions.float().masked_fill(blank.to(attributions.device)[:, None, None, None], 0.0)
    # ReLU before upsampling: the other order would let negative neighbours eat into the map
    raw = raw - raw.amin((2, 3), keepdim=True) if normalize == "minmax" else raw.relu()
    over = (0, 1, 2, 3) if normalize == "shared" else (2, 3)
    # once before, so that tiny values don't underflow, and once after: a small map's peak may fall between two pixels
    return _divided_by_max(
        F.interpolate(_divided_by_max(raw, over), size=tuple(size), mode="bilinear", align_corners=False), over
    )


def blank_reasons(attributions: Tensor, normalize: Normalize = "max") -> list[str | None]:
    """Why each map has nothing to show: `"not finite"`, `"constant …"`, `"all negative"`; None where it has.

    Methods that end in a ReLU say `"constant 0"` where nothing in the map is positive.

    Args:
        attributions: `(N, 1, h, w)`.
        normalize: As in `to_heatmaps`; `"minmax"` shows a negative map.

    Example:
        >>> maps = torch.tensor([[[[0.0, 1.0]]], [[[-2.0, -1.0]]], [[[0.0, 0.0]]], [[[0.0, float("nan")]]]])
        >>> blank_reasons(maps)
        [None, 'all negative', 'constant 0', 'not finite']
    """
    low, high = attributions.flatten(1).aminmax(dim=1)
    finite = attributions.flatten(1).isfinite().all(1)
    reasons: list[str | None] = []
    for is_finite, least, most in zip(finite.tolist(), low.tolist(), high.tolist(), strict=True):
        if not is_finite:
            reasons.append("not finite")
        elif least == most:
            reasons.append(f"constant {most:.3g}")
        elif most <= 0 and normalize != "minmax":
            reasons.append("all negative")
        else:
            reasons.append(None)
    return reasons


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("The evidence lacks what this method reads: collect it with the `needs` of the method's row.")
    return tensor


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Σ_k w_k A_k: `(N, D)`, `(N, D, h, w)` -> `(N, 1, h, w)`."""
    return torch.einsum("nd,ndhw->nhw", weights, activations)[:, None]


def _divided_by_max(maps: Tensor, over: tuple[int, ...]) -> Tensor:
    top = maps.amax(over, keepdim=True)
    return torch.where(top > 0, maps / top, 0.0).clamp(max=1)


def _channel_sum(maps: Tensor) -> Tensor:
    return maps.sum(1, keepdim=True)
