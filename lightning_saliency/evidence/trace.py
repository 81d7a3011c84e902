"""The trace of one forward, which finds the target layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency.evidence.state import ForwardContext, as_model_input, bare_module, undisturbed
from lightning_saliency.layers import LayerCall, TargetLayer, is_activation, last_convolutional_map
from lightning_saliency.targets import find_logits


def find_target_layer(
    model: nn.Module,
    images: Tensor,
    *,
    size: tuple[int, int] | None = None,
    can_be_cut: bool = False,
    output_fn: Callable[[Any], Tensor] | None = None,
    forward_context: ForwardContext = nullcontext,
) -> TargetLayer:
    """Find the layer that the papers would choose, from a run of the first image.

    See `last_convolutional_map` for the rule. It leaves the model as it was.

    Args:
        model: Any model of images that returns logits.
        images: `(N, C, H, W)`.
        size: (h, w) that the map is to have, for an earlier layer than the last; None for any.
        can_be_cut: Only a map that everything passes through on its way to the logits.
        output_fn: Takes the logits out of what the model returns.
        forward_context: Makes the context for the forward, for instance autocast.

    Returns:
        The layer, which `explain` takes as `layer`.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_target_layer(model, torch.randn(1, 3, 8, 8)).name
        '1'
    """
    model = bare_module(model)
    with undisturbed(model):
        trace = _Trace()
        image = as_model_input(model, images[:1]).detach().clone().requires_grad_()
        with ExitStack() as stack:
            for name, module in model.named_modules():
                stack.callback(module.register_forward_hook(trace.hook(name)).remove)
            stack.enter_context(graph_everywhere(model))
            stack.enter_context(forward_context())
            stack.enter_context(trace)
            source = image.clone()
            logits = find_logits(model(source), 1, output_fn)
        return last_convolutional_map(trace.calls, logits, size, source.grad_fn if can_be_cut else None)


class _Trace(TorchFunctionMode):
    """Records the calls of all modules, and which outputs an activation function was applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and name:
                self.calls.append(LayerCall(name, module, output, output.grad_fn))

        return record

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_activation(func) and args:
            for call in self.calls:
                call.activated |= call.output is args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def graph_everywhere(model: nn.Module) -> Iterator[None]:
    """Build a graph in every module, also in those that the model runs under `no_grad`."""

    def enable(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)

    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enable).remove)
        yield
