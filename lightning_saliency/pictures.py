"""An explanation of the samples -> its labelled pictures, one a method and one of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_saliency.attribution import METHODS, Normalize, blank_reasons, to_heatmaps
from lightning_saliency.datasets import find_class_names, find_normalization
from lightning_saliency.explain import Explanation
from lightning_saliency.render import CELL_SIDE, Caption, Channels, fitted, grid, shown_channels, to_rgb
from lightning_saliency.samples import Samples

_AREA = 500_000
"""Of all cells of a sheet together, in pixels: the cells of many samples, or of many methods, are smaller."""

_LEAST_SIDE = 130
"""Of a cell, in pixels, however many there are: the words keep so much room in any case, and 64 pixels are doubled."""


@dataclass(frozen=True)
class _Column:
    """One heatmap of each sample, `(N, 1, H, W)`, or the reason why it is blank."""

    heatmaps: Tensor
    blanks: list[str | None]


@dataclass(frozen=True)
class Names:
    """What classes are called: their names, or where there are none their numbers."""

    names: Sequence[str] | None

    def __getitem__(self, index: int) -> str:
        return str(self.names[index]) if self.names is not None and index < len(self.names) else str(index)


@dataclass(frozen=True)
class Look:
    """How the pictures look; checked when it is made.

    Attributes:
        mean: What was subtracted from the images; None to look for it in the data set.
        std: What the images were divided by; None to look for it in the data set.
        class_names: Names of the classes; None to look for them in the data set.
        colormap: Any matplotlib colour map.
        alpha: Weight of the colour in the overlay, in [0, 1].
        normalize: How raw maps become colours; see `to_heatmaps`.
        channels: What to show of images with more than three channels.
        top_k: Of how many classes, the most probable ones, CAM is shown side by side; 1 for no such picture.

    Raises:
        ValueError: An option's value does not fit.
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    class_names: Sequence[str] | None = None
    colormap: str = "turbo"
    alpha: float = 0.5
    normalize: Normalize = "max"
    channels: Channels = "first"
    top_k: int = 1

    def __post_init__(self) -> None:
        for option, allowed in (("normalize", get_args(Normalize)), ("channels", get_args(Channels))):
            if getattr(self, option) not in allowed:
                raise ValueError(
                    f"Expected `{option}` to be one of {', '.join(allowed)}, got {getattr(self, option)!r}."
                )
        if (self.mean is None) != (self.std is None):
            raise ValueError("Expected `mean` and `std` both or neither, got only one of them.")
        # a wrong colour fails here rather than at the end of the first epoch
        pixel = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
        grid(pixel, {"": torch.zeros(1, 1, 1, 1)}, colormap=self.colormap, alpha=self.alpha)

    def draw(
        self, samples: Samples, explanation: Explanation, *, title: str, explained: str, dataset: Any = None
    ) -> dict[str, Tensor]:
        """Draw a sheet for each method, and one with all of them where there are several.

        Args:
            samples: The images and labels.
            explanation: Of these samples.
            title: What stands on top, such as the epoch.
            explained: In words, which class is explained.
            dataset: Where to look for what the options leave open.

        Returns:
            uint8 pictures `(3, H, W)` by method key, under `overview`, and under `class_maps` for `top_k` above 1.
        """
        images = self.to_rgb(samples.images, dataset)
        names = self.names(dataset)
        captions = _captions(samples, explanation, names)
        layer = f"layer: {explanation.layer}" if explanation.layer else ""
        channels = shown_channels(samples.images.shape[1], self.channels)
        images_at = cache(partial(fitted, images))  # most sheets have cells of the same size

        def sheet(
            columns: Mapping[str, _Column],
            explained: str,
            labels: Mapping[str, Sequence[Caption]] | None = None,
        ) -> Tensor:
            fitting = math.isqrt(_AREA // (len(images) * (1 + len(columns))))
            side = min(CELL_SIDE, max(_LEAST_SIDE, fitting))
            return grid(
                images_at(side),
                {name: column.heatmaps for name, column in columns.items()},
                title=title,
                captions=captions,
                blanks={name: column.blanks for name, column in columns.items()},
                labels=labels,
                note=" · ".join(note for note in (f"explained: {explained}", layer, channels) if note),
                cell_side=side,
                colormap=self.colormap,
                alpha=self.alpha,
            )

        def column(raw: Tensor) -> _Column:
            """A scale that is shared is shared by all samples of a column."""
            heatmaps = to_heatmaps(raw, images.shape[2:], self.normalize).cpu()
            return _Column(heatmaps, blank_reasons(raw, self.normalize))

        columns = {key: column(raw) for key, raw in explanation.attributions.items()}
        pictures = {key: sheet({method_title(key): shown}, explained) for key, shown in columns.items()}
        if len(columns) > 1:
            side_by_side = {method_title(key): shown for key, shown in columns.items()}
            pictures["overview"] = sheet(side_by_side, explained)
        if self.top_k > 1:
            most_probable, labels = _class_columns(samples, explanation, names, self.top_k)
            note = f"the {len(labels)} most probable classes"
            by_class = {rank: column(raw) for rank, raw in most_probable.items()}
            if self.normalize == "max":  # the maps of an image's classes can be compared: on one scale
                note = f"{note}, one scale a row"
                for rank, strength in _strengths(most_probable).items():
                    by_class[rank].heatmaps.mul_(strength)
            pictures["class_maps"] = sheet(by_class, note, labels)
        return pictures

    def to_rgb(self, images: Tensor, dataset: Any = None) -> Tensor:
        """Images as the model takes them -> uint8 `(N, 3, H, W)`, as they were before their normalisation."""
        return to_rgb(images, *self._normalization(dataset, images.shape[1]), self.channels)

    def names(self, dataset: Any = None) -> Names:
        """What the classes are called."""
        return Names(self.class_names or find_class_names(dataset))

    def _normalization(self, dataset: Any, num_channels: int) -> tuple[Any, Any]:
        if self.mean is not None:
            return self.mean, self.std
        found = find_normalization(dataset)
        fits = found is not None and len(found[0]) in (1, num_channels)
        return found if found is not None and fits else (None, None)


def method_title(key: str) -> str:
    """What a picture calls a method, or one of its several layers: `grad_cam@layer3`."""
    method, _, layer = key.partition("@")
    return f"{METHODS[method].title} · {layer}" if layer else METHODS[method].title


def _class_columns(
    samples: Samples, explanation: Explanation, names: Names, top_k: int
) -> tuple[dict[str, Tensor], dict[str, list[Caption]]]:
    """A column for each rank: the CAM of that class of each sample, and what it is called."""
    probabilities, classes = explanation.probabilities.topk(min(top_k, explanation.probabilities.shape[1]))
    maps = explanation.class_maps(classes)
    true = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    columns, labels = {}, {}
    for rank in range(classes.shape[1]):
        column = f"top {rank + 1}"
        columns[column] = maps[:, rank, None]
        labels[column] = [
            Caption(f"{names[found]} · {probability:.0%}", True if found == label else None)
            for found, probability, label in zip(
                classes[:, rank].tolist(), probabilities[:, rank].tolist(), true, strict=True
            )
        ]
    return columns, labels


def _strengths(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How strong each column's map is beside the strongest of its row: `(N, 1, 1, 1)` in [0, 1]."""
    peaks = torch.stack([raw.relu().amax((1, 2, 3), keepdim=True).cpu() for raw in columns.values()])
    shares = torch.where(peaks.amax(0) > 0, peaks / peaks.amax(0), 0.0).nan_to_num(0.0)
    return dict(zip(columns, shares, strict=True))


def _captions(samples: Samples, explanation: Explanation, names: Names) -> list[Caption]:
    labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    predictions = explanation.predictions.tolist()
    confidences = explanation.probabilities.amax(1).tolist()
    return [
        Caption(
            f"predicted {names[prediction]} {confidence:.0%}"
            if label is None
            else f"true {names[label]} · predicted {names[prediction]} {confidence:.0%}",
            None if label is None else label == prediction,
        )
        for label, prediction, confidence in zip(labels, predictions, confidences, strict=True)
    ]
