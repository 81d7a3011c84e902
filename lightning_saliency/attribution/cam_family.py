"""The CAM family: weighted sums of the target layer's activation maps.

Symbols: A = activations of the target layer, g = ∂score/∂A, k a channel, ij a position, Z = h·w; of volumes and signals
    the positions have three indices or one. With `principal=True` a method shows the first principal component of its
    weighted maps w_k A_k in place of their sum, which is smoother (Muhammad & Yeasin 2020 do so with A itself).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_saliency._checks import check_flag
from lightning_saliency.attribution.method import Method
from lightning_saliency.data import interpolated, over_axes, spatial_axes
from lightning_saliency.evidence import Evidence, Need

_LAYER: frozenset[Need] = frozenset({"activations"})
_GRADIENT: frozenset[Need] = frozenset({"activations", "activation_grads"})
_PRINCIPAL = {"principal": check_flag}


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
    A = required(evidence.pooled_activations)
    return weighted_sum(over_axes(required(evidence.class_weights), A), A)


def grad_cam(evidence: Evidence, *, principal: bool = False) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks").

    L = ReLU(Σ_k α_k A_k), α_k = (1/Z) Σ_ij g_kij.

    Example:
        >>> A = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
        >>> g = torch.tensor([[[[4.0, 2.0]], [[-1.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> grad_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    g, A = required(evidence.activation_grads), required(evidence.activations)
    return weighted_sum(g.mean(spatial_axes(g), keepdim=True), A, principal).relu()


def grad_cam_plus_plus(evidence: Evidence, *, principal: bool = False) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018, "Grad-CAM++: Improved Visual Explanations").

    L = ReLU(Σ_k w_k A_k), w_k = Σ_ij α_kij ReLU(g_kij), α_kij = g² / (2 g² + g³ Σ_ab A_kab), and 0 where that is 0/0.
    Computed with g² canceled, w_k = Σ_ij ReLU(g) / (2 + g Σ_ab A_kab), which has no squares and cubes that underflow.
    The paper's score is exp(logit), whose derivatives carry the factor exp(logit) throughout: positive and the same for
    the whole map of an image, it is left out, since it overflows.

    Example:
        >>> A = torch.tensor([[[[1.0, 3.0]]]])
        >>> g = torch.tensor([[[[0.5, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> grad_cam_plus_plus(Evidence(none, none, none, activations=A, activation_grads=g))  # w = 0.5 / (2 + 0.5·4)
        tensor([[[[0.1250, 0.3750]]]])
    """
    g, A = required(evidence.activation_grads), required(evidence.activations)
    denominator = 2 + g * A.sum(spatial_axes(A), keepdim=True)
    alpha_relu = torch.where(denominator == 0, 0.0, g.relu() / denominator)
    return weighted_sum(alpha_relu.sum(spatial_axes(A), keepdim=True), A, principal).relu()


