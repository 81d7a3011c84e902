"""The class weights of a CAM: the rows of the linear layer after the global pooling, identified by its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor, nn

from lightning_saliency.data import spatial_axes

POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda features: features.mean(spatial_axes(features)),
    "max": lambda features: features.amax(spatial_axes(features)),
}
"""Global poolings, `(N, D, h, w)` -> `(N, D)`, behind which `find_class_weights` recognizes a linear layer.

A head with another pooling adds it, as `lightning_saliency.models` does.
"""

# How far logits may lie from W·mean(A) + b, relative to the root of the sum of the squared terms.
_HEAD_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}

_CHECKED_CLASSES = 50
"""The most logits that are compared, evenly spread over the classes: the check reads their weights several times."""


def find_class_weights(model: nn.Module, activations: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Find the linear layer W of a head that is global average pooling, then linear, by comparing numbers.

    The layer may be of any type: the head is such a one if logits = W·mean(A) + b on the actual batch. Of more than
    fifty logits, evenly spread ones are compared. Where a model rectifies the map in place after the layer
    (DenseNet), this holds for ReLU(A); that is tried too. So are the other poolings that a `GAPHead` can have.

    Args:
        model: The model in which the linear layer (or 1×1 convolution) is looked for.
        activations: A, `(N, D, h, w)`.
        logits: `(N, K)` in the precision in which the model computed them.

    Returns:
        W `(K, D)`, and the map for which the identity holds: A or ReLU(A).

    Raises:
        ValueError: The identity holds for no layer of the model.
    """
    dtype = max(activations.dtype, logits.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    work = torch.promote_types(torch.promote_types(activations.dtype, logits.dtype), torch.float32)
    activations, logits = activations.to(work), logits.to(work)
    finite = logits.isfinite().all(1)
    count = logits.shape[1]
    compared: slice | Tensor = slice(None)
    if count > _CHECKED_CLASSES:
        compared = torch.linspace(0, count - 1, _CHECKED_CLASSES, dtype=torch.float64).round().long().to(logits.device)
    compared_logits = logits[finite][:, compared]
    for all_weights, all_biases in _linear_layers(model, count, activations.shape[1]):
        weight, bias = all_weights[compared].to(work), all_biases[compared].to(work)
        for pool, rectified in product(POOLINGS.values(), (False, True)):
            features = activations.relu() if rectified else activations
            pooled = pool(features)[finite]
            error = (pooled @ weight.T + bias - compared_logits).abs()
            scale = (pooled.square() @ weight.square().T + bias.square()).sqrt()
            if (error <= _HEAD_TOLERANCE[dtype] * scale).all():
                return all_weights.to(work), features
    raise ValueError(
        "The method `cam` needs a model whose head is global average pooling, then one linear layer, so that "
        "logits = W·mean(A) + b. On this batch that holds for no layer of the model: make it such a one "
        "and train it (`lightning_saliency.gap_model`, or `GAPHead` as its last layer), name the map that is pooled "
        "(`layer=...`), or use `grad_cam`, which equals `cam` on such models up to a factor and works on any."
    )


def _linear_layers(model: nn.Module, num_classes: int, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight and bias of each layer that maps `depth` features to the classes; the last layers first."""
    for module in reversed(list(model.modules())):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.shape[:2] == (num_classes, depth) and weight.shape[2:].numel() == 1:
            bias = getattr(module, "bias", None)
            flat = weight.detach().reshape(num_classes, depth)
            yield flat, bias.detach() if isinstance(bias, Tensor) else flat.new_zeros(num_classes)
