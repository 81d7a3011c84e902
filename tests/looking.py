"""An output that keeps what a run has looked at, for a test to look at."""

import torch

from lightning_saliency.callbacks import Logged, Look, Output


class Keeps(Output):
    """Keeps each look."""

    def __init__(self):
        self.looks = []

    def __call__(self, look):
        self.looks.append(look)
        return Logged()

    @property
    def images(self) -> torch.Tensor:
        """The images of the last look."""
        return images_of(self.looks[-1])

    @property
    def labels(self) -> list[int | None]:
        """Their true classes."""
        return [sample.label for sample in self.looks[-1].samples.samples]


def images_of(look: Look) -> torch.Tensor:
    return torch.cat([sample.call.images for sample in look.samples.samples])
