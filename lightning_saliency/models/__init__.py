"""The classic CAM: a trainable head, backbones that wear it, how they are trained, and where models come from."""

from lightning_saliency.models.classifier import CAMClassifier, CAMPrediction
from lightning_saliency.models.head import GAPHead, GAPModel, gap_model
from lightning_saliency.models.sources import WrongArgumentError, load_model

__all__ = [
    "CAMClassifier",
    "CAMPrediction",
    "GAPHead",
    "GAPModel",
    "WrongArgumentError",
    "gap_model",
    "load_model",
]
