"""An explanation of the samples -> its labelled pictures, one a method and one of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_saliency.attribution import METHODS, Normalize
from lightning_saliency.explain import Explanation
from lightning_saliency.render import Caption, Channels, grid, shown_channels, to_rgb
from lightning_saliency.samples import Samples, find_class_names, find_normalization


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
            uint8 pictures `(3, H, W)` by method key, and under `overview`.
        """
        num_channels = samples.images.shape[1]
        images = to_rgb(samples.images, *self._normalization(dataset, num_channels), self.channels)
        heatmaps = explanation.heatmaps(normalize=self.normalize)
        blanks = explanation.blanks(self.normalize)
        captions = _captions(samples, explanation, self.class_names or find_class_names(dataset))
        notes = [
            f"explained: {explained}",
            f"layer: {explanation.layer}" if explanation.layer else "",
            shown_channels(num_channels, self.channels),
        ]

        def sheet(methods: Sequence[str]) -> Tensor:
            titles = {method: METHODS[method].title for method in methods}
            return grid(
                images,
                {titles[method]: heatmaps[method].cpu() for method in methods},
                title=title,
                captions=captions,
                blanks={titles[method]: blanks[method] for method in methods},
                note=" · ".join(note for note in notes if note),
                colormap=self.colormap,
                alpha=self.alpha,
            )

        methods = list(explanation.attributions)
        pictures = {method: sheet([method]) for method in methods}
        return pictures | {"overview": sheet(methods)} if len(methods) > 1 else pictures

    def _normalization(self, dataset: Any, num_channels: int) -> tuple[Any, Any]:
        if self.mean is not None:
            return self.mean, self.std
        found = find_normalization(dataset)
        fits = found is not None and len(found[0]) in (1, num_channels)
        return found if found is not None and fits else (None, None)


def _captions(samples: Samples, explanation: Explanation, names: Sequence[str] | None) -> list[Caption]:
    def name(index: int) -> str:
        return str(names[index]) if names is not None and index < len(names) else str(index)

    labels = [None] * len(samples) if samples.labels is None else samples.labels.tolist()
    predictions = explanation.predictions.tolist()
    confidences = explanation.probabilities.amax(1).tolist()
    return [
        Caption(
            f"predicted {name(prediction)} {confidence:.0%}"
            if label is None
            else f"true {name(label)} · predicted {name(prediction)} {confidence:.0%}",
            None if label is None else label == prediction,
        )
        for label, prediction, confidence in zip(labels, predictions, confidences, strict=True)
    ]
