"""Thin Lightning shells: they check options, take samples from the validation stream, and log pictures."""

from lightning_saliency.callbacks.made import ClassModelCallback, FoolingCallback
from lightning_saliency.callbacks.saliency import (
    CAMCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
)

__all__ = [
    "CAMCallback",
    "ClassModelCallback",
    "FoolingCallback",
    "GradCAMCallback",
    "GradCAMPlusPlusCallback",
    "GradientSaliencyCallback",
    "SaliencyCallback",
]
