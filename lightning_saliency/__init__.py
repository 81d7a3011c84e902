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
from lightning_saliency.faithfulness import faithfulness
from lightning_saliency.heads import GAPHead, GAPModel, gap_model
from lightning_saliency.metrics import heatmaps_to_boxes
from lightning_saliency.optimize import ClassModelImages, FoolingImages, class_model_image, fooling_image
from lightning_saliency.record import Moment, Record, load_record
from lightning_saliency.sanity import head_similarity, randomised_head
from lightning_saliency.visualization import TUTORIAL_PANELS, Style, animation, filmstrip, tutorial_figure

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
    "Moment",
    "Record",
    "SaliencyCallback",
    "Style",
    "animation",
    "class_model_image",
    "explain",
    "faithfulness",
    "filmstrip",
    "find_target_layer",
    "fooling_image",
    "gap_model",
    "head_similarity",
    "heatmaps_to_boxes",
    "load_record",
    "randomised_head",
    "tutorial_figure",
]
__version__ = "0.1.0"
