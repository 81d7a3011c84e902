"""The trainable head of the classic CAM: global average pooling, then one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GAPHead(nn.Module):
    """Global average pooling and a linear layer, whose class maps need no gradient.

    Zhou et al. 2016, "Learning Deep Features for Discriminative Localization": "we perform global average pooling on
    the convolutional feature maps and use those as features for a fully-connected layer that produces the desired
    output". As the last layer of any backbone it makes a CAM model: `logits == class_maps(features).mean((2, 3)) +
    bias`, and Grad-CAM at the features is `relu(class map) / (h·w)`, both exactly.

    Args:
        in_channels: D, the channels of the feature map.
        num_classes: K.
        bias: Whether the linear layer has a bias; the class maps leave it out.
        dropout: Probability of dropping a pooled feature while training.

    Raises:
        ValueError: `in_channels` or `num_classes` is not positive.

    Shape:
        features `(N, D, h, w)` -> logits `(N, K)`.

    Example:
        >>> head = GAPHead(in_channels=64, num_classes=10)
        >>> features = torch.randn(2, 64, 7, 7)
        >>> head(features).shape, head.class_maps(features).shape
        (torch.Size([2, 10]), torch.Size([2, 10, 7, 7]))
    """

    def __init__(self, in_channels: int, num_classes: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, got {value}.")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_channels, num_classes, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(N, K)` of features `(N, D, h, w)`."""
        return self.linear(self.dropout(self._checked(features).mean((2, 3))))  # type: ignore[no-any-return]

    def class_maps(self, features: Tensor) -> Tensor:
        """The map of each class, M_c = Σ_k w_ck A_k: `(N, D, h, w)` -> `(N, K, h, w)`, signed, without the bias."""
        return torch.einsum("kd,ndhw->nkhw", self.linear.weight, self._checked(features))

    def _checked(self, features: Tensor) -> Tensor:
        if features.dim() != 4 or features.shape[1] != self.linear.in_features:
            raise ValueError(
                f"Expected `features` to be (N, {self.linear.in_features}, h, w), got shape {tuple(features.shape)}."
            )
        return features
