"""The maps of a table: ours, the other libraries', and two that know nothing of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from libraries import Maps, Source, installed_libraries, resized
from numpy.typing import NDArray
from photographs import Photographs
from tables import Values
from torch import Tensor, nn

from lightning_saliency import METHODS, Explanation, Forward, explain
from lightning_saliency.evidence import TASKS, TaskName, find_target_layer

RANDOM, CENTER = "random map", "centered blob"
NOISE_SIDE = 13
"""Of the random maps, which are upsampled like a CAM: a layer of many networks is about as large."""


@dataclass(frozen=True)
class Contest:
    """Who is measured: a network, our methods on it, and what stands beside them.

    Attributes:
        model: The network, in eval mode.
        methods: Keys of our methods.
        layer: The target layer of all, by name.
        beside: Other sources of maps.
        task: `"embedding"` for a network without classes: the similarity of its embeddings to themselves is explained,
            whatever class is asked for. None for a classifier.
    """

    model: nn.Module
    methods: tuple[str, ...]
    layer: str
    beside: tuple[Source, ...]
    task: TaskName | None = None

    @classmethod
    def of(cls, model: nn.Module, methods: Sequence[str], images: Tensor, task: TaskName | None = None) -> Contest:
        """Return the contest of methods on a network, whose layer is chosen on the first image."""
        layer = find_target_layer(Forward(model, task=TASKS[task] if task else None), images[:1])
        titles = {METHODS[method].title for method in methods}
        libraries = installed_libraries(model, layer.name, titles) if task is None else []  # they explain a class
        return cls(model, tuple(methods), str(layer), (*libraries, RandomMaps(), centered_blob), task)

    def on(self, model: nn.Module) -> Contest:
        """Return the same for another network of the same layers, without the other libraries."""
        return replace(self, model=model, beside=())

    def predicted(self, images: Tensor) -> Tensor:
        """Return the class that the network predicts for each image."""
        with torch.no_grad():
            logits: Tensor = self.model(images)
        return logits.argmax(1)

    def explain(self, images: Tensor, classes: Tensor) -> tuple[Explanation, Maps]:
        """Return our explanation of the classes, and the heatmaps of all."""
        explanation = explain(
            self.model,
            images,
            methods=self.methods,
            target=classes if self.task is None else None,
            layer=self.layer,
            task=self.task,
            progress=False,
        )
        maps = {METHODS[key].title: heatmaps for key, heatmaps in explanation.heatmaps().items()}
        for source in self.beside:
            maps |= source(images, classes)
        return explanation, maps


class RandomMaps:
    """Uniform noise as coarse as a CAM, other noise for each image: what a metric says of a map that knows nothing."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, images: Tensor, classes: Tensor) -> Maps:
        """Return noise for images, which depends on their pixels and the seed alone."""
        sums = images.flatten(1).double().sum(1).tolist()
        seeds = [[self.seed, abs(int(1e6 * total))] for total in sums]
        noise = [np.random.default_rng(seed).random((1, NOISE_SIDE, NOISE_SIDE)) for seed in seeds]
        return {RANDOM: resized(torch.from_numpy(np.stack(noise)), images)}


def centered_blob(images: Tensor, classes: Tensor) -> Maps:
    """Return a Gaussian in the middle of each image: photographers center their objects (Choe et al. 2020)."""
    rows, columns = (torch.linspace(-1, 1, side).square() for side in images.shape[2:])
    blob = torch.exp(-2 * (rows[:, None] + columns))
    return {CENTER: blob.expand(len(images), 1, -1, -1)}


def measured(
    photographs: Photographs,
    measure: Callable[[Photographs], dict[str, Values]],
    *,
    batch_size: int,
    keep: Path | None = None,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Measure batch by batch, and return of each row what was measured on all images.

    Args:
        photographs: The images.
        measure: From a batch to what was measured on it, by the table's row.
        batch_size: How many images a batch has.
        keep: A folder where each batch's values are put, and from where they are read when the command is run again.
    """
    batches = list(_values(photographs, measure, batch_size, keep))
    return {
        row: {name: np.concatenate([batch[row][name] for batch in batches]) for name in values}
        for row, values in batches[0].items()
    }


def _values(
    photographs: Photographs, measure: Callable[[Photographs], dict[str, Values]], batch_size: int, keep: Path | None
) -> Iterator[dict[str, dict[str, NDArray[np.float64]]]]:
    for number, batch in enumerate(photographs.batches(batch_size)):
        file = None if keep is None else keep / f"{number:04}.npz"
        if file is not None and file.exists():
            with np.load(file) as arrays:
                flat = dict(arrays)
        else:
            flat = {
                f"{row}\t{name}": np.asarray(numbers)
                for row, values in measure(batch).items()
                for name, numbers in values.items()
            }
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file.with_suffix(".part.npz"), **flat)
                file.with_suffix(".part.npz").replace(file)
        rows: dict[str, dict[str, NDArray[np.float64]]] = {}
        for key, numbers in flat.items():
            row, _, name = key.partition("\t")
            rows.setdefault(row, {})[name] = numbers
        yield rows
