"""Reading an autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor


def ancestors(nodes: Iterable[Any], stop: Callable[[Any], bool] = lambda _: False) -> AbstractSet[Any]:
    """Return the given autograd nodes and all that they depend on, not searching beyond nodes where `stop` holds.

    They are in the order in which they are met.
    """
    waiting = [node for node in nodes if node is not None]
    met = dict.fromkeys(waiting)
    while waiting:
        node = waiting.pop()
        if stop(node):
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in met:
                met[parent] = None
                waiting.append(parent)
    return met.keys()


def dependents(
    sources: Iterable[Any],
    nodes: Collection[Any],
    passes_on: Callable[[Any, int], bool] = lambda node, index: True,
) -> AbstractSet[Any]:
    """Return the sources and those of the nodes whose results depend on one of them.

    Args:
        sources: Nodes.
        nodes: All nodes of the graph.
        passes_on: Whether a node's result depends on its input of this index.
    """
    users: dict[Any, list[Any]] = {}
    for node in nodes:
        for index, (parent, _) in enumerate(node.next_functions):
            if parent is not None and passes_on(node, index):
                users.setdefault(parent, []).append(node)
    waiting = list(sources)
    dependent = dict.fromkeys(waiting)
    while waiting:
        for user in users.get(waiting.pop(), []):
            if user not in dependent:
                dependent[user] = None
                waiting.append(user)
    return dependent.keys()


def is_learned(node: Any) -> bool:
    """Whether a node is a convolution or a linear layer."""
    return any(kind in node.name() for kind in ("Convolution", "Addmm", "MmBackward", "BmmBackward", "LinearBackward"))


def is_made_by(node: Any, tensor: Tensor) -> bool:
    """Whether a node stands for a tensor: the operation that it came from, or the tensor itself if it is a leaf."""
    return node is tensor.grad_fn if tensor.grad_fn is not None else getattr(node, "variable", None) is tensor


def operation(node: Any) -> str:
    """Return the operation of a node, such as `"Relu"` for ReluBackward0."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")
