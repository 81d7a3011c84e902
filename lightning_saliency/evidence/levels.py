"""`targets_fall`: whether a node of a loss's graph compares scores with levels of an order, as ordinal losses do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_saliency.evidence.graph import operation

_SAVED = {
    "BinaryCrossEntropyWithLogits": "_raw_saved_target",
    "BinaryCrossEntropy": "_raw_saved_target",
    "Mul": "_raw_saved_other",
}
"""Under which name a node keeps what it compares its input with, or multiplies it by."""


def targets_fall(node: Any) -> bool | None:
    """Return whether the targets `(N, K)` of a node fall from ones to zeros along each row.

    The rank 2 of five is `(1, 1, 0, 0)` as levels: above the first and the second, and no further (Cao 2020, CORAL).
    The targets of classes do not fall: the class 2 of four is `(0, 0, 1, 0)`.

    Args:
        node: A binary cross-entropy, or a product with a constant, of an autograd graph.

    Returns:
        None where the node has no such targets, where they are gone since the backward has run, and where the rows
        have no two ones, so that they may be classes as well.

    Example:
        >>> import torch
        >>> scores = torch.zeros(2, 3, requires_grad=True)
        >>> levels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        >>> targets_fall(torch.nn.functional.binary_cross_entropy_with_logits(scores, levels).grad_fn)
        True
    """
    name = _SAVED.get(operation(node))
    # as it lies in the graph: to unpack it would run the hooks of whoever has packed it
    targets = None if name is None else getattr(getattr(node, name, None), "data", None)
    if not isinstance(targets, Tensor) or targets.dim() != 2 or targets.shape[1] < 2 or targets.requires_grad:
        return None
    rows = targets.detach()
    if not bool(((rows >= 0) & (rows <= 1)).all()) or bool((rows[:, 1:] >= rows[:, :-1]).all()):
        return None
    if bool((rows[:, 1:] > rows[:, :-1]).any()):
        return False
    return True if bool(((rows > 0.5).sum(1) > 1).any()) else None
