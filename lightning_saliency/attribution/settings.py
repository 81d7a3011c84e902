"""`Settings`: what produces an explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import nn

from lightning_saliency.attribution.methods import METHODS
from lightning_saliency.evidence import Forward, Layers, Surroundings, Target, TargetLayer

Fuse: TypeAlias = Literal["mean", "max"]
"""How the maps of several target layers become one."""


@dataclass(frozen=True)
class Settings:
    """The settings that produce an explanation.

    Attributes:
        forward: How the model is run.
        methods: The options of each method's function, by the method's key in `METHODS`.
        target: Which class is explained.
        layers: The target layers that are named; empty to choose them automatically.
        found: Which layers a run of the model has shown; None where no method reads one that is not named.
        fuse: How the maps of several layers become one; None for one map per layer.
        flip: Whether each map is averaged with the map of the mirrored image.
        chunk_size: The most images that go through the model together; None for as many as are fast.
        progress: Whether to show a progress bar for methods that take many passes.
        compares: Whether the map of the predicted class is made, too, where another class is explained: by the first
            method that reads a layer in the shared pass. Not with `flip`.
    """

    forward: Forward
    methods: Mapping[str, Mapping[str, Any]]
    target: Target = field(default_factory=Target)
    layers: tuple[TargetLayer, ...] = ()
    found: Layers | None = None
    fuse: Fuse | None = None
    flip: bool = False
    chunk_size: int | None = None
    progress: bool = False
    compares: bool = False

    def layers_of(self, key: str) -> tuple[TargetLayer, ...]:
        """Return the target layers that a method reads; empty for a method that reads none.

        Raises:
            ValueError: None is named, and the model has none.
        """
        method = METHODS[key]
        if not method.reads_layer or self.layers:
            return self.layers if method.reads_layer else ()
        found = self.found or Layers()
        layer = found.pooled if "class_weights" in method.needs else found.target
        if layer is None:
            raise ValueError(found.problem)
        return (layer,)

    @property
    def compared(self) -> str | None:
        """The key of the method whose map of the predicted class is made; None for none."""
        if not self.compares or self.flip or (self.fuse is None and len(self.layers) > 1):
            return None
        plain = (key for key in self.methods if METHODS[key].reads_layer and METHODS[key].extra is None)
        return next(plain, None)

    @property
    def read_layers(self) -> tuple[TargetLayer, ...]:
        """The target layers that the methods read, each once."""
        return tuple(dict.fromkeys(layer for key in self.methods for layer in self.layers_of(key)))

    def forward_of(self, model: nn.Module | Forward) -> Forward:
        """Return how a model is run, as for the explanation: the same model, or a copy of it."""
        if isinstance(model, Forward):
            return model
        other = replace(self.forward, model=model, surroundings=Surroundings())
        return self.forward if other.model is self.forward.model else other
