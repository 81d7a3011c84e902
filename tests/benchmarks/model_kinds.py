"""`Published`: a published model that can be built with random weights, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

Size = tuple[int, int]

CLASSES = 10


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        library: Where it is from.
        family: What is counted: models of one family share their architecture.
        name: Its own name.
        build: Returns the model, with random weights, for images of a size (H, W).
        sizes: The sizes to try; the first that the model takes is used.
        has_map: Whether there is any map to find: a perceptron has none.
    """

    library: str
    family: str
    name: str
    build: Callable[[Size], nn.Module]
    sizes: tuple[Size, ...]
    has_map: bool = True


def built(published: Published) -> tuple[nn.Module, Size]:
    """Return the model in eval mode and the first size of its images that it takes."""
    refusals = []
    for size in published.sizes:
        torch.manual_seed(0)
        try:
            model = published.build(size).eval()
            with torch.no_grad():
                logits = logits_of(model(random_images(2, size)))
            if logits.dim() != 2:
                raise ValueError(f"its output is of shape {tuple(logits.shape)}, no scores (N, K)")
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError, KeyError) as error:  # not this size
            refusals.append(f"{size[0]}×{size[1]}: {type(error).__name__}: {error}")
            continue
        with torch.no_grad():
            wake(model)
            calibrate(model, random_images(8, size))
        return model, size
    raise ValueError(f"{published.name} takes none of its sizes: {'; '.join(refusals)}")


def logits_of(output: Any) -> Tensor:
    """Return the logits in a model's output."""
    if isinstance(output, Tensor):
        return output
    return output["logits"] if hasattr(output, "keys") and "logits" in output else tree_leaves(output)[0]


def random_images(count: int, size: Size, seed: int = 0) -> Tensor:
    """Return images of large and small random shapes, normalized."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    fine = torch.randn(count, 3, *size, generator=generator)
    return F.interpolate(coarse, size, mode="bilinear") + 0.5 * fine


def wake(model: nn.Module) -> None:
    """Let every part of a fresh model count: change what starts constant, such as a layer scale of 1e-6 or a zero head.

    Otherwise many a block would add nothing to the trunk, and to find the trunk's end would prove little.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.is_floating_point() and parameter.min() == parameter.max():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Give every BatchNorm the statistics of these images, as training would."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
