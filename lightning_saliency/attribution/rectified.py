"""Guided backpropagation and the deconvnet: gradients with another backward rule for ReLUs, signed, `(N, C, H, W)`.

Simonyan et al. 2014, section 4: the gradient, the deconvnet and guided backprop differ in nothing else. With R the
gradient at the ReLU's output and X its input, they pass on (X > 0) R, (R > 0) R, and (X > 0) (R > 0) R.
"""

from __future__ import annotations

from torch import Tensor

from lightning_saliency.attribution.cam_family import grad_cam
from lightning_saliency.attribution.method import Method
from lightning_saliency.data import interpolated
from lightning_saliency.evidence import Evidence, Need, Passes

_MAP: frozenset[Need] = frozenset({"activations", "activation_grads"})
_NONE: frozenset[Need] = frozenset()


def guided_backprop(evidence: Evidence, passes: Passes) -> Tensor:
    """Guided backpropagation (Springenberg et al. 2015, "Striving for Simplicity: The All Convolutional Net").

    The gradient, where each ReLU passes on the positive part only: (X > 0) (R > 0) R. Shown is its maximum over the
    channels in magnitude. It depends little on the class (Adebayo et al. 2018).

    Raises:
        ValueError: The model has no ReLU.
    """
    return passes.rectified(evidence.images, "guided")


def deconvnet(evidence: Evidence, passes: Passes) -> Tensor:
    """Deconvnet (Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks").

    The gradient, where each ReLU passes on the positive part of its output's gradient, active or not: [R > 0] R. Shown
    is its maximum over the channels in magnitude.

    Raises:
        ValueError: The model has no ReLU.
    """
    return passes.rectified(evidence.images, "deconvnet")


def guided_grad_cam(evidence: Evidence, passes: Passes) -> Tensor:
    """Guided Grad-CAM (Selvaraju et al. 2017, section 3.2).

    Guided backpropagation ⊙ Grad-CAM, upsampled to the image by interpolation.

    Raises:
        ValueError: The model has no ReLU.
    """
    guided = guided_backprop(evidence, passes)
    return guided * interpolated(grad_cam(evidence), guided.shape[2:])


ROWS = {
    "guided_backprop": Method(
        guided_backprop,
        "Guided backprop",
        _NONE,
        reduce="absolute",
        extra="rectified",
        aliases=("guided_backpropagation",),
    ),
    "deconvnet": Method(
        deconvnet, "Deconvnet", _NONE, reduce="absolute", extra="rectified", aliases=("deconvolution", "deconv")
    ),
    "guided_grad_cam": Method(guided_grad_cam, "Guided Grad-CAM", _MAP, reduce="absolute", extra="rectified"),
}
"""Rows of the method table."""
