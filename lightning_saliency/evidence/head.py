"""The head of a model, the layer that computes the logits; and the replacement of parameters in a shadow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_saliency.data import Call
from lightning_saliency.evidence.forward import Forward, as_forward
from lightning_saliency.evidence.isolation import graph_everywhere

_PARAMETRIZATIONS = ".parametrizations."
"""Part of the name of a parameter from which `torch.nn.utils.parametrize` computes the module's own."""


def find_head(model: nn.Module | Forward, images: Tensor | Call) -> str:
    """Find the head, the layer whose weight is the last one applied on the way to the logits, by a run of one image.

    A weight is a floating-point parameter of two dimensions or more that the logits depend on. So layers that the model
    calls after its classifier for another purpose are ignored; where several layers compute the logits together (the
    mean of two heads), it is the last. It costs one forward of one image (two, where the model runs its
    head under `no_grad`), and leaves the model as it was.

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.

    Returns:
        The layer's dotted name in `model.named_modules()`; empty where the weight is the model's own.

    Raises:
        ValueError: The logits depend on no weight.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_head(model, torch.randn(1, 3, 8, 8))
        '4'
    """
    forward = as_forward(model)
    call = (forward.on_device(images) if isinstance(images, Call) else forward.call_of(images))[:1]
    owners: dict[Any, str] = {}
    with forward.undisturbed() as isolated:
        for name, module in isolated.model.named_modules():
            # a frozen weight is not in the graph, and a tied one has two owners: each owner gets a stand-in of its own
            stand_ins = {key: nn.Parameter(weight.detach()) for key, weight in _weights(module)}
            owners.update(dict.fromkeys(stand_ins.values(), name))
            replace_parameters(module, stand_ins)
        # a model may run its head under `no_grad`; it is tried last, for scripted modules have no hooks
        for graph in (torch.enable_grad, partial(graph_everywhere, isolated.model)):
            with graph():
                weight = _last_applied(isolated(call), owners)
            if weight is not None:
                return f".{owners[weight]}.".partition(_PARAMETRIZATIONS)[0].strip(".")
    raise ValueError(
        f"Expected the logits of {type(forward.model).__name__} to depend on a floating-point parameter of two "
        "dimensions or more, the weight of its head, but the run shows none."
    )


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's floating-point parameters and parametrized tensors by name, without its children's."""
    names = [*(name for name, _ in module.named_parameters(recurse=False)), *getattr(module, "parametrizations", ())]
    with torch.enable_grad():  # else a parametrized tensor would not say that it takes a gradient
        tensors = {name: getattr(module, name) for name in names}
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def replace_parameters(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Replace parameters of a module, for good: to be called with a shadow's.

    Args:
        module: The module.
        parameters: The replacements by name, as in `own_parameters`.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> replace_parameters(linear, {"weight": nn.Parameter(torch.ones(1, 2))})
        >>> linear(torch.ones(2)).item()
        2.0
    """
    for name, parameter in parameters.items():
        if is_parametrized(module, name):
            parametrizations: Any = module.parametrizations
            parametrizations[name] = _Constant(parameter)
        else:
            # by `setattr`, since recurrent and scripted modules hold their parameters in other attributes too
            setattr(module, name, parameter)


class _Constant(nn.Module):
    """A parametrization that returns a given parameter."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter

    def forward(self) -> Tensor:
        return self.parameter


def _weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_floating_point() and parameter.dim() >= 2:
            yield name, parameter


def _last_applied(logits: Tensor, weights: Collection[Any]) -> Any:
    """Return the weight that was applied last of those that the logits depend on; None where they depend on none."""
    waiting: set[Any] = {logits.grad_fn} - {None}
    while waiting:
        # autograd numbers nodes in the order of the forward: no waiting node depends on the one with the highest number
        node = max(waiting, key=lambda node: node._sequence_nr())
        waiting.remove(node)
        for parent, _ in node.next_functions:
            leaf = getattr(parent, "variable", None)
            if leaf is None:
                waiting |= {parent} - {None}
            elif leaf in weights:
                return leaf
    return None
