"""`Trace`: the modules that one forward calls, with the autograd graph of their outputs, and its attentions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from lightning_saliency.data import Call
from lightning_saliency.data.trees import Path, leaves
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.graph import ancestors
from lightning_saliency.evidence.isolation import graph_everywhere
from lightning_saliency.evidence.task import Task

_ACTIVATIONS = frozenset(
    name + suffix
    for name in (
        "relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardtanh",
    )
    for suffix in ("", "_")
)  # fmt: skip
"""Names of activation functions. Not sigmoid, tanh, softplus: in `x * sigmoid(x)` they are part of one."""

Site: TypeAlias = tuple[str, int, Path]
"""Where a tensor of a forward comes from: the module's name, the number of its call, the path in what it returned."""


@dataclass(frozen=True)
class ModuleCall:
    """A call of a module that has begun.

    Attributes:
        name: The module's dotted name.
        count: How often it had been called before.
        inputs: The autograd nodes of the tensors that it was called with.
    """

    name: str
    count: int
    inputs: frozenset[Any]


@dataclass
class LayerCall:
    """A tensor that a module has returned in a traced forward.

    Attributes:
        call: The call of the module.
        element: The keys that lead to the tensor in what it returned.
        module: The module.
        output: The tensor.
        edge: Where it stands in the autograd graph, as it was returned; None where it has no graph.
        activated: Whether an activation function was applied to it outside any module.
    """

    call: ModuleCall
    element: Path
    module: nn.Module
    output: Tensor
    edge: GradientEdge | None
    activated: bool = False

    @property
    def node(self) -> Any:
        """The autograd node of the tensor; None where it has no graph."""
        return None if self.edge is None else self.edge.node

    @property
    def name(self) -> str:
        """The module's dotted name."""
        return self.call.name

    @property
    def site(self) -> Site:
        """Where it comes from, the same in every forward."""
        return (self.call.name, self.call.count, self.element)


@dataclass(frozen=True)
class AttentionCall:
    """A softmax over more than classes in a traced forward: an attention, written out or as one function.

    Attributes:
        scope: The innermost module with parameters in which it ran.
        node: The autograd node of its result.
        query: The autograd node of its queries; None where they have no graph, or where it is written out.
        scores: The autograd node of its scores, where it is written out.
        size: (L, S): its queries and keys; None where its softmax is over no last axis.
    """

    scope: ModuleCall
    node: Any
    query: Any
    scores: Any
    size: tuple[int, int] | None


def is_activation(function: Callable[..., Any]) -> bool:
    """Whether a torch function is an activation function."""
    return getattr(function, "__name__", "").removeprefix("_") in _ACTIVATIONS  # `F.threshold` is `_threshold`


@dataclass
class Trace:
    """What one forward with a graph shows.

    Attributes:
        logits: `(1, K)`, with their graph; of embeddings that end in a normalization what goes into it, which is what
            their similarity to themselves is read from.
        image: The autograd node of the image.
        image_size: (H, W) of the image, or the size of a volume or signal.
        task: What the logits mean.
        calls: The tensors that modules have returned, in the order in which the calls ended.
        attentions: The attentions that the logits depend on, in their order.
        counts: How often each module was called.
    """

    logits: Tensor
    image: Any
    image_size: tuple[int, ...]
    task: Task
    calls: list[LayerCall] = field(default_factory=list)
    attentions: list[AttentionCall] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, forward: Forward, call: Call, images: Tensor) -> Trace:
        """Trace a forward of one image; to be called inside `Forward.undisturbed`."""
        recorder = _Recorder()
        with recorder.listening(forward.model), graph_everywhere(forward.model), recorder:
            image = images.detach().clone().requires_grad_().clone()
            reading = forward.read(call, image)
        logits = reading.logits if reading.unnormalized is None else reading.unnormalized
        used = ancestors([logits.grad_fn])
        attentions = [attention for attention in recorder.attentions if attention.node in used]
        size = tuple(image.shape[2:])
        return cls(logits, image.grad_fn, size, reading.task, recorder.calls, attentions, recorder.counts)

    def same_map(self, node: Any) -> list[LayerCall]:
        """Return the calls that have returned this very tensor, the innermost first."""
        return [call for call in self.calls if call.node is node]

    def nodes(self) -> list[Any]:
        """Return the autograd nodes of the returned tensors, each once, in the order in which these were computed.

        A module may return what was computed before it, or long ago.
        """
        nodes = dict.fromkeys(call.node for call in self.calls if call.node is not None)
        return sorted(nodes, key=lambda node: node._sequence_nr())


