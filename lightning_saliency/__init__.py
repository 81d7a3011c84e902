"""Watch where a vision model looks while it trains."""

from lightning_saliency.attribution import METHODS
from lightning_saliency.callbacks import (
    CAMCallback,
    ClassModelCallback,
    FoolingCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
)
from lightning_saliency.classifier import CAMClassifier, CAMPrediction
from lightning_saliency.evidence import find_target_layer
from lightning_saliency.explain import Explanation, explain
from lightning_saliency.figures import TUTORIAL_PANELS, tutorial_figure
from lightning_saliency.heads import GAPHead, GAPModel, gap_model
from lightning_saliency.metrics import heatmaps_to_boxes
from lightning_saliency.optimize import ClassModelImages, FoolingImages, class_model_image, fooling_image

__all__ = [
    "METHODS",
    "TUTORIAL_PANELS",
    "CAMCallback",
    "CAMClassifier",
    "CAMPrediction",
    "ClassModelCallback",
    "ClassModelImages",
    "Explanation",
    "FoolingCallback",
    "FoolingImages",
    "GAPHead",
    "GAPModel",
    "GradCAMCallback",
    "GradCAMPlusPlusCallback",
    "GradientSaliencyCallback",
    "SaliencyCallback",
    "class_model_image",
    "explain",
    "find_target_layer",
    "fooling_image",
    "gap_model",
    "heatmaps_to_boxes",
    "tutorial_figure",
]
__version__ = "0.1.0"
