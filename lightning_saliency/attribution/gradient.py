"""Gradient methods in input space: signed attributions of each channel, `(N, C, H, W)`.

Symbols: x = the input, g = ∂score/∂x. How the channels become one map stands in the method's row, and is an option.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lightning_saliency._checks import Check, check_count, check_number
from lightning_saliency.attribution.cam_family import required, weighted_sum
from lightning_saliency.attribution.method import Method
from lightning_saliency.data import over_axes, spatial_axes
from lightning_saliency.evidence import Evidence, Need, Passes

_TOLERANCE = 0.01
"""The completeness error of integrated gradients above which a warning is given."""


def saliency(evidence: Evidence) -> Tensor:
    """Gradient saliency (Simonyan et al. 2014, "Deep Inside Convolutional Networks").

    g itself; shown is max_c |g_cij| over the image's channels c. As options `reduce="signed"` (the value with the
    largest magnitude) and `"positive"` (max_c ReLU(g_cij)).

    Example:
        >>> g = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.0]]]])
        >>> none = torch.zeros(1)
        >>> saliency(Evidence(none, none, none, input_grads=g)).abs().amax(1, keepdim=True)
        tensor([[[[3., 2.]]]])
    """
    return required(evidence.input_grads)


def input_x_gradient(evidence: Evidence) -> Tensor:
    """Input × gradient (Shrikumar et al. 2016, "Not Just a Black Box").

    x ⊙ g; shown is Σ_c x_cij g_cij: how much a pixel adds to the score, to first order; signed.

    Example:
        >>> x = torch.tensor([[[[2.0, 1.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]]]])
        >>> none = torch.zeros(1)
        >>> input_x_gradient(Evidence(x, none, none, input_grads=g))
        tensor([[[[ 6., -1.]]]])
    """
    return evidence.images * required(evidence.input_grads)


def smooth_grad(
    evidence: Evidence, passes: Passes, *, num_samples: int = 25, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise").

    (1/n) Σ_i g(x + ε_i), ε_i ~ N(0, σ²), σ = noise · (max x − min x) of each image; shown is the maximum of the
    magnitude over the channels. The noise comes from a generator of its own and is the same for all images, so that an
    image's map does not depend on what else is in the batch.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs `num_samples` further passes, forward and backward.
        num_samples: n.
        noise: σ as a fraction of the image's range; the paper's figures have 0.1 to 0.2.
        seed: The seed of the noise.
    """
    return _noisy_mean(evidence, passes, num_samples, noise, seed)