class _Recorder(TorchFunctionMode):
    """Records the calls of all modules, the attentions, and which outputs an activation function was applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []
        self.attentions: list[AttentionCall] = []
        self.counts: Counter[str] = Counter()
        self._open: list[tuple[ModuleCall, nn.Module]] = []

    def listening(self, model: nn.Module) -> AbstractContextManager[None]:
        return hooked(model, self._before, self._after)

    def _before(self, name: str, module: nn.Module, inputs: Iterable[Tensor]) -> None:
        nodes = frozenset(tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None)
        self._open.append((ModuleCall(name, self.counts[name], nodes), module))
        self.counts[name] += 1

    def _after(self, name: str, module: nn.Module, outputs: Mapping[Path, Tensor]) -> None:
        call, _ = self._open.pop()
        if name:
            for path, output in outputs.items():
                edge = get_gradient_edge(output) if output.grad_fn is not None else None
                self.calls.append(LayerCall(call, path, module, output, edge))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_activation(func) and args:
            for call in self.calls:
                call.activated |= call.output is args[0]
        result = func(*args, **(kwargs or {}))
        seen = _attention(getattr(func, "__name__", ""), args, kwargs or {}, result)
        if seen is not None and self._open:
            scopes = [call for call, module in self._open if next(module.parameters(), None) is not None]
            self.attentions.append(AttentionCall((scopes or [self._open[0][0]])[-1], *seen))
        return result


def _attention(
    function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> tuple[Any, Any, Any, tuple[int, int] | None] | None:
    """Return the nodes of an attention's result, queries and scores, and its size, if a torch function is one."""
    if function == "scaled_dot_product_attention":
        query, key = _argument(args, kwargs, 0, "query"), _argument(args, kwargs, 1, "key")
        return result.grad_fn, query.grad_fn, None, (query.shape[-2], key.shape[-2])
    if function == "multi_head_attention_forward":  # (L, N, D), or (L, D)
        query, key = _argument(args, kwargs, 0, "query"), _argument(args, kwargs, 1, "key")
        return result[0].grad_fn, query.grad_fn, None, (query.shape[0], key.shape[0])
    if function != "softmax" or not isinstance(result, Tensor) or result.dim() < 3:
        return None
    scores, axis = _argument(args, kwargs, 0, "input"), _argument(args, kwargs, 1, "dim")
    if axis is None or result.shape[axis] < 2:
        return None
    is_last = axis in (-1, result.dim() - 1)
    return result.grad_fn, None, scores.grad_fn, (result.shape[-2], result.shape[-1]) if is_last else None


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


@contextmanager
def hooked(
    model: nn.Module,
    before: Callable[[str, nn.Module, list[Tensor]], None],
    after: Callable[[str, nn.Module, dict[Path, Tensor]], None],
) -> Iterator[None]:
    """Call a function before and after each module's forward: with its name, itself, and its tensors.

    Args:
        model: A shadow, whose modules are run in this context.
        before: Called with the tensors that a module is called with.
        after: Called with the tensors that it has returned, by their paths.
    """

    def hook_before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        before(name, module, list(_tensors((args, kwargs)).values()))

    def hook_after(name: str, module: nn.Module, args: Any, output: Any) -> None:
        after(name, module, _tensors(output))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if not isinstance(module, ScriptModule):  # which has no hooks
                hook = module.register_forward_pre_hook(partial(hook_before, name), prepend=True, with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(partial(hook_after, name)).remove)
        yield


def _tensors(tree: Any) -> dict[Path, Tensor]:
    return {path: value for path, value in leaves(tree) if isinstance(value, Tensor)}
