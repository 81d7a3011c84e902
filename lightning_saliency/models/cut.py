"""`cut_backbone`: a module up to one of its layers, as a graph of torch.fx; what comes after the layer is removed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torchvision
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import describe_error
from lightning_saliency.data.trees import leaves
from lightning_saliency.evidence import Forward, TargetLayer, is_activation

_VISION_OPERATIONS: tuple[type[nn.Module], ...] = tuple(
    value for value in vars(torchvision.ops).values() if isinstance(value, type) and issubclass(value, nn.Module)
)
"""torchvision's own building blocks, some of which branch on values, so that they are not traced into."""


class Backbone(fx.GraphModule):
    """A module up to one of its layers, under its own names; it shares the parameters and the inner modules.

    What a forward does may depend on the mode by more than the inner modules, as `F.dropout(x, training=self.training)`
    does. So there is a graph for each mode, and `train` and `eval` choose between them.

    Args:
        root: The module that is cut, or one with the same parts.
        graphs: From images to the features, for training (True) and for evaluation (False).
        name: What it is called in its `repr`.
    """

    def __init__(self, root: nn.Module, graphs: Mapping[bool, fx.Graph], name: str) -> None:
        parts = fx.Graph()
        for node in chain.from_iterable(graph.nodes for graph in graphs.values()):
            if node.op in ("call_module", "get_attr"):
                parts.get_attr(node.target)
        super().__init__(root, parts, name)  # which takes over what either graph needs
        for name, part in self.named_modules():
            part.training = root.get_submodule(name).training
        self.graphs = dict(graphs)
        self.graph = self.graphs[self.training]

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of all inner modules, and choose its graph."""
        super().train(mode)
        if self.graph is not self.graphs[mode]:
            self.graph = self.graphs[mode]  # which compiles it
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        root, graphs = copy.deepcopy((self._parts(), self.graphs), memo)
        return Backbone(root, graphs, type(self).__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        # a graph is pickled by fx as the code of a module
        traced = {mode: fx.GraphModule(self, graph) for mode, graph in self.graphs.items()}
        return _unpickled, (self._parts(), traced, type(self).__name__)

    def _parts(self) -> nn.Module:
        """Return a plain module that holds the same parts."""
        parts = nn.Module()
        parts.training = self.training
        for kind in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            setattr(parts, kind, getattr(self, kind).copy())
        return parts


def _unpickled(root: nn.Module, traced: Mapping[bool, fx.GraphModule], name: str) -> Backbone:
    return Backbone(root, {mode: module.graph for mode, module in traced.items()}, name)


def cut_backbone(module: nn.Module, layer: TargetLayer, image: Tensor) -> Backbone:
    """Return a module up to one of its layers, or up to the activation function that follows the layer.

    Args:
        module: The module; its modes are as before in the end.
        layer: The layer. `layer.activated`: up to the activation function that the module applies to the layer's
            output, whichever it is and however it is called, with its options.
        image: What the module can be called with, `(1, C, H, W)`.

    Returns:
        A module of the same parts that returns the layer's output.

    Raises:
        ValueError: torch.fx cannot trace the module, or shows no such layer or activation function in it.

    Example:
        >>> import torch
        >>> module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> backbone = cut_backbone(module, TargetLayer("1"), torch.zeros(1, 3, 8, 8))
        >>> backbone(torch.zeros(2, 3, 8, 8)).shape, sorted(backbone.state_dict())
        (torch.Size([2, 4, 6, 6]), ['0.bias', '0.weight'])
    """
    try:
        graphs = {mode: _graph_up_to(layer, module, image, mode) for mode in (True, False)}
    except Exception as error:  # the module's own code, called with placeholders
        name, reason = type(module).__name__, describe_error(error).removesuffix(".")
        raise ValueError(
            f"Expected `backbone` to be a module that torch.fx can trace, got {name}: {reason}. Cut it yourself, and "
            "put a `GAPHead` behind it."
        ) from error
    return Backbone(module, graphs, type(module).__name__)


def _graph_up_to(layer: TargetLayer, module: nn.Module, image: Tensor, mode: bool) -> fx.Graph:
    """Return the graph of a module in a mode, from its input to the map that a layer returns."""
    tracer = _Tracer(layer)
    with _mode_of(module, mode):
        graph = tracer.trace(module)
    element = () if layer.layout is None else layer.layout.element
    output = dict(leaves(tracer.output)).get(element)
    if not isinstance(output, fx.Proxy):
        raise ValueError(f"it shows no output of {layer.name!r}, which lies in a module that is not traced into")
    with Forward(module).undisturbed() as isolated:
        run = _Run(isolated.model, graph, output.node)
        run.run(isolated.call_of(image).images)
    end = run.activation if layer.activated else output.node
    if end is None:
        raise ValueError(f"it shows no activation function behind {layer.name!r}")
    _keep_up_to(graph, end, run.in_place)
    return graph


def _keep_up_to(graph: fx.Graph, end: fx.Node, in_place: Collection[fx.Node]) -> None:
    """Make a node the graph's output, and remove what it does not depend on."""
    nodes = list(graph.nodes)
    kept = {end}
    for node in reversed(nodes[: nodes.index(end) + 1]):
        # an operation in place may have no users: the ones of its operand depend on it
        if node in kept or (node in in_place and not kept.isdisjoint(node.all_input_nodes)):
            kept.update([node, *node.all_input_nodes])
    for node in reversed(nodes):
        if node not in kept and node.op != "placeholder":
            graph.erase_node(node)
    graph.output(end)


@contextmanager
def _mode_of(module: nn.Module, mode: bool) -> Iterator[None]:
    """Set the mode of a module in the context; each of its parts has its own mode again after it."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.train(mode)
        yield
    finally:
        for part, training in modes:
            part.training = training


class _Tracer(fx.Tracer):
    """Traces a module, and keeps what one of its layers returns."""

    def __init__(self, layer: TargetLayer | None = None) -> None:
        functions_kept: Any = (math, torchvision.ops)
        super().__init__(autowrap_modules=functions_kept)
        self.layer = layer
        self.output: Any = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _VISION_OPERATIONS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        if self.layer is not None and self.path_of_module(m) == self.layer.name:
            self.output = output
        return output


class _Run(fx.Interpreter):
    """Runs a graph, and notes where an activation function is applied to a node's output, and what runs in place.

    Attributes:
        activation: The first node that applies an activation function to the output of `layer_node`; None without one.
        in_place: The nodes that change one of their operands.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, layer_node: fx.Node) -> None:
        super().__init__(module, graph=graph)
        self.layer_node = layer_node
        self.layer_output: Any = None
        self.activation: fx.Node | None = None
        self.in_place: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        versions = [(operand, operand._version) for operand in self._operands(n)]
        with _Operands() as activated:
            result = super().run_node(n)
        if any(operand._version != version for operand, version in versions):
            self.in_place.add(n)
        if self.activation is None and any(operand is self.layer_output for operand in activated.operands):
            self.activation = n
        if n is self.layer_node:
            self.layer_output = result
        return result

    def _operands(self, node: fx.Node) -> list[Tensor]:
        values = [self.env[operand] for operand in node.all_input_nodes]
        return [value for value in values if isinstance(value, Tensor)]


class _Operands(TorchFunctionMode):
    """Collects what activation functions are applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[Any] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_activation(func):
            self.operands += args[:1]
        return func(*args, **(kwargs or {}))
