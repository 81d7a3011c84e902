"""`output_terms`: of which layers a tensor of a model's output is made, and how."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_saliency.data import Call
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.isolation import graph_everywhere
from lightning_saliency.evidence.loss import LossTerm, read_loss
from lightning_saliency.evidence.tasks import TASKS


def output_terms(forward: Forward, call: Call) -> tuple[LossTerm, ...]:
    """Return of the results of which last layers a model's output is made, and by what, as `read_loss` does of a loss.

    What a loss reads is the output of the same layers: a class's logit comes of it as it is, `unknown`; the error of a
    reconstruction is the `distance` of two results. It takes a run of the model.

    Args:
        forward: How the model is run, and which part of its output is meant.
        call: What the model is called with; one sample suffices.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency.data import plain_call
        >>> class Error(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = nn.Conv2d(3, 3, 1)
        ...     def forward(self, images):
        ...         return (self.net(images) - images).square().mean((1, 2, 3))
        >>> output_terms(Forward(Error()), plain_call(torch.rand(1, 3, 4, 4)))
        (LossTerm(shape=(1, 3, 4, 4), use='distance'),)
    """
    value = replace(forward, task=TASKS["regression"])
    with value.undisturbed() as isolated, torch.enable_grad(), graph_everywhere(isolated.model):
        return read_loss(isolated(forward.on_device(call)).sum())
