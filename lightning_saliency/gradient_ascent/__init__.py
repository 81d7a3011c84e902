"""Gradient ascent on images: class model images, which maximize a class's score, and fooling images."""

from lightning_saliency.gradient_ascent.class_model import ClassModelImages, check_ascent, class_model_image
from lightning_saliency.gradient_ascent.fooling import FoolingImages, check_fooling, fooling_image
from lightning_saliency.gradient_ascent.steps import StepMethod

__all__ = [
    "ClassModelImages",
    "FoolingImages",
    "StepMethod",
    "check_ascent",
    "check_fooling",
    "class_model_image",
    "fooling_image",
]
