"""`read_loss`: what a training's loss does with the outputs of the last layers, read from its autograd graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from lightning_saliency.evidence.graph import ancestors, is_learned, operation
from lightning_saliency.evidence.levels import targets_fall

LossUse: TypeAlias = Literal["softmax", "sigmoid", "distance", "similarity", "unknown"]
"""What a loss does with an output, the strongest first: one that it uses in several ways has the first of them."""

Edges: TypeAlias = Mapping[Any, Sequence[tuple[Any, int]]]
"""The inputs of each node of a graph: the nodes that they are results of, None for constants, and of which index."""

_USES: tuple[LossUse, ...] = ("softmax", "sigmoid", "distance", "similarity", "unknown")

_MATRIX_PRODUCTS = {
    "Mm": (0, 1), "Bmm": (0, 1), "Baddbmm": (1, 2), "Cdist": (0, 1), "EuclideanDist": (0, 1),
}  # fmt: skip
"""The indices of the two factors of products, which are layers only where one of these is made of parameters."""

_MORE_LAYERS = ("Rnn", "Lstm", "Gru", "Embedding", "Trilinear")
"""Parts of the names of layers that are no single convolution or matrix product."""

_MOST_NODES = 10_000
"""The most nodes that are read: torch frees a chain of nodes that Python has seen by recursion, and from about 50 000
on that is a stack overflow."""

_VIEWS = frozenset({"View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Alias"})
_NORMS = frozenset({"Norm", "LinalgVectorNorm"})
_WEIGHTINGS = frozenset({"Softmax", "Sigmoid"})

_ROLES = {
    **dict.fromkeys(("LogSoftmax", "Softmax", "Logsumexp", "NllLoss", "NllLoss2D"), "softmax"),
    **dict.fromkeys(
        ("BinaryCrossEntropyWithLogits", "BinaryCrossEntropy", "Sigmoid", "LogSigmoid", "SoftMarginLoss"), "sigmoid"
    ),
    **dict.fromkeys(("Pow", "Abs", "Cosh", "Std", "Var", "StdMean", "VarMean"), "measure"),
    **dict.fromkeys(_NORMS, "norm"),
    **dict.fromkeys(("Exp", "Expm1", "Log", "Log1P", "Log2", "Log10", "Sqrt", "Rsqrt", "Reciprocal"), "nonlinear"),
    "Softplus": "softplus",
    "Sum": "sum",
    "Pdist": "match",
}
"""What an operation does with its only input, by its name; see `_BEFORE`."""


@dataclass(frozen=True)
class LossTerm:
    """What a loss does with the output of one of the last layers.

    Attributes:
        shape: The shape of the output as the layer returned it, its batch axis first, in training.
        use: `softmax`: the scores of classes of which one is true. `sigmoid`: the scores of classes each of which may
            be true. `distance`: values that are compared with others. `similarity`: an embedding, which is compared
            with those of other samples. Else `unknown`.
        reshaped: The other shapes that the output has on its way to that use, of no fewer numbers: what a model returns
            may be reshaped, shuffled, repeated or resized behind its last layer.
        is_ordered: Of `sigmoid` whether the targets fall from ones to zeros along each row, as the levels of an order
            do; None where they are not known, or may as well be of single classes.
    """

    shape: tuple[int, ...]
    use: LossUse
    reshaped: tuple[tuple[int, ...], ...] = field(default=(), repr=False, compare=False)
    is_ordered: bool | None = field(default=None, repr=False, compare=False)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """All shapes in which the loss reads the output."""
        return (self.shape, *self.reshaped)

    def to_plain(self) -> list[Any]:
        """Return plain values for a checkpoint, the arguments of `from_plain`."""
        return [list(self.shape), self.use, list(map(list, self.reshaped)), self.is_ordered]

    @classmethod
    def from_plain(
        cls, shape: Sequence[int], use: LossUse, reshaped: Sequence[Sequence[int]], is_ordered: bool | None
    ) -> LossTerm:
        """Return the term of which `to_plain` has returned these."""
        return cls(tuple(shape), use, tuple(map(tuple, reshaped)), is_ordered)


class _State(NamedTuple):
    """What becomes of a tensor on a way to the loss.

    Attributes:
        use: A `LossUse`; or `plain`: nothing that is not linear; `measure`: its square or size; `product`: its product
            with another one, summed; `weight`: its product with another one, each element by itself. A square or
            product is an embedding's, unless it proves to be of a difference from a constant.
        is_summed: Whether it is summed over an axis before that.
        is_ordered: Whether it is compared with levels; see `LossTerm`.
    """

    use: str
    is_summed: bool = False
    is_ordered: bool | None = None


_Ways: TypeAlias = dict[_State, frozenset[tuple[int, ...]]]
"""What becomes of a tensor on its ways to the loss, and the shapes that it has until then."""


def read_loss(loss: Tensor) -> tuple[LossTerm, ...]:
    """Return what a loss does with the outputs of the last layers, from its graph alone: nothing is computed.

    The last layers are the convolutions, linear and recurrent layers on whose results the loss depends by functions
    without weights. Normalizations, activations, pooling, reshaping and the like between a layer and the loss do not
    matter. A product or distance of two tensors that both come from layers is no layer but a comparison of embeddings,
    also where a softmax follows (contrastive losses, prototypes); one with a parameter is a layer (a cosine
    classifier). So are parts whose inside the graph does not show, such as compiled or checkpointed ones.

    What a graph does not show: over which axis a softmax goes, and where a target comes from. So self-distillation
    (DINO: the cross-entropy with the softmax of another network's output) is `softmax`, as with soft labels; and a
    sigmoid whose result is compared with values (an image in [0, 1], say) is `sigmoid`.

    Args:
        loss: The loss, before or after its backward, whatever its value.

    Returns:
        The different terms, the strongest uses first; none for a loss without a graph.

    Example:
        >>> import torch
        >>> features = nn.Linear(8, 4)(torch.randn(16, 8))
        >>> read_loss(nn.CrossEntropyLoss()(nn.Linear(4, 3)(features), torch.zeros(16, dtype=torch.long)))
        (LossTerm(shape=(16, 3), use='softmax'),)
        >>> read_loss(nn.MSELoss()(features, torch.zeros(16, 4)))
        (LossTerm(shape=(16, 4), use='distance'),)
    """
    if loss.grad_fn is None:
        return ()
    edges = _edges(loss.grad_fn)
    order = _in_order(loss.grad_fn, edges)
    terms: dict[LossTerm, LossTerm] = {}
    for term in _terms(order, edges, _origins(order, edges), loss.output_nr):
        terms[term] = _merged(terms.get(term, term), term)
    return tuple(sorted(terms.values(), key=lambda term: _USES.index(term.use)))


def trained_parameters(loss: Tensor) -> list[Tensor] | None:
    """Return the parameters on which a loss depends; None where it has no graph, or one too large to be read.

    Example:
        >>> import torch
        >>> body, head = nn.Linear(4, 3), nn.Linear(3, 2)
        >>> loss = head(body(torch.ones(1, 4)).detach()).sum()
        >>> [tuple(parameter.shape) for parameter in trained_parameters(loss)]
        [(2,), (2, 3)]
    """
    nodes: set[Any] = set()

    def stop(node: Any) -> bool:
        nodes.add(node)
        return len(nodes) >= _MOST_NODES

    ancestors([loss.grad_fn], stop)
    if loss.grad_fn is None or len(nodes) >= _MOST_NODES:
        return None
    leaves = [node.variable for node in nodes if operation(node) == "torch::autograd::AccumulateGrad"]
    return sorted((leaf for leaf in leaves if isinstance(leaf, nn.Parameter)), key=lambda leaf: tuple(leaf.shape))


def _edges(root: Any) -> Edges:
    """Return the inputs of the nodes from the loss to the first layers, which themselves get none."""
    edges: dict[Any, Sequence[tuple[Any, int]]] = {}

    def stop(node: Any) -> bool:
        edges[node] = () if _hides_inputs(node) or len(edges) >= _MOST_NODES else node.next_functions
        return not edges[node]

    ancestors([root], stop)
    return edges


def _in_order(root: Any, edges: Edges) -> list[Any]:
    """Return the nodes of a graph, each before those that it depends on."""
    users = Counter(parent for inputs in edges.values() for parent, _ in inputs if parent is not None)
    ready, order = [root], []
    while ready:
        node = ready.pop()
        order.append(node)
        for parent, _ in edges[node]:
            if parent is not None:
                users[parent] -= 1
                ready += [] if users[parent] else [parent]
    return order


def _origins(order: Sequence[Any], edges: Edges) -> dict[Any, str]:
    """Return what each node's result is made of.

    That is `parameter`: nothing but parameters; `norm`: the norm of a tensor; `weights`: a softmax or sigmoid, by which
    others are weighted; else `data`.
    """
    origins: dict[Any, str] = {}
    for node in reversed(order):
        origins[node] = _origin(node, [origins[parent] if parent is not None else None for parent, _ in edges[node]])
    return origins


def _origin(node: Any, inputs: Sequence[str | None]) -> str:
    kind = operation(node)
    if kind == "torch::autograd::AccumulateGrad":
        return "parameter" if isinstance(node.variable, nn.Parameter) else "data"
    if kind in _MATRIX_PRODUCTS:
        factors = {inputs[index] for index in _MATRIX_PRODUCTS[kind]}
        return "parameter" if factors == {"parameter"} else "data"
    known = [origin for origin in inputs if origin is not None]
    if not known:
        return "data"
    if set(known) == {"parameter"}:
        return "parameter"
    if kind in _NORMS | _WEIGHTINGS:
        return "norm" if kind in _NORMS else "weights"
    return known[0] if len(known) == 1 else "data"


def _terms(order: Sequence[Any], edges: Edges, origins: Mapping[Any, str], result: int) -> Iterator[LossTerm]:
    """Yield the terms, walking from the loss, the first node's result of this index, to the first layers."""
    states: dict[Any, dict[int, _Ways]] = {order[0]: {result: {_State("plain"): frozenset()}}}
    readers: dict[Any, Any] = {}
    for node in order:
        reached = states.pop(node, {})
        if not reached or origins[node] == "parameter":
            continue
        inputs = [None if parent is None else origins[parent] for parent, _ in edges[node]]
        if _is_last_layer(node, inputs):
            for index, ways in reached.items():
                yield _term(_layer_shape(node, index, readers), ways)
            continue
        falls = targets_fall(node)
        for index, (parent, result) in enumerate(edges[node]):
            if parent is not None:
                change = _BEFORE[_role(node, index, edges[node], inputs)]
                before = states.setdefault(parent, {}).setdefault(result, {})
                for state, shapes in (way for ways in reached.values() for way in ways.items()):
                    changed = change(state)
                    changed = changed if falls is None else changed._replace(is_ordered=falls)
                    kept = shapes if changed.use == state.use else frozenset()
                    before[changed] = before.get(changed, frozenset()) | kept | {_shape(parent, result)}
                readers.setdefault(parent, node)


def _is_last_layer(node: Any, inputs: Sequence[str | None]) -> bool:
    kind = operation(node)
    if kind in _MATRIX_PRODUCTS:
        return "parameter" in {inputs[index] for index in _MATRIX_PRODUCTS[kind]}
    return _hides_inputs(node) and not kind.endswith("Backward")  # not a gradient, as in a gradient penalty


def _role(node: Any, index: int, edges: Sequence[tuple[Any, int]], inputs: Sequence[str | None]) -> str:
    """Return what a node does with its input of this index, a key of `_BEFORE`."""
    kind = operation(node)
    pair = [inputs[factor] for factor in _MATRIX_PRODUCTS.get(kind, (0, 1)) if factor < len(inputs)]
    is_pair = len(pair) == 2 and None not in pair
    if (kind in _MATRIX_PRODUCTS or kind == "Mul") and sorted(map(str, pair)) == ["data", "weights"]:
        return "weight" if inputs[index] == "weights" else "pass"
    if kind in _MATRIX_PRODUCTS:
        return "match"
    if kind in ("Sub", "Rsub"):
        return "pair difference" if is_pair else "difference"
    if kind in ("MseLoss", "SmoothL1Loss", "HuberLoss", "Dist"):
        return "match" if is_pair else "comparison"
    if kind in ("Mul", "Dot", "Mv") and is_pair:
        if edges[0] == edges[1]:
            return "measure"
        is_product = "weights" not in pair and "parameter" not in pair
        return ("product" if kind == "Mul" else "match") if is_product else "pass"
    if kind == "Div" and is_pair:
        return "nonlinear" if index else "normalization" if inputs[1] == "norm" else "pass"
    return _ROLES.get(kind, "pass")


def _becomes(use: str) -> Callable[[_State], _State]:
    # what a sigmoid's logarithm is multiplied by are its targets
    return lambda state: _State("unknown" if state.use == "weight" else use, is_ordered=state.is_ordered)


def _turns(uses: Mapping[str, str]) -> Callable[[_State], _State]:
    return lambda state: _State(uses[state.use]) if state.use in uses else state


def _measured(state: _State) -> _State:
    """A softmax over squares is a choice among other samples or prototypes; of distances some are compared again."""
    if state.use in ("softmax", "sigmoid"):
        return _State("similarity")
    is_open = state.use in ("plain", "unknown", "product") or (state.use == "distance" and state.is_summed)
    return _State("measure") if is_open else state


_BEFORE: dict[str, Callable[[_State], _State]] = {
    "pass": lambda state: state,
    "softmax": _becomes("softmax"),
    "sigmoid": _becomes("sigmoid"),
    # the loss log(1 + exp(x)) of a score; or, where more follows, what makes a variance positive
    "softplus": _turns({"plain": "sigmoid", "measure": "unknown", "product": "unknown"}),
    "nonlinear": _turns(dict.fromkeys(("plain", "measure", "product"), "unknown")),
    "sum": lambda state: state._replace(is_summed=True),
    "measure": _measured,
    "norm": lambda state: _measured(state._replace(is_summed=True)),
    "weight": lambda state: _State("weight"),
    "product": lambda state: _State("product") if state.is_summed and state.use != "similarity" else state,
    "match": lambda state: _State("similarity"),
    "difference": _turns({"measure": "distance"}),
    "pair difference": _turns({"measure": "similarity"}),
    "comparison": _turns(
        dict.fromkeys(("plain", "unknown", "measure", "product"), "distance")
        | dict.fromkeys(("softmax", "sigmoid"), "similarity")
    ),
    # a vector of length one is an embedding, unless it holds the scores of classes
    "normalization": _turns(dict.fromkeys(("plain", "unknown", "distance", "measure", "product"), "similarity")),
}
"""What becomes of an operation's input, given what becomes of its result, by what the operation does with it."""


def _term(shape: tuple[int, ...], ways: _Ways) -> LossTerm:
    """Return the term of a layer's result of this shape, from its ways to the loss: the strongest of their uses."""
    meaning = {"plain": "unknown", "weight": "unknown", "measure": "similarity", "product": "similarity"}
    uses = {meaning.get(state.use, state.use) for state in ways}
    use = next(use for use in _USES if use in uses)
    strongest = {state: shapes for state, shapes in ways.items() if meaning.get(state.use, state.use) == use}
    reshaped = {other for shapes in strongest.values() for other in shapes if math.prod(other) >= math.prod(shape)}
    terms = [LossTerm(shape, use, tuple(sorted(reshaped - {shape})), state.is_ordered) for state in strongest]
    return reduce(_merged, terms)


def _merged(term: LossTerm, other: LossTerm) -> LossTerm:
    """Return what two terms of one shape and use say together."""
    known = {term.is_ordered, other.is_ordered} - {None}
    is_ordered = any(known) if known else None
    return replace(term, reshaped=tuple(sorted({*term.reshaped, *other.reshaped})), is_ordered=is_ordered)


def _hides_inputs(node: Any) -> bool:
    """Whether a node is a layer, of whatever factors; or does not show its inside, unless that is a part of a loss."""
    if operation(node) in _MATRIX_PRODUCTS:
        return False
    name = node.name()
    if is_learned(node) or any(kind in name for kind in _MORE_LAYERS):
        return True
    # a function of Python's, or of an extension's
    is_foreign = isinstance(node, BackwardCFunction) or "CppNode" in name
    is_foreign = is_foreign or ("::" in name and not name.startswith("torch::autograd::"))
    return is_foreign and (_shape(node, 0) != () or _is_whole_network(node))


def _is_whole_network(node: Any) -> bool:
    """Whether a node reads parameters and no other node's result, as that of a compiled training step does."""
    inputs = [parent for parent, _ in node.next_functions if parent is not None]
    return any(True for parent in inputs if hasattr(parent, "variable")) and not any(
        parent.next_functions for parent in inputs
    )


def _shape(node: Any, result: int) -> tuple[int, ...]:
    return tuple(node._input_metadata[result].shape)


def _layer_shape(node: Any, result: int, readers: Mapping[Any, Any]) -> tuple[int, ...]:
    """Return the shape of a layer's result; of a matrix product that of the tensor that the layer makes of it.

    A linear layer of more than two axes is a product of matrices whose rows are all axes but the last; a product in
    Einstein notation one of batches of matrices, whose axes are put in order afterwards.
    """
    shape, view = _shape(node, result), readers.get(node)
    if operation(node) in ("Addmm", "Mm"):
        is_unfolded = view is not None and operation(view) in ("View", "UnsafeView") and len(_shape(view, 0)) > 2
        return _shape(view, 0) if is_unfolded and _shape(view, 0)[-1] == shape[-1] else shape
    while operation(node) in _MATRIX_PRODUCTS and view is not None and operation(view) in _VIEWS:
        shape, view = _shape(view, 0), readers.get(view)
    return shape