def integrated_gradients(evidence: Evidence, passes: Passes, *, steps: int = 32, baseline: float = 0.0) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks").

    (x − x′) ⊙ ∫₀¹ g(x′ + t (x − x′)) dt, by Gauss–Legendre quadrature; shown is the sum over the channels, signed. Its
    completeness, Σ = score(x) − score(x′), holds up to the error of the quadrature, which is noted as
    `completeness_error`, relative to the sum of all magnitudes; above 1 % a warning says so.

    Args:
        evidence: The evidence of the shared pass.
        passes: Runs `steps` further passes, forward and backward, and one forward.
        steps: Points on the path.
        baseline: x′, the same value everywhere: 0 is the mean image where the input is normalized.
    """
    difference = evidence.images - baseline
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(difference)
    for node, weight in passes.steps(list(zip(nodes.tolist(), weights.tolist(), strict=True)), "integrated gradients"):
        path_evidence = passes.repeat(baseline + (node + 1) / 2 * difference, {"input_grads"})
        total += weight / 2 * required(path_evidence.input_grads)
    attribution = difference * total
    baseline_evidence = passes.repeat(torch.full_like(evidence.images, baseline), frozenset())
    rise = evidence.scores - baseline_evidence.scores
    magnitude = attribution.abs().flatten(1).sum(1)
    gap = (attribution.flatten(1).sum(1) - rise).abs()
    error = torch.where(gap == 0, 0.0, gap / magnitude)
    passes.notes["completeness_error"] = error
    if (error > _TOLERANCE).any():
        warnings.warn(
            f"The integrated gradients of an image do not sum to the rise of its score within {_TOLERANCE:.0%}: take "
            "more `steps`.",
            stacklevel=2,
        )
    return attribution


def smooth_grad_cam_plus_plus(
    evidence: Evidence, passes: Passes, *, num_samples: int = 25, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """Smooth Grad-CAM++ (Omeiza et al. 2019, "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique").

    Grad-CAM++ with the means over n noisy images of g, g² and g³ in place of these: L = ReLU(Σ_k w_k A_k), w_k = Σ_ij
    α_kij ReLU(D¹), α = D² / (2 D² + D³ Σ_ab A_kab), D^p = (1/n) Σ_i g_i^p. Without noise it is Grad-CAM++: the
    numerator is the mean of g², the factor exp(score) is left out, A is the clean image's. See `smooth_grad` for the
    options. All g of an image are divided by their largest first, so that no power underflows.
    """
    moments: list[Tensor] = []
    A = required(evidence.activations)
    peak = over_axes(required(evidence.activation_grads).abs().flatten(1).amax(1), A)
    peak = torch.where(peak > 0, peak, 1.0)
    for images in _noisy_images(evidence, passes, num_samples, noise, seed):
        g = required(passes.repeat(images, {"activation_grads"}).activation_grads) / peak
        terms = [g / num_samples, g.square() / num_samples, g**3 / num_samples]
        moments = [total + term for total, term in zip(moments, terms, strict=True)] if moments else terms
    first, second, third = moments
    denominator = 2 * second + third * peak * A.sum(spatial_axes(A), keepdim=True)
    alpha = torch.where(denominator == 0, 0.0, second / denominator)
    return weighted_sum((alpha * first.relu()).sum(spatial_axes(A), keepdim=True) * peak, A).relu()


_NOISE: dict[str, Check] = {
    "num_samples": check_count,
    "noise": partial(check_number, interval="[0, inf)"),
    "seed": partial(check_count, least=0),
}
_PATH: dict[str, Check] = {"steps": check_count, "baseline": check_number}
_INPUT: frozenset[Need] = frozenset({"input_grads"})
_MAP: frozenset[Need] = frozenset({"activations", "activation_grads"})
_NONE: frozenset[Need] = frozenset()
ROWS = {
    "saliency": Method(
        saliency,
        "Saliency",
        _INPUT,
        reduce="absolute",
        aliases=("gradient", "input_gradient", "vanilla_gradient", "vanilla_saliency", "backprop"),
    ),
    "input_x_gradient": Method(
        input_x_gradient,
        "Input × gradient",
        _INPUT,
        reduce="sum",
        aliases=("input_times_gradient", "gradient_x_input", "gradient_times_input", "gradient_input"),
    ),
    "smooth_grad": Method(smooth_grad, "SmoothGrad", _NONE, reduce="absolute", extra="noisy", checks=_NOISE),
    "smooth_grad_cam_plus_plus": Method(
        smooth_grad_cam_plus_plus,
        "Smooth Grad-CAM++",
        _MAP,
        extra="noisy",
        checks=_NOISE,
        aliases=("smooth_grad_cam_pp",),
    ),
    "integrated_gradients": Method(
        integrated_gradients,
        "Integrated gradients",
        _NONE,
        reduce="sum",
        extra="path",
        checks=_PATH,
        aliases=("ig",),
    ),
}
"""Rows of the method table."""


def _noisy_mean(evidence: Evidence, passes: Passes, num_samples: int, noise: float, seed: int) -> Tensor:
    total = torch.zeros_like(evidence.images)
    for images in _noisy_images(evidence, passes, num_samples, noise, seed):
        total += required(passes.repeat(images, {"input_grads"}).input_grads)
    return total / num_samples


def _noisy_images(evidence: Evidence, passes: Passes, num_samples: int, noise: float, seed: int) -> Iterator[Tensor]:
    """Yield `num_samples` noisy copies of the images."""
    x = evidence.images
    span = over_axes(x.flatten(1).amax(1) - x.flatten(1).amin(1), x)
    generator = torch.Generator().manual_seed(seed)
    for _ in passes.steps(range(num_samples), "noisy images"):
        yield x + noise * span * torch.randn(1, *x.shape[1:], generator=generator, device="cpu").to(x)
