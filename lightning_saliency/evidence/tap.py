"""`Tap`: reads or replaces the target layer's activations during a forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import OptionError
from lightning_saliency.evidence.target_layer import TargetLayer, is_activation


class Tap:
    """Reads, or replaces, the target layer's activations during a forward.

    The model continues with a copy, so that its later in-place operations do not change the activations that are read.

    Args:
        model: The model that holds the layer, which is run inside this context.
        layer: The target layer.
        starts_graph: Whether the autograd graph begins at this layer, if it has not begun before.
        replacement: What the model continues with in place of the activations.
    """

    def __init__(
        self, model: nn.Module, layer: TargetLayer, *, starts_graph: bool, replacement: Tensor | None = None
    ) -> None:
        self.module = model.get_submodule(layer.name)
        self.layer = layer
        self.starts_graph = starts_graph
        self.replacement = replacement
        self.calls = 0
        self.map: Tensor | None = None
        self.passed_on: Tensor | None = None

    def __enter__(self) -> Tap:
        # removed when the forward ends: activation checkpointing runs the layer once more in backward
        self.stack = ExitStack()
        self.stack.callback(self.module.register_forward_hook(self._hook).remove)
        if self.layer.activated:
            self.stack.enter_context(_Watch(self._after))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def read(self) -> Tensor:
        """Return the activations, once the forward has ended."""
        if self.map is None or self.calls != 1:
            raise OptionError(
                f"Expected the target layer {self.layer.name!r} to run once in a forward, it ran {self.calls} times. "
                "Choose a `layer` that runs once: for a shared activation, the layer before it or the block around it.",
                "layer",
            )
        return self.map

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        self.calls += 1
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise OptionError(
                f"Expected the target layer {self.layer.name!r} to return a feature map (N, D, h, w), got {shape}.",
                "layer",
            )
        if self.starts_graph and not output.requires_grad:
            output = output.detach().requires_grad_()
            torch.set_grad_enabled(True)  # until the context around the forward ends
        return self._keep(output, is_last=not self.layer.activated)

    def _keep(self, output: Tensor, *, is_last: bool) -> Tensor:
        self.map = output
        if is_last and self.replacement is not None:
            self.passed_on = self.replacement.to(output)
        else:
            self.passed_on = output.clone()
        return self.passed_on

    def _after(self, func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
        """Return what the model continues with after a torch function: the map, if it was the layer's activation."""
        if self.passed_on is not None and is_activation(func) and args and args[0] is self.passed_on:
            in_place = result is self.passed_on
            passed_on = self._keep(result, is_last=True)
            if in_place and self.replacement is not None:
                result.copy_(passed_on)  # the model may continue with the tensor rather than with the result
            result, self.passed_on = passed_on, None  # only the first activation function counts
        return result


class _Watch(TorchFunctionMode):
    """Passes the result of each torch function to a callback, which may replace it."""

    def __init__(self, after: Callable[[Callable[..., Any], tuple[Any, ...], Any], Any]) -> None:
        super().__init__()
        self.after = after

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.after(func, args, func(*args, **(kwargs or {})))
