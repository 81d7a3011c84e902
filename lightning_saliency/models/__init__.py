"""The classic CAM: a trainable GAP head, backbones that end in it, their training, and the loading of models."""

from lightning_saliency.models.classifier import CAMClassifier, CAMPrediction
from lightning_saliency.models.errors import WrongArgumentError
from lightning_saliency.models.head import GAPHead, GAPModel, gap_model
from lightning_saliency.models.loaded import LoadedModel
from lightning_saliency.models.sources import load_model

__all__ = [
    "CAMClassifier",
    "CAMPrediction",
    "GAPHead",
    "GAPModel",
    "LoadedModel",
    "WrongArgumentError",
    "gap_model",
    "load_model",
]
