"""Attention methods: what the score reads of the patches, followed down through the attentions of a transformer.

Symbols: b an attention, from the first to the last; P_b its weights, `(H, L, S)` of H heads; G_b = ∂score/∂P_b; Ā_b the
    mean over the heads of ReLU(P_b ⊙ G_b), P̄_b that of P_b. r is a row vector over the tokens; r₀ its start, which says
    how much the score reads each token of the last sequence: of a class token it is one-hot, of an average even.

Both methods go from the last attention to the first, as a row that is multiplied by matrices: no L×L product is needed.
In class attention only one token c asks, and row c of the matrix stands alone: for the other tokens nothing happens.
In attention pooling the query is no token: r starts as the row of that query, or as the mean of the rows of several.
Where the sequence has other lengths between some attentions, it lacks tokens on the outside: on the way down these drop
out where they were added, and are there with 0 where they had been left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency._checks import check_count, optional
from lightning_saliency.attribution.cam_family import required
from lightning_saliency.attribution.method import Method
from lightning_saliency.evidence import AttentionPart, Evidence, Need, TokenGrid


def attention_relevance(evidence: Evidence, *, head: int | None = None) -> Tensor:
    """Attention relevance (Chefer et al. 2021, "Generic Attention-model Explainability", ICCV).

    r ← r₀; from the last attention to the first r ← r + r Ā_b; the map is r − r₀ on the patches. For a class token this
    equals the paper's row R[class, patches] of R ← R + Ā_b R. Without the subtraction an average over the tokens would
    show mostly r₀ itself, which is the same everywhere. Of attention pooling nothing is subtracted: there r₀ would be
    one-hot on the query, which is no token, so that all of r has come through an attention.

    Noted as `prefix_relevance` is the share of r − r₀ on tokens that are no patches.

    Args:
        evidence: The evidence of the shared pass.
        head: One head of the last attention alone, in place of the mean over its heads; the other attentions keep
            their means. The mean of the maps of all heads is the map without this option.

    Raises:
        ValueError: The model has no attention over its tokens, or the last one has no such head.

    Example:
        >>> from lightning_saliency.evidence import Attention, TokenGrid
        >>> relevance = torch.tensor([[[0.0, 0.4, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])  # of the class token
        >>> none = torch.zeros(1)
        >>> evidence = Evidence(
        ...     none,
        ...     none,
        ...     none,
        ...     attentions=(Attention(relevance),),
        ...     token_relevance=torch.tensor([[1.0, 0.0, 0.0]]),
        ...     tokens=TokenGrid(prefix=1, suffix=0, grid=(1, 2)),
        ... )
        >>> attention_relevance(evidence)
        tensor([[[[0.4000, 0.1000]]]])
    """
    gained, tokens = _relevance(evidence, head)
    return _as_map(gained, tokens)


def attention_rollout(evidence: Evidence, *, head: int | None = None) -> Tensor:
    """Attention rollout, which sees no class (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers").

    r ← r₀; from the last attention to the first r ← r (P̄_b + I) / 2; the map is r on the patches. The sum of r stays 1.
    Neither gradients nor values are in it: it is the same for every class, and a token that much attention goes to
    without effect, an attention sink, is bright.

    Args:
        evidence: The evidence of the shared pass.
        head: See `attention_relevance`.

    Raises:
        ValueError: See `attention_relevance`.

    Example:
        >>> from lightning_saliency.evidence import Attention, TokenGrid
        >>> weights = torch.full((1, 3, 3), 1 / 3)
        >>> none = torch.zeros(1)
        >>> evidence = Evidence(
        ...     none,
        ...     none,
        ...     none,
        ...     attentions=(Attention(weights=weights), Attention(weights=weights)),
        ...     token_relevance=torch.tensor([[1.0, 0.0, 0.0]]),
        ...     tokens=TokenGrid(prefix=1, suffix=0, grid=(1, 2)),
        ... )
        >>> attention_rollout(evidence)  # (1 - 1/4) / 3
        tensor([[[[0.2500, 0.2500]]]])
    """
    start, gained, tokens = _descend(evidence, "weights", head, lambda asked, answered: (answered - asked) / 2)
    return _as_map(start + gained, tokens)


def prefix_relevance(evidence: Evidence, *, head: int | None = None) -> Tensor:
    """Return the share of the attention relevance that is on tokens that are no patches, `(N,)` in [0, 1].

    They are the class, distillation and register tokens in the first attention's sequence. Where there is no relevance
    at all, the share is 0.

    Args:
        evidence: The evidence of the shared pass.
        head: See `attention_relevance`.
    """
    gained, tokens = _relevance(evidence, head)
    elsewhere = torch.cat([gained[:, : tokens.patches.start], gained[:, tokens.patches.stop :]], 1).sum(1)
    return torch.where(elsewhere == 0, 0.0, elsewhere / gained.sum(1))


_RELEVANCE: frozenset[Need] = frozenset({"attention_relevance"})
_WEIGHTS: frozenset[Need] = frozenset({"attention_weights"})
_CHECKS = {"head": optional(partial(check_count, least=0))}
_OPTION_NEEDS: dict[str, frozenset[Need]] = {"head": frozenset({"attention_heads"})}
ROWS = {
    "attention_relevance": Method(
        attention_relevance,
        "Attention relevance",
        _RELEVANCE,
        checks=_CHECKS,
        option_needs=_OPTION_NEEDS,
        notes={"prefix_relevance": prefix_relevance},
        aliases=("chefer", "transformer_attribution"),
    ),
    "attention_rollout": Method(
        attention_rollout,
        "Attention rollout (no class)",
        _WEIGHTS,
        checks=_CHECKS,
        option_needs=_OPTION_NEEDS,
        aliases=("rollout",),
    ),
}
"""Rows of the method table."""


def _relevance(evidence: Evidence, head: int | None) -> tuple[Tensor, TokenGrid]:
    """Return r − r₀ over the tokens of the first attention."""
    _, gained, tokens = _descend(evidence, "relevance", head, lambda asked, answered: answered)
    return gained, tokens


def _descend(
    evidence: Evidence, part: AttentionPart, head: int | None, step: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, TokenGrid]:
    """Follow r from the last attention to the first, as r₀ and what it has gained, so that a small gain is not lost.

    Args:
        evidence: The evidence of the shared pass.
        part: The matrices.
        head: The head of the last attention that stands for all of its heads, or None.
        step: What r gains at an attention, of what the tokens that ask have, 0 elsewhere, and its product with the
            matrix, both `(N, T)`.

    Returns:
        r₀ and r − r₀ over the T tokens of the first attention, and which of them are the patches.
    """
    if not evidence.attentions or evidence.tokens is None:
        raise ValueError("Expected a model with attention over the tokens of its images, but it has none that is read.")
    matrices = [required(getattr(attention, part)) for attention in evidence.attentions]
    if head is not None:
        matrices[-1] = _head(required(getattr(evidence.attentions[-1], f"head_{part}")), head)
    queries = [attention.query for attention in evidence.attentions]
    tokens = evidence.tokens
    if queries[-1] is None and matrices[-1].shape[1] != matrices[-1].shape[2]:  # attention pooling
        queries.pop()
        gained = matrices.pop().mean(1)
        start = torch.zeros_like(gained)
        tokens = _among(evidence.tokens, gained.shape[1])
    else:
        start = required(evidence.token_relevance)
        gained = torch.zeros_like(start)
    for query, matrix in zip(reversed(queries), reversed(matrices), strict=True):
        if matrix.shape[1] != (matrix.shape[2] if query is None else 1):
            raise ValueError(
                "Expected attentions in which all tokens ask, or the one at `query`, and attention pooling only as the "
                f"last one, got a matrix {tuple(matrix.shape)} with `query` {query}."
            )
        below = _among(evidence.tokens, matrix.shape[2])
        ends = (below.prefix - tokens.prefix, below.suffix - tokens.suffix)
        start, gained, tokens = F.pad(start, ends), F.pad(gained, ends), below
        asking = slice(None) if query is None else slice(query, query + 1)
        asked = torch.zeros_like(start)
        asked[:, asking] = (start + gained)[:, asking]
        answered = torch.einsum("nl,nls->ns", asked[:, asking], matrix)
        gained = gained + step(asked, answered)
    return start, gained, tokens


def _among(tokens: TokenGrid, length: int) -> TokenGrid:
    """Return which tokens are the patches in a sequence of this length, which lacks the outermost ones.

    Raises:
        ValueError: It is longer, lacks patches, or leaves open whether tokens before or after the patches are lacking.
    """
    patches = len(tokens) - tokens.prefix - tokens.suffix
    prefixes = [n for n in range(tokens.prefix + 1) if 0 <= length - patches - n <= tokens.suffix]
    if len(prefixes) != 1:
        raise ValueError(
            f"Expected attentions over the {patches} patches with at most {tokens.prefix} tokens before and "
            f"{tokens.suffix} after them, got one over {length} tokens, whose patches are not known."
        )
    return TokenGrid(prefixes[0], length - patches - prefixes[0], tokens.grid)


def _head(matrices: Tensor, head: int) -> Tensor:
    """Return one head's matrix, `(N, H, L, S)` -> `(N, L, S)`."""
    if head >= matrices.shape[1]:
        raise ValueError(f"Expected `head` below {matrices.shape[1]}, the heads of the last attention, got {head}.")
    return matrices[:, head]


def _as_map(tokens: Tensor, grid: TokenGrid) -> Tensor:
    """Return the patches of a row over the tokens as a map, `(N, T)` -> `(N, 1, h, w)`."""
    return tokens[:, grid.patches].reshape(-1, 1, *grid.grid)
