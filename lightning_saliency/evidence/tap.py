"""`Tap`: reads or replaces a layer's activations during a forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import OptionError
from lightning_saliency.evidence.backward import Wanted
from lightning_saliency.evidence.layout import Layout, TokenGrid, plain_layout
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.trace import is_activation


class UnknownLayoutError(OptionError):
    """The shape of a layer's output does not tell how it is read as a map; see `with_layout`.

    Attributes:
        layer: The layer.
    """

    def __init__(self, layer: TargetLayer, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        super().__init__(
            f"Expected the target layer {layer.name!r} to return a feature map, (N, D, h, w), (N, h, w, D), or tokens "
            f"(N, L, D) that are a grid of the image's aspect, got {shape}.",
            "layer",
        )
        self.layer = layer


class Tap:
    """Reads, or replaces, a layer's activations during a forward.

    The model continues with a copy, so that its later in-place operations do not change the activations that are read.

    Args:
        model: The model that holds the layer, which is run inside this context.
        layer: The layer.
        images_shape: (N, C, H, W) of the images; likewise of volumes or signals.
        starts_graph: Whether the autograd graph begins at this layer, if it has not begun before.
        replacement: The map `(N, D, h, w)` with which the model continues in place of the layer's.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: TargetLayer,
        images_shape: Sequence[int],
        *,
        starts_graph: bool = False,
        replacement: Tensor | None = None,
    ) -> None:
        self.module = model.get_submodule(layer.name)
        self.layer = layer
        self.layout = layer.layout
        self.count, self.image_size = images_shape[0], images_shape[2:]
        self.starts_graph = starts_graph
        self.replacement = replacement
        self.calls = 0
        self.tensor: Tensor | None = None
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
        """Return the tensor that the layer has returned, once the forward has ended."""
        if self.tensor is None or self.calls != 1:
            raise OptionError(
                f"Expected the target layer {self.layer.name!r} to run once in a forward, it ran {self.calls} times. "
                "Choose a `layer` that runs once: for a shared activation, the layer before it or the block around it.",
                "layer",
            )
        return self.tensor

    def map(self, gradient: Tensor | None = None) -> Tensor:
        """Return the map `(N, D, h, w)` that the layer has returned, or its gradient.

        Args:
            gradient: The gradient of what `read` returns.

        Raises:
            ValueError: It is no map, or not one for each image.
        """
        tensor = self.read().detach() if gradient is None else gradient
        maps = self._known_layout.read(tensor, self.image_size)
        if len(maps) != self.count:
            raise OptionError(
                f"Expected the target layer {self.layer.name!r} to return a map for each of {self.count} images, got "
                f"{len(maps)}: it cuts them into parts, or joins them. Choose a `layer` before or behind it.",
                "layer",
            )
        return maps

    def wanted(self) -> Wanted:
        """Return the tensor that the layer has returned, for its gradient."""
        return self.read(), self._known_layout.batch_axis

    def token_relevance(self, gradient: Tensor, query: int | None) -> Tensor:
        """Return how much the score reads each token, `(N, T)`, of sum 1.

        Args:
            gradient: The gradient of what `read` returns.
            query: The position of the one token that the score is read from, where this is known.
        """
        magnitude = self._known_layout.sequence(gradient).abs().sum(2)
        if query is not None:
            magnitude = torch.zeros_like(magnitude)
            magnitude[:, query] = 1
        total = magnitude.sum(1, keepdim=True)
        return magnitude / torch.where(total > 0, total, 1.0)

    def tokens(self) -> TokenGrid:
        """Return which of the positions are the image's patches."""
        return self._known_layout.token_grid(self.read().shape, self.image_size)

    @property
    def _known_layout(self) -> Layout:
        assert self.layout is not None  # the layer has been called
        return self.layout

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.calls += 1
        if self.layout is None:
            self.layout = self._plain_layout(output)
        tensor = self.layout.tensor(output)
        if self.starts_graph and not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
            torch.set_grad_enabled(True)  # until the context around the forward ends
        return self.layout.replaced(output, self._keep(tensor, is_last=not self.layer.activated))

    def _plain_layout(self, output: Any) -> Layout:
        layout = plain_layout(output.shape, self.image_size) if isinstance(output, Tensor) else None
        if layout is None:
            raise UnknownLayoutError(self.layer, output)
        return layout

    def _keep(self, tensor: Tensor, *, is_last: bool) -> Tensor:
        self.tensor = tensor
        if is_last and self.replacement is not None and self.layout is not None:
            self.passed_on = self.layout.write(tensor, self.replacement.to(tensor), self.image_size)
        else:
            self.passed_on = tensor.clone()
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
