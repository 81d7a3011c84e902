"""The Lightning callbacks and their options: when to explain, and what happens with the result.

The only package that meets a Trainer.
"""

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
