"""`describe_reading`: in words, which layer or attentions of a model a map was read from."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_saliency.attribution.explanation import Explanation
from lightning_saliency.attribution.methods import METHODS
from lightning_saliency.evidence import Layers, Layout, TargetLayer

_AT_LAYER = "read at layer "


def describe_reading(explanation: Explanation, key: str) -> str:
    """Return in words what a map was read from: the layer or the attentions, and which of the tokens are patches.

    Args:
        explanation: The explanation.
        key: The map's key in its attributions: a method, or a method and a layer.

    Returns:
        Such as `read at layer layer4` or `read at layer blocks.11.norm1 · 14×14 tokens after 1+4`: there the patches
        come after one token that the score reads, a class token, and four that it does not, registers. Empty for a map
        of the image's pixels.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> describe_reading(explain(model, torch.randn(2, 3, 32, 32)), "grad_cam")
        'read at layer 1'
    """
    method, _, layer = key.partition("@")
    settings, found = explanation.settings, explanation.settings.found or Layers()
    if settings.found is None and METHODS[method].reads_attentions:  # nothing was detected that could be explained
        return ""
    grid = "×".join(map(str, explanation.attributions[key].shape[2:]))
    if METHODS[method].reads_attentions:
        sites, inputs = found.attentions, found.attention_inputs
        if "attention_inputs" in METHODS[method].needs or sites is None:
            return f"inputs of {len(inputs)} attentions · {grid}"
        return f"{len(sites.sizes)} attentions{_tokens(sites.stream, found, grid)}"
    layers = [one for one in settings.layers_of(method) if not layer or str(one) == layer]
    if not layers:
        return ""
    return f"{_AT_LAYER}{', '.join(map(str, layers))}{_tokens(layers[0], found, grid)}"


def describe_readings(explanation: Explanation, keys: Iterable[str]) -> str:
    """Return in words what several maps were read from, each reading once; see `describe_reading`."""
    readings = dict.fromkeys(describe_reading(explanation, key) for key in keys)
    layers = [reading.removeprefix(_AT_LAYER) for reading in readings if reading.startswith(_AT_LAYER)]
    others = [reading for reading in readings if reading and not reading.startswith(_AT_LAYER)]
    return "; ".join([*([_AT_LAYER + ", ".join(layers)] if layers else []), *others])


def _tokens(layer: TargetLayer, found: Layers, grid: str) -> str:
    """Return how many patches there are, and which tokens stand beside them; empty for a map that is no sequence."""
    layout = layer.layout or Layout()
    if not layout.is_tokens:
        return ""
    unread = layout.prefix - found.read_prefix
    before = f"{found.read_prefix}+{unread}" if found.read_prefix and unread > 0 else str(layout.prefix)
    after = f" after {before}" if layout.prefix else ""
    return f" · {grid} tokens{after}" + (f" before {layout.suffix}" if layout.suffix else "")
