"""Layer-wise relevance propagation: how much of the score each position of the image contributes, signed."""

from __future__ import annotations

from torch import Tensor

from lightning_saliency.attribution.cam_family import required
from lightning_saliency.attribution.method import Method
from lightning_saliency.data import averaged
from lightning_saliency.evidence import Evidence, Need

_RELEVANCE: frozenset[Need] = frozenset({"lrp"})


def lrp(evidence: Evidence) -> Tensor:
    """Layer-wise relevance propagation (Ali et al. 2022, "XAI for Transformers").

    R = Σ_k a_k ⊙ g̃_k, with a the input image, and g̃ the score's gradient there by other rules than the chain rule's:
    attention, gates and the scales of norms are constant, GELU and the like are a factor GELU(x) / x, and convolutions
    follow the γ-rule (Montavon et al. 2019). What speaks against the class is negative. Without biases the relevances
    of all pixels, with those of tokens that are no patches, sum to the score. `lrp_rules` in
    `lightning_saliency.evidence.lrp` has all rules.

    Of a model whose tokens are patches, each patch has the sum of its pixels: what its embedding has, but for the
    embedding's bias and position, which are the same for every image.

    Returns:
        `(N, 1, h, w)`: the relevances of the patches, or of the pixels.

    Example:
        >>> import torch
        >>> a = torch.tensor([[[[2.0, 1.0]], [[1.0, 3.0]]]])
        >>> g = torch.tensor([[[[3.0, -1.0]], [[0.5, 0.0]]]])
        >>> none = torch.zeros(1)
        >>> lrp(Evidence(none, none, none, lrp_activations=a, lrp_grads=g))
        tensor([[[[ 6.5000, -1.0000]]]])
    """
    relevance = (required(evidence.lrp_activations) * required(evidence.lrp_grads)).sum(1, keepdim=True)
    if evidence.tokens is None:
        return relevance
    pooled = averaged(relevance, evidence.tokens.grid)
    return pooled * (relevance[0].numel() / pooled[0].numel())


ROWS = {"lrp": Method(lrp, "LRP", _RELEVANCE, aliases=("layer_wise_relevance_propagation", "attn_lrp"))}
"""Rows of the method table."""
