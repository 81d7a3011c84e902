"""Layer-wise relevance propagation: other rules than the gradient's, for one backward through an autograd graph.

Its relevance is a tensor times what this backward returns for it, R = x ⊙ g̃. Each rule conserves it, Σ x ⊙ g̃ before an
operation being Σ x ⊙ g̃ behind it, but for what biases add: without biases, the relevances sum to the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import Tensor

from lightning_saliency.evidence.graph import ancestors, dependents, is_made_by, operation
from lightning_saliency.evidence.lrp_layers import LayerRules

GAMMA = 0.25
"""The γ of convolutions, the value of Montavon et al. 2019 ("Layer-Wise Relevance Propagation: An Overview")."""

Factors: TypeAlias = Mapping[int, float]
"""What a node's gradients are multiplied by, by the index of its input; an input with 0 is held constant."""

Edge: TypeAlias = tuple[Any, int]
"""A tensor of the graph: the node that made it, and which of the node's results it is."""

_CONSTANT = {0: 0.0}
_FACTORS: dict[str, Factors] = {
    **dict.fromkeys(["Softmax", "SafeSoftmax", "Sigmoid", "Hardsigmoid", "Erf"], _CONSTANT),
    **dict.fromkeys(["Rsqrt", "Reciprocal", "Sign"], _CONSTANT),
    "Div": {1: 0.0},
    "Sqrt": {0: 2.0},
}
"""The factors of operations whose results weigh or scale other tensors, and of the square root as a power."""

_PRODUCTS = {
    **dict.fromkeys(["Mul", "Mm", "Bmm", "Mv", "Dot", "Linear", "Convolution"], (0, 1)),
    **dict.fromkeys(["Addmm", "Addmv", "Addbmm", "Baddbmm", "Addcmul"], (1, 2)),
}
"""The operations that are linear in each of two inputs, and which inputs these are."""

_SCALINGS = frozenset({"Mul", "Div", "ToCopy"})
"""Operations that, with one input that depends on the image, multiply it or change its precision."""


@contextmanager
def lrp_rules(scores: Tensor, source: Tensor, *, gamma: float = GAMMA) -> Iterator[None]:
    """Make a backward from the scores follow the rules of layer-wise relevance propagation instead of the gradient's.

    To be called around one `torch.autograd.grad` of the scores, which returns g̃, or None where it is 0; other backwards
    through the same graph, before and after it, are not changed. The model and the forward are not touched: what an
    operation is, is read from the graph, and from the calls of the backward.

    The rules are those of CP-LRP (Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative
    Propagation"), and for what it does not name those of the papers given here. With g behind an operation:

    - Attention is constant: nothing is passed on through a softmax, fused attention included; likewise a sigmoid that
      gates a tensor (Arras et al. 2017, "Explaining Recurrent Neural Network Predictions in Sentiment Analysis"), and
      each factor that is computed from the tensor it multiplies: squeeze-and-excite, GELU and others written out. A
      softmax or sigmoid at the end of the model has the gradient's rule.
    - Of any other product of tensors that both depend on the image each gets half: gated MLPs, linear attention
      (Achtibat et al. 2024, "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers").
    - Layer, RMS, group and instance norms, fused or written out, and all that is divided: the scale is constant. A
      batch norm in eval is linear.
    - An activation f with f(0) = 0: g f(x)/x, and g f′(0) at 0. A power xᵖ likewise: g xᵖ⁻¹.
    - Convolutions, by the γ-rule: see `gamma`.
    - ReLU, max pooling, linear layers, and what is not recognized: as the gradient.

    Args:
        scores: The scores, with their graph.
        source: The tensor whose g̃ is asked for: the input, or one that was computed from it.
        gamma: Of what is summed in a convolution, z = Σ_i w_i x_i, those with the sign of z count (1 + γ)-fold. With 0,
            the relevance of a ReLU network is its input × gradient, which is noisy.

    Example:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> x = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> score = F.gelu(x).sum()
        >>> with lrp_rules(score, x):
        ...     (g,) = torch.autograd.grad(score, x)
        >>> bool(torch.isclose((x * g).sum(), score))
        True
    """
    with ExitStack() as stack:
        for node, factors in _input_factors(scores, source).items():
            stack.callback(node.register_hook(_multiplier(factors)).remove)
        stack.enter_context(LayerRules(gamma))
        yield


