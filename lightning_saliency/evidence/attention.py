"""`AttentionReader`: the attention matrices of a model and their gradients, read off one backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

AttentionPart: TypeAlias = Literal["relevance", "weights"]
"""What is kept of an attention: the mean over its heads of ReLU(P ⊙ G), or of P."""

_VALUES_AT_ONCE = 2**20
"""The values of P that are computed together, so few that a CPU's cache holds them; at least a head of all images."""


@dataclass(frozen=True)
class Attention:
    """One attention of a model, from L queries to S keys, reduced over its H heads.

    P = softmax(s Q Kᵀ + bias) are its weights, whose rows sum to 1, and G = ∂score/∂P. At least float32; what was not
    asked for is None.

    Attributes:
        relevance: Ā = mean over the heads of ReLU(P ⊙ G), `(N, L, S)`.
        weights: P̄ = mean over the heads of P, `(N, L, S)`.
        query: For class attention (L = 1), the position among the S tokens of the token that asks; None where all
            tokens ask (L = S), or where the query is no token (attention pooling).
        head_relevance: ReLU(P ⊙ G) of each head, `(N, H, L, S)`.
        head_weights: P of each head, `(N, H, L, S)`.
    """

    relevance: Tensor | None = None
    weights: Tensor | None = None
    query: int | None = None
    head_relevance: Tensor | None = None
    head_weights: Tensor | None = None


