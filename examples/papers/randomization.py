"""Cascading randomization: what is left of the maps as the network loses, layer by layer, what it has learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from maps import Contest
from numpy.typing import NDArray
from photographs import Photographs
from tables import Column, Values, mean_of
from torch import Tensor, nn

from lightning_saliency.metrics import coarse, rank_correlation

OTHER_IMAGE, NOISY, RANDOM_NETWORKS = "other image", "noisy image", "two random networks"
NOISE = 0.1
"""Of the standard deviation of normalized pixels: what disturbs no one who looks at the image."""


def blocks(model: nn.Module, images: Tensor, depth: int) -> list[str]:
    """Return the blocks of a network that have parameters, the last that runs first.

    Args:
        model: The network.
        images: On which it is run once.
        depth: How many parts of a module's dotted name make a block.
    """
    model = copy.deepcopy(model)
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(".".join(name.split(".")[:depth]))

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(note(name))
    with torch.no_grad():
        model(images[:1])
    return list(dict.fromkeys(reversed(order)))


def cascade(model: nn.Module, names: list[str], seed: int = 0) -> Iterator[nn.Module]:
    """Yield the network with one more block shuffled each time, as `randomized_head` shuffles the head.

    The values of each parameter are put in another order: that keeps their scale.
    """
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    done: set[str] = set()
    for name in names:
        for key, parameter in model.named_parameters():
            if key not in done and (key == name or key.startswith(f"{name}.")):
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.data = parameter.detach().flatten()[order].view(parameter.shape)
                done.add(key)
        yield model


def measure_cascade(contest: Contest, names: list[str]) -> Callable[[Photographs], dict[str, Values]]:
    """Return how a batch is measured: the rank correlation of its maps with those of each stage, for one class.

    The class is the one that the trained network predicts. Beside the stages stand three correlations to read them by:
    with the map of another image (the next of the batch), with that of the same image under noise, and that of two
    networks all of whose blocks are shuffled, differently.
    """

    def measure(batch: Photographs) -> dict[str, Values]:
        images = batch.images
        classes = contest.predicted(images)

        def maps(model: nn.Module, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
            _, every = contest.on(model).explain(images, classes)
            return {row: coarse(heatmaps) for row, heatmaps in every.items()}

        trained = maps(contest.model, images, classes)
        noise = NOISE * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        others = {
            OTHER_IMAGE: {row: heatmaps.roll(1, 0) for row, heatmaps in trained.items()},
            NOISY: maps(contest.model, images + noise, classes),
        }
        for name, model in zip(names, cascade(contest.model, names), strict=True):
            others[name] = maps(model, images, classes)
        *_, random = cascade(contest.model, names, seed=1)
        values: dict[str, dict[str, NDArray[Any]]] = {
            row: {name: rank_correlation(heatmaps, other[row]).double().numpy() for name, other in others.items()}
            for row, heatmaps in trained.items()
        }
        for row, heatmaps in maps(random, images, classes).items():
            values[row][RANDOM_NETWORKS] = rank_correlation(heatmaps, others[names[-1]][row]).double().numpy()
        return dict(values)

    return measure


def cascade_columns(names: list[str]) -> tuple[Column, ...]:
    """Return the columns: how many maps are blank, the three to read the stages by, and the stages."""
    stages = (Column(name, mean_of(name), scale=1) for name in (NOISY, OTHER_IMAGE, RANDOM_NETWORKS, *names))
    return Column("blank %", lambda values: float(np.isnan(values[NOISY]).mean())), *stages
