"""Thin Lightning shells: they check options, take samples from the validation stream, and log pictures."""

from lightning_saliency.callbacks.saliency import (
    CAMCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
)

__all__ = [
    "CAMCallback",
    "GradCAMCallback",
    "GradCAMPlusPlusCallback",
    "GradientSaliencyCallback",
    "SaliencyCallback",
]
