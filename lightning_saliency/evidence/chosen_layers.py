"""`Layers`: which layers of a model the methods read, and which attentions."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_saliency.evidence.target_layer import TargetLayer

NO_ATTENTION = "The run shows no attention over the image's patches."
"""Why a model has no attentions that are read."""


@dataclass(frozen=True)
class AttentionSites:
    """The attentions of a model in which all of the image's patches are tokens, in the order of the forward.

    Attributes:
        queries: For each one the position of the token that asks, where only one does (class attention); None where
            all tokens ask, or where the query is no token (attention pooling).
        sizes: (L, S) of each.
        stream: The sequence of tokens from which the score is read.
        ends_in_query: Whether the last one asks by one query alone and no module returns a sequence behind it, so that
            `stream` is what it reads.
    """

    queries: tuple[int | None, ...]
    sizes: tuple[tuple[int, int], ...]
    stream: TargetLayer
    ends_in_query: bool = False


@dataclass(frozen=True)
class Layers:
    """Which layers of a model the methods read.

    Attributes:
        target: The layer of the CAM family; None where the model has no map.
        pooled: The model's last map, which a head with global pooling pools; None where it has none.
        attention_inputs: The inputs of its attentions, in their order.
        attentions: Its attentions over the image's patches; None where it has none, or has others.
        read_prefix: How many of the tokens before the patches the score reads: class tokens, but no registers.
        is_convolutional: Whether the target layer is the last map of a convolutional network.
        has_boxes: Whether the scores are those of boxes, each of which depends on a part of the target layer alone.
        problem: Why there is no target layer.
        no_attentions: Why there are no `attentions`.
    """

    target: TargetLayer | None = None
    pooled: TargetLayer | None = None
    attention_inputs: tuple[TargetLayer, ...] = ()
    attentions: AttentionSites | None = None
    read_prefix: int = 0
    is_convolutional: bool = False
    has_boxes: bool = False
    problem: str = ""
    no_attentions: str = NO_ATTENTION

    @property
    def patches(self) -> TargetLayer | None:
        """The first layer whose positions are the image's patches; None in a convolutional network."""
        is_tokens = self.pooled is not None and self.pooled.layout is not None and self.pooled.layout.is_tokens
        return next(iter(self.attention_inputs), self.pooled if is_tokens else None)