def hires_cam(evidence: Evidence, *, principal: bool = False) -> Tensor:
    """HiResCAM (Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations").

    L = ReLU(Σ_k g_k ⊙ A_k): the gradient is not averaged over positions.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> hires_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    return weighted_sum(required(evidence.activation_grads), required(evidence.activations), principal).relu()


def summed_hires_cam(evidence: Evidence) -> Tensor:
    """HiResCAM summed over the inputs of all attentions (Draelos & Carin 2020; summed over layers as in LayerCAM).

    L = Σ_b ReLU(Σ_k g_bk ⊙ A_bk), each map resized bilinearly to the finest one: A_b is what the b-th attention reads,
    after its norm, and g_b = ∂score/∂A_b. No attention matrix is needed: it works for attention within windows, in
    pyramids and in hybrids.

    Raises:
        ValueError: The model has no attention.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> summed_hires_cam(Evidence(none, none, none, attention_inputs=((A, g), (2 * A, g))))
        tensor([[[[9., 0.]]]])
    """
    maps = [weighted_sum(gradient, activations).relu() for activations, gradient in evidence.attention_inputs]
    size = max((tuple(one.shape[2:]) for one in maps), key=math.prod)
    return torch.stack([interpolated(one, size) for one in maps]).sum(0)


def layer_cam(evidence: Evidence, *, principal: bool = False) -> Tensor:
    """LayerCAM (Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization").

    L = ReLU(Σ_k ReLU(g_k) ⊙ A_k).

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> layer_cam(Evidence(none, none, none, activations=A, activation_grads=g))
        tensor([[[[3., 0.]]]])
    """
    return weighted_sum(required(evidence.activation_grads).relu(), required(evidence.activations), principal).relu()


def xgrad_cam(evidence: Evidence, *, principal: bool = False) -> Tensor:
    """XGrad-CAM (Fu et al. 2020, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs").

    L = ReLU(Σ_k α_k A_k), α_k = Σ_ij g_kij A_kij / Σ_ij A_kij, and 0 for a channel whose activations sum to 0.

    Example:
        >>> A = torch.tensor([[[[1.0, 3.0]]]])
        >>> g = torch.tensor([[[[2.0, 6.0]]]])
        >>> none = torch.zeros(1)
        >>> xgrad_cam(Evidence(none, none, none, activations=A, activation_grads=g))  # α = (2 + 18) / 4
        tensor([[[[ 5., 15.]]]])
    """
    g, A = required(evidence.activation_grads), required(evidence.activations)
    total = A.sum(spatial_axes(A), keepdim=True)
    weights = torch.where(total == 0, 0.0, (g * A).sum(spatial_axes(A), keepdim=True) / total)
    return weighted_sum(weights, A, principal).relu()


def eigen_cam(evidence: Evidence) -> Tensor:
    """Eigen-CAM (Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components").

    L = O v₁, with O = A as a matrix (Z × D), uncentered as in the paper, and v₁ its first right singular vector. The
    sign, which a singular vector leaves open, is the one that makes the map's sum positive. It is the same for
    every class.

    Example:
        >>> A = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
        >>> none = torch.zeros(1)
        >>> eigen_cam(Evidence(none, none, none, activations=A))
        tensor([[[[5., 0.]]]])
    """
    return _first_component(required(evidence.activations))


def weighted_sum(weights: Tensor, activations: Tensor, principal: bool = False) -> Tensor:
    """Return Σ_k w_k A_k, `(N, 1, h, w)`, or the first principal component of the terms.

    The weights are `(N, D, 1, 1)` or of A's shape.
    """
    if principal:
        terms = weights * activations
        return _first_component(terms, like=terms.sum(1, keepdim=True))
    if weights.shape == activations.shape:
        return (weights * activations).sum(1, keepdim=True)
    return torch.einsum("nd,nd...->n...", weights.flatten(1), activations)[:, None]


def required(tensor: Tensor | None) -> Tensor:
    """Return a tensor of the evidence that a method reads, or raise an error where it was not collected."""
    if tensor is None:
        raise ValueError("The evidence lacks what this method reads: collect it with the `needs` of the method's row.")
    return tensor


ROWS = {
    "cam": Method(
        cam,
        "CAM",
        frozenset({"activations", "class_weights"}),
        aliases=("class_activation_map", "class_activation_mapping"),
    ),
    "grad_cam": Method(grad_cam, "Grad-CAM", _GRADIENT, checks=_PRINCIPAL, aliases=("layer_grad_cam",)),
    "grad_cam_plus_plus": Method(
        grad_cam_plus_plus, "Grad-CAM++", _GRADIENT, checks=_PRINCIPAL, aliases=("grad_cam_pp",)
    ),
    "hires_cam": Method(hires_cam, "HiResCAM", _GRADIENT, checks=_PRINCIPAL),
    "summed_hires_cam": Method(summed_hires_cam, "HiResCAM, all attentions", frozenset({"attention_inputs"})),
    "layer_cam": Method(layer_cam, "LayerCAM", _GRADIENT, checks=_PRINCIPAL),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM", _GRADIENT, checks=_PRINCIPAL),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", _LAYER),
}
"""Rows of the method table."""


def _first_component(A: Tensor, like: Tensor | None = None) -> Tensor:
    """Return the first principal component of maps, O v₁: `(N, D, h, w)` -> `(N, 1, h, w)`.

    Its sign is that of its inner product with the map `like`; without one, the sign that makes its sum positive.
    """
    matrix = A.flatten(2).mT
    is_finite = matrix.isfinite().all(2).all(1)[:, None, None]  # a decomposition raises on what is not finite
    # the Gram matrix squares the values: scaled to 1 before, they neither overflow nor underflow in it
    peak = matrix.abs().amax((1, 2), keepdim=True).where(is_finite, 1.0)
    peak = torch.where(peak > 0, peak, 1.0)
    matrix = torch.where(is_finite, matrix / peak, 0.0)
    # the smaller of the two Gram matrices: a few milliseconds where the whole decomposition takes ten times as long
    if matrix.shape[1] <= matrix.shape[2]:
        eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        projection = vectors[:, :, -1:] * eigenvalues[:, -1:, None].clamp(min=0).sqrt()
    else:
        projection = matrix @ torch.linalg.eigh(matrix.mT @ matrix)[1][:, :, -1:]
    agreement = projection if like is None else projection * like.flatten(2).mT.where(is_finite, 0.0)
    projection = torch.where(agreement.sum(1, keepdim=True) < 0, -projection, projection) * peak
    return projection.where(is_finite, torch.nan).mT.reshape(len(A), 1, *A.shape[2:])