class AttentionReader(TorchDispatchMode):
    """Reads the attentions over a model's tokens in a backward that runs inside this context.

    The model is not touched, and the gradients are the same to the bit. Seen is the backward of each softmax over the
    last dimension and of each fused `scaled_dot_product_attention`, the last attention first; it is reduced over the
    heads at once. The backward has to reach them: ask for the gradient of a tensor in front of the first attention.

    Passed over is what is no attention over all tokens: attention within windows, whose first dimension is not N,
    attention over channels, and attention over another number of tokens. A fused attention's own dropout, which
    evaluation has not, is not seen.

    Args:
        num_images: N. The attentions are `(N, H, L, S)` or `(N·H, L, S)`.
        num_tokens: The lengths of the model's token sequences: S is one of them, and L is one of them or less than S.
        wants: What is computed and kept of each attention.
        score_factor: The positive factor of the score in this backward, by which the relevance is divided.
        keeps_heads: Whether the single heads of the last attention are kept, too.

    Example:
        >>> tokens = torch.randn(2, 5, 8, requires_grad=True)
        >>> attended, _ = torch.nn.MultiheadAttention(8, 2, batch_first=True)(tokens, tokens, tokens)
        >>> with AttentionReader(num_images=2, num_tokens={5}) as reader:
        ...     gradient = torch.autograd.grad(attended[:, 0].sum(), tokens)
        >>> [attention.relevance.shape for attention in reader.attentions()]
        [torch.Size([2, 5, 5])]
    """

    supports_higher_order_operators = True  # which are passed on: without this torch refuses them inside a mode

    def __init__(
        self,
        num_images: int,
        num_tokens: Set[int],
        wants: Set[AttentionPart] = frozenset({"relevance", "weights"}),
        *,
        score_factor: float = 1.0,
        keeps_heads: bool = False,
    ) -> None:
        cast(Any, super()).__init__()
        self.num_images = num_images
        self.num_tokens = num_tokens
        self.wants = wants
        self.score_factor = score_factor
        self.keeps_heads = keeps_heads
        self._attentions: list[Attention] = []  # the last one first

    def attentions(self) -> tuple[Attention, ...]:
        """Return what was read, in the order of the forward, each without its `query`, which no backward shows."""
        return tuple(reversed(self._attentions))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = _reading(getattr(func, "overloadpacket", func).__name__)
        if read is not None:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            backward = read({**named, **kwargs}, self.num_images)
            if backward is not None and self._is_over_tokens(backward.shape):
                self._attentions.append(self._reduced(backward))
        return func(*args, **kwargs)

    def _is_over_tokens(self, shape: Sequence[int]) -> bool:
        if len(shape) != 4 or shape[0] != self.num_images:
            return False
        queries, keys = shape[2:]
        return keys in self.num_tokens and (queries in self.num_tokens or queries < keys)

    def _reduced(self, backward: _Softmax | _Fused) -> Attention:
        """Return the means over the heads, of which a few are computed at a time."""
        images, heads, queries, keys = backward.shape
        at_once = max(1, _VALUES_AT_ONCE // (images * queries * keys))
        keeps_heads = self.keeps_heads and not self._attentions
        means: dict[str, Tensor] = {}
        of_heads: dict[str, list[Tensor]] = {part: [] for part in self.wants if keeps_heads}
        for start in range(0, heads, at_once):
            rows = slice(start, start + at_once)
            parts = {"weights": backward.weights(rows)}
            if "relevance" in self.wants:
                parts["relevance"] = (parts["weights"] * backward.gradients(rows)).relu_().div_(self.score_factor)
            for part in self.wants:
                mean = parts[part].sum(1).div_(heads)
                means[part] = means[part].add_(mean) if part in means else mean
                if keeps_heads:
                    of_heads[part].append(parts[part])
        each = {part: torch.cat(tensors, 1) for part, tensors in of_heads.items()}
        return Attention(
            means.get("relevance"),
            means.get("weights"),
            head_relevance=each.get("relevance"),
            head_weights=each.get("weights"),
        )


@dataclass(frozen=True)
class _Softmax:
    """The backward of a softmax: of attention that is written out, by the model or by torch itself."""

    output: Tensor
    output_grads: Tensor

    @classmethod
    def read(cls, arguments: Mapping[str, Any], num_images: int) -> _Softmax | None:
        output, output_grads = arguments["output"], arguments["grad_output"]
        if arguments["dim"] not in (-1, output.dim() - 1):
            return None
        return cls(_by_image(output, num_images), _by_image(output_grads, num_images))

    @property
    def shape(self) -> Sequence[int]:
        return self.output.shape

    def weights(self, heads: slice) -> Tensor:
        """Return P of some heads, in at least float32."""
        return _widen(self.output[:, heads])

    def gradients(self, heads: slice) -> Tensor:
        """Return G of some heads, in at least float32."""
        return _widen(self.output_grads[:, heads])


@dataclass(frozen=True)
class _Fused:
    """The backward of a fused attention O = P V, which has neither P nor G: they are computed of Q, K, V and ∂score/∂O.

    Of grouped-query attention, whose keys and values have fewer heads, each serves several heads of the queries.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output_grads: Tensor
    bias: Tensor | None
    scale: float

    @classmethod
    def read(cls, arguments: Mapping[str, Any], num_images: int) -> _Fused:
        query, key, value = (arguments[name] for name in ("query", "key", "value"))
        shape = (*query.shape[:3], key.shape[2])
        bias, scale = arguments.get("attn_bias", arguments.get("attn_mask")), arguments.get("scale")
        if arguments.get("is_causal"):
            bias = query.new_full(shape[2:], -torch.inf).triu(1)
        return cls(
            _by_image(query, num_images),
            _by_image(_with_heads(key, shape[1]), num_images),
            _by_image(_with_heads(value, shape[1]), num_images),
            _by_image(arguments["grad_out_" if "grad_out_" in arguments else "grad_out"], num_images),
            None if bias is None else _by_image(bias.expand(shape), num_images),
            query.shape[-1] ** -0.5 if scale is None else scale,
        )

    @property
    def shape(self) -> Sequence[int]:
        return (*self.query.shape[:-1], self.key.shape[-2])

    def weights(self, heads: slice) -> Tensor:
        """Return P of some heads, in at least float32; a query that may ask no key has no weights."""
        scores = (_widen(self.query[:, heads]) * self.scale) @ _widen(self.key[:, heads]).mT
        if self.bias is None:
            return scores.softmax(-1)
        bias = self.bias[:, heads]
        return scores.add_(bias).softmax(-1).masked_fill_(bias == -torch.inf, 0.0)

    def gradients(self, heads: slice) -> Tensor:
        """Return G of some heads, in at least float32."""
        return _widen(self.output_grads[:, heads]) @ _widen(self.value[:, heads]).mT


def _reading(operation: str) -> Callable[[Mapping[str, Any], int], _Softmax | _Fused | None] | None:
    """Return what reads an operation's arguments by their names, if it is the backward of an attention."""
    if operation == "_softmax_backward_data":
        return _Softmax.read
    is_fused = operation.startswith("_scaled_dot_product_") and operation.endswith("_backward")
    return _Fused.read if is_fused else None


def _by_image(tensor: Tensor, num_images: int) -> Tensor:
    """Return a tensor `(N·H, …)` or `(1, N·H, …)` as `(N, H, …)`; another as it is."""
    if tensor.dim() == 4 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.dim() == 3 and len(tensor) % num_images == 0:
        tensor = tensor.unflatten(0, (num_images, -1))
    return tensor


def _with_heads(tensor: Tensor, heads: int) -> Tensor:
    """Return keys or values `(N, h, S, d)` with each head as often as makes H heads in all."""
    return tensor[:, :, None].expand(-1, -1, heads // tensor.shape[1], -1, -1).flatten(1, 2)


def _widen(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
