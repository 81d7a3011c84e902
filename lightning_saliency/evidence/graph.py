"""Reading an autograd graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def autograd_nodes(root: Any) -> list[Any]:
    """Return all nodes of an autograd graph, from a root (a tensor's `grad_fn`) to the leaves."""
    nodes, waiting = {root: None}, [root]  # in the order in which they are met
    while waiting:
        for parent, _ in waiting.pop().next_functions:
            if parent is not None and parent not in nodes:
                nodes[parent] = None
                waiting.append(parent)
    return list(nodes)


def is_made_by(node: Any, tensor: Tensor) -> bool:
    """Whether a node stands for a tensor: the operation that it came from, or the tensor itself if it is a leaf."""
    return node is tensor.grad_fn if tensor.grad_fn is not None else getattr(node, "variable", None) is tensor


def operation(node: Any) -> str:
    """Return the operation of a node, such as `"Relu"` for ReluBackward0."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")
