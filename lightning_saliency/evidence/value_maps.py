"""A value for each image and the map of values that it comes from, as anomaly detectors return them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_saliency.data.trees import leaves


def is_single(tensor: Tensor) -> bool:
    """Whether a tensor holds one number for each sample: `(N,)` or `(N, 1)`, or with more axes of length 1."""
    return tensor.dim() > 0 and tensor.shape[1:].numel() == 1


def map_beside(output: Any, value: Tensor, like: Tensor) -> Tensor | None:
    """Return the map `(N, 1, H, W)` of values that stands beside a value for each image in an output; None without one.

    It is the first of the size of the images in the container that holds the value.

    Args:
        output: What a model returned.
        value: One of its tensors.
        like: The images `(N, C, H, W)`, or volumes.

    Example:
        >>> import torch
        >>> output = {"score": torch.zeros(2), "anomaly_map": torch.zeros(2, 8, 8)}
        >>> map_beside(output, output["score"], torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """
    if not is_single(value) or like.dim() < 4:
        return None
    tensors = {path: tensor for path, tensor in leaves(output) if isinstance(tensor, Tensor)}
    own = next((path for path, tensor in tensors.items() if tensor is value), None)
    if own is None:
        return None
    size = like.shape[2:]
    return next(
        (
            tensor.reshape(len(value), 1, *size)
            for path, tensor in tensors.items()
            if path[:-1] == own[:-1]
            and tensor.is_floating_point()
            and tensor.shape in ((len(value), *size), (len(value), 1, *size))
        ),
        None,
    )