def _multiplier(factors: Factors) -> Callable[[tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook of a node that multiplies its gradients by factors."""

    def multiply(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # None instead of zeros: the branch is not computed, and an infinity in it does no harm
        return tuple(
            None if grad is None or factors.get(index) == 0 else grad * factors[index] if index in factors else grad
            for index, grad in enumerate(grad_inputs)
        )

    return multiply


def _input_factors(scores: Tensor, source: Tensor) -> dict[Any, Factors]:
    """Return by node the factors of its gradients, for the nodes that have other factors than 1."""
    nodes = ancestors([scores.grad_fn])
    sources = [node for node in nodes if is_made_by(node, source)]
    dependent = dependents(sources, nodes)
    end = set(_end_of_model(scores.grad_fn, dependent))
    factors = {node: own for node in nodes if (own := _own_factors(node)) and not (own == _CONSTANT and node in end)}
    dependent = dependents(sources, nodes, lambda node, index: factors.get(node, {}).get(index) != 0)
    products = {node: own for node in nodes if (own := _product_factors(node, dependent, source))}
    return factors | products


def _inputs(node: Any, dependent: AbstractSet[Any]) -> list[Edge]:
    """Return the inputs of a node that depend on the source."""
    return [edge for edge in node.next_functions if edge[0] in dependent]


def _end_of_model(root: Any, dependent: AbstractSet[Any]) -> Iterator[Any]:
    """Yield the nodes from the scores down to where two branches join."""
    while len(inputs := _inputs(root, dependent)) == 1:
        yield root
        root = inputs[0][0]


def _own_factors(node: Any) -> Factors:
    """Return the factors that follow from a node's operation alone."""
    kind = operation(node)
    if kind.startswith("ScaledDotProduct"):  # of the queries, keys, values and bias, only the values
        return {0: 0.0, 1: 0.0, 3: 0.0}
    if node.name() == "PowBackward0":  # by a number; a tensor would be a parameter
        exponent = float(node._saved_exponent)
        return {0: 1 / exponent if exponent > 0 else 0.0}
    return _FACTORS.get(kind, {})


def _product_factors(node: Any, dependent: AbstractSet[Any], source: Tensor) -> Factors:
    """Return the factors of a product of two tensors that both depend on the source."""
    indices = _PRODUCTS.get(operation(node), ())
    edges = [edge for index, edge in enumerate(node.next_functions) if index in indices and edge[0] in dependent]
    if len(edges) < 2:
        return {}
    if operation(node) == "Mul":
        for index, signal, gate in [(1, *edges), (0, *reversed(edges))]:
            if _is_computed_from(gate, _unscaled(signal, dependent), dependent, source):
                return {index: 0.0}
    return dict.fromkeys(indices, 0.5)


def _unscaled(edge: Edge, dependent: AbstractSet[Any]) -> Edge:
    """Return the tensor that was multiplied by what does not depend on the source to give this one."""
    while operation(edge[0]) in _SCALINGS and len(inputs := _inputs(edge[0], dependent)) == 1:
        edge = inputs[0]
    return edge


def _is_computed_from(result: Edge, origin: Edge, dependent: AbstractSet[Any], source: Tensor) -> bool:
    """Whether all that a tensor has from the source comes through another one."""
    seen, waiting = {origin, result}, [result] if result != origin else []
    while waiting:
        node, _ = waiting.pop()
        if is_made_by(node, source):
            return False
        new = [edge for edge in _inputs(node, dependent) if edge not in seen]
        seen.update(new)
        waiting.extend(new)
    return True
