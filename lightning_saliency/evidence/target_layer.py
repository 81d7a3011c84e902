"""`TargetLayer`: the layer whose activations are read, by name or by module."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from torch import nn

from lightning_saliency._checks import OptionError
from lightning_saliency.evidence.layout import Layout

_ACTIVATED = ":activated"
"""The ending of a layer's name that means: read it after the activation function that follows it."""


@dataclass(frozen=True)
class TargetLayer:
    """The layer whose activations are read.

    Attributes:
        name: Its dotted name in the model.
        activated: Read the map after the activation function that the model applies to the layer's output outside any
            module of its own (`F.relu(self.conv(x))`), in place or not. An automatically chosen layer is read so; one
            that the user names is read as returned, unless the name ends in `:activated`.
        layout: How its output is read as a map; None to find that out from a run.
    """

    name: str
    activated: bool = False
    layout: Layout | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.name}{_ACTIVATED}" if self.activated else self.name


def name_layer(model: nn.Module, layer: str | nn.Module, *, argument: str = "layer") -> TargetLayer:
    """Return the target layer for a dotted name or for a module of the model.

    Args:
        model: The model that holds it.
        layer: A name as in `model.named_modules()`, with `:activated` behind it to read the layer after the activation
            function that the model applies to its output; or one of the modules.
        argument: The argument's name in errors.

    Raises:
        ValueError: The model has no such layer; the message lists the nearest names.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> name_layer(model, model[1]).name
        '1'
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return TargetLayer(name)
        raise OptionError(
            f"Expected `{argument}` to be a module of the model, got a {type(layer).__name__} that "
            f"{type(model).__name__} does not hold. Take it from this very model, for instance by its name in "
            "`model.named_modules()`.",
            argument,
        )
    if not isinstance(layer, str):
        raise TypeError(f"Expected `{argument}` to be a dotted name, a module or None, got {type(layer).__name__}.")
    activated = layer.endswith(_ACTIVATED)
    layer = layer.removesuffix(_ACTIVATED)
    if layer not in modules or not layer:
        names = [name for name in modules if name]
        nearest = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
        raise OptionError(
            f"Expected `{argument}` to name a module of {type(model).__name__}, got {layer!r}. "
            f"Nearest: {', '.join(nearest)}.",
            argument,
        )
    return TargetLayer(layer, activated)
