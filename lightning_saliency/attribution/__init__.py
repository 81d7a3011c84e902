"""Attribution methods: from activations and gradients to raw attributions, and from these to heatmaps.

A method is one pure function and one row of `METHODS`.
"""

from lightning_saliency.attribution.absent import find_detected
from lightning_saliency.attribution.attention import attention_relevance, attention_rollout
from lightning_saliency.attribution.cam_family import (
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    summed_hires_cam,
    xgrad_cam,
)
from lightning_saliency.attribution.explaining import Layer, explain
from lightning_saliency.attribution.explanation import ExplainedSamples, Explanation, HeatmapStage
from lightning_saliency.attribution.gradient import (
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
    smooth_grad_cam_plus_plus,
)
from lightning_saliency.attribution.heatmaps import (
    Heatmaps,
    Normalize,
    blank_reasons,
    fused,
    fused_signed,
    make_heatmaps,
    to_heatmaps,
)
from lightning_saliency.attribution.inputs import parse_images
from lightning_saliency.attribution.method import Method
from lightning_saliency.attribution.methods import (
    DEFAULT_METHODS,
    METHODS,
    MethodChoice,
    default_methods,
    find_map,
    find_method,
    is_fine,
    parse_methods,
)
from lightning_saliency.attribution.perturbation import ablation_cam, occlusion, score_cam
from lightning_saliency.attribution.readings import describe_reading, describe_readings
from lightning_saliency.attribution.rectified import deconvnet, guided_backprop, guided_grad_cam
from lightning_saliency.attribution.relevance import lrp
from lightning_saliency.attribution.running import explain_call
from lightning_saliency.attribution.settings import Fuse, Settings

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "ExplainedSamples",
    "Explanation",
    "Fuse",
    "HeatmapStage",
    "Heatmaps",
    "Layer",
    "Method",
    "MethodChoice",
    "Normalize",
    "Settings",
    "ablation_cam",
    "attention_relevance",
    "attention_rollout",
    "blank_reasons",
    "cam",
    "deconvnet",
    "default_methods",
    "describe_reading",
    "describe_readings",
    "eigen_cam",
    "explain",
    "explain_call",
    "find_detected",
    "find_map",
    "find_method",
    "fused",
    "fused_signed",
    "grad_cam",
    "grad_cam_plus_plus",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "input_x_gradient",
    "integrated_gradients",
    "is_fine",
    "layer_cam",
    "lrp",
    "make_heatmaps",
    "occlusion",
    "parse_images",
    "parse_methods",
    "saliency",
    "score_cam",
    "smooth_grad",
    "smooth_grad_cam_plus_plus",
    "summed_hires_cam",
    "to_heatmaps",
    "xgrad_cam",
]
