"""Watch where a vision model looks while it trains."""

from lightning_saliency.attribution import METHODS
from lightning_saliency.callbacks import (
    CAMCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
)
from lightning_saliency.classifier import CAMClassifier, CAMPrediction
from lightning_saliency.evidence import find_target_layer
from lightning_saliency.explain import Explanation, explain
from lightning_saliency.heads import GAPHead, GAPModel, gap_model
from lightning_saliency.metrics import heatmaps_to_boxes

__all__ = [
    "METHODS",
    "CAMCallback",
    "CAMClassifier",
    "CAMPrediction",
    "Explanation",
    "GAPHead",
    "GAPModel",
    "GradCAMCallback",
    "GradCAMPlusPlusCallback",
    "GradientSaliencyCallback",
    "SaliencyCallback",
    "explain",
    "find_target_layer",
    "gap_model",
    "heatmaps_to_boxes",
]
__version__ = "0.1.0"
