"""When to look, guarded and within a budget: the only room that meets a Trainer."""

from lightning_saliency.callbacks.ascent import ClassModelCallback, FoolingCallback
from lightning_saliency.callbacks.options import Execution, History, Metrics, Samples
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.callbacks.saliency import (
    CAMCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
)
from lightning_saliency.visualization import Style

__all__ = [
    "CAMCallback",
    "ClassModelCallback",
    "Execution",
    "FoolingCallback",
    "GradCAMCallback",
    "GradCAMPlusPlusCallback",
    "GradientSaliencyCallback",
    "History",
    "Logged",
    "Look",
    "Metrics",
    "Output",
    "SaliencyCallback",
    "Samples",
    "Style",
]
