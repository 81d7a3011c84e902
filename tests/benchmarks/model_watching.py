"""Runs of a model that are watched: what a layer returns, and what runs before and after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_kinds import Size, logits_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_ATTENTIONS = ("softmax", "scaled_dot_product_attention", "multi_head_attention_forward")
_PRODUCTS = ("matmul", "bmm", "einsum", "__matmul__")


@dataclass(frozen=True)
class Reading:
    """How a layer's output is said to be read.

    Attributes:
        layer: The layer's dotted name.
        axes: The order of the axes: NCHW, NHWC, or tokens NLD or LND.
        prefix: The number of tokens before the patches.
        suffix: The number of tokens after them.
        element: The keys that lead to the tensor in a tuple or output object.
    """

    layer: str
    axes: str = "NCHW"
    prefix: int = 0
    suffix: int = 0
    element: tuple[Any, ...] = ()

    def tensor(self, output: Any) -> Tensor:
        """Return the tensor in the layer's output."""
        for key in self.element:
            output = getattr(output, key) if isinstance(key, str) and hasattr(output, key) else output[key]
        return output

    def with_detached(self, output: Any) -> Any:
        """Return the layer's output with a copy of the tensor through which no gradient goes."""
        cut = self.tensor(output).detach().clone()

        def replaced(value: Any, keys: tuple[Any, ...]) -> Any:
            if not keys:
                return cut
            if isinstance(value, tuple) and not hasattr(value, "_fields"):
                return tuple(replaced(item, keys[1:]) if i == keys[0] else item for i, item in enumerate(value))
            if isinstance(value, list):
                return [replaced(item, keys[1:]) if i == keys[0] else item for i, item in enumerate(value)]
            value[keys[0]] = replaced(value[keys[0]], keys[1:])
            return value

        return replaced(output, self.element)

    def positions(self, tensor: Tensor) -> Tensor:
        """Return the patches `(N, positions, D)` of the layer's tensor, row by row."""
        if self.axes == "NCHW":
            return tensor.flatten(2).mT
        if self.axes == "NHWC":
            return tensor.flatten(1, 2)
        if self.axes == "NDL":
            return tensor.mT
        tokens = tensor.transpose(0, 1) if self.axes == "LND" else tensor
        return tokens[:, self.prefix : tokens.shape[1] - self.suffix]

    def grid(self, tensor: Tensor, size: Size) -> Size:
        """Return the (h, w) of the patches, for tokens that of the aspect that is nearest to the images'."""
        if self.axes in ("NCHW", "NHWC"):
            axis = 2 if self.axes == "NCHW" else 1
            return tensor.shape[axis], tensor.shape[axis + 1]
        count = self.positions(tensor).shape[1]
        grids = [(count // width, width) for width in range(1, count + 1) if count % width == 0]
        return min(grids, key=lambda grid: abs(math.log(grid[0] / grid[1] * size[1] / size[0])))


@dataclass
class Attention:
    """One attention that ran.

    Attributes:
        module: The innermost module that was running.
        is_behind: Whether it ran after the layer.
        reads: How many positions of an image it reads, or more.
        output: What it gave.
    """

    module: str
    is_behind: bool
    reads: int
    output: Tensor


class Watched(TorchFunctionMode):
    """A run of a model that is watched: what a layer returned, and what ran before and after it.

    Args:
        model: The model.
        reading: The layer.
        cut: Whether no gradient goes through the layer's map.

    Attributes:
        logits: The model's logits.
        outputs: The tensor that the layer returned, for each of its calls.
        attentions: All attentions, in the order in which they ran.
        places: At how many places of an image each module has outputs.
        later: At how many places each tensor is that a module returned after the layer.
    """

    def __init__(self, model: nn.Module, reading: Reading, images: Tensor, *, cut: bool = False) -> None:
        super().__init__()
        self.reading, self.cut = reading, cut
        self.outputs: list[Tensor] = []
        self.attentions: list[Attention] = []
        self.places: dict[str, int] = {}
        self.later: list[int] = []
        self._active: list[str] = []
        self._has_softmax = False
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave(name, len(images))))
        with self:
            self.logits = logits_of(model(images))
        for handle in handles:
            handle.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, __: self._active.append(name)

    def _leave(self, name: str, images: int) -> Callable[[nn.Module, Any, Any], Any]:
        def leave(_: nn.Module, __: Any, output: Any) -> Any:
            self._active.pop()
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor) and leaf.dim() > 1:
                    self.places[name] = max(self.places.get(name, 0), places(leaf, images))
                    if self.outputs and leaf is not self.outputs[-1]:
                        self.later.append(places(leaf, images))
            if name == self.reading.layer:
                output = self.reading.with_detached(output) if self.cut else output
                self.outputs.append(self.reading.tensor(output))
            return output

        return leave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _ATTENTIONS:
            keys = result if name == "softmax" else args[1][..., 0]
            output = result[0] if isinstance(result, tuple) else result
            self.attentions.append(Attention(self._active[-1], bool(self.outputs), keys.numel(), output))
            self._has_softmax = name == "softmax"
        elif name in _PRODUCTS and self._has_softmax:  # the values, weighted
            self.attentions[-1].output = result
            self._has_softmax = False
        return result


def places(tensor: Tensor, images: int) -> int:
    """Return at how many places of an image a tensor has channels, nearly: its longest axis is taken for the channels.

    Windows may stand in the first axis, so that it is not the batch.
    """
    return tensor.numel() // max(tensor.shape) // images if tensor.dim() > 2 else 1
