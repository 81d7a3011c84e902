"""`GAPHead`, a head of global pooling and one linear layer; and `gap_model`, which cuts a backbone to end in it."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from lightning_saliency._checks import check_choice, check_count, check_flag, check_number, optional, shown
from lightning_saliency.evidence import POOLINGS, Forward, TargetLayer, find_target_layer, read_output
from lightning_saliency.models.cut import Backbone, cut_backbone
from lightning_saliency.models.sources import (
    check_torchvision_name,
    find_torchvision_weights,
    published_weights,
    take_input_as_trained,
    torchvision_model,
)
from lightning_saliency.models.weight_files import GAP_MODEL, WeightFile, existing_file

Pooling: TypeAlias = Literal["avg", "max", "lse"]
"""Global average pooling, global maximum pooling, or log-sum-exp between the two."""

_LSE_SHARPNESS = 5.0
"""r of the log-sum-exp pooling: toward 0 it is the average, toward infinity the maximum."""


def log_sum_exp_pooling(features: Tensor) -> Tensor:
    """Pool features by log-sum-exp, (1/r) log((1/Z) Σ_ij exp(r A_ij)) with r = 5 (Pinheiro & Collobert 2015).

    Args:
        features: `(N, D, h, w)`.

    Returns:
        `(N, D)`, between the mean and the maximum of each channel.

    Example:
        >>> log_sum_exp_pooling(torch.tensor([[[[0.0, 1.0]]]]))
        tensor([[0.8627]])
    """
    total = (_LSE_SHARPNESS * features).flatten(2).logsumexp(2)
    return (total - math.log(features.shape[2:].numel())) / _LSE_SHARPNESS


POOLINGS["lse"] = log_sum_exp_pooling

_NEW_HEAD_STD = 1e-3
"""Standard deviation of a new linear layer's weights behind trained features.

Softmax sees differences between classes alone, so what the random start has added to the maps of all classes is never
unlearned: with the usual one, several times as large, it is as strong as what a few epochs learn.
"""

PAPER_RESOLUTIONS = {"alexnet": 13, "vgg16": 14, "googlenet": 14}
"""The mapping resolutions of Zhou et al. 2016, section 3: after conv5, after conv5-3, after inception4e."""


class GAPHead(nn.Module):
    """Global average pooling and a linear layer, whose class maps need no gradient.

    Zhou et al. 2016, "Learning Deep Features for Discriminative Localization": "we perform global average pooling on
    the convolutional feature maps and use those as features for a fully-connected layer that produces the desired
    output". As the last layer of any backbone it makes a CAM model: `logits == class_maps(features).mean((2, 3)) +
    bias`, and Grad-CAM at the features is `relu(class map) / (h·w)`, both exactly.

    With another pooling the class maps, and `cam`, are the same sums Σ_k w_ck A_k, but their mean is no longer the
    logit, and Grad-CAM is another map: `"max"`
    is the paper's comparison (GMP), `"lse"` is log-sum-exp, (1/r) log((1/Z) Σ_ij exp(r A_ij)) with r = 5 (Pinheiro &
    Collobert 2015).

    Args:
        in_channels: D, the channels of the feature map.
        num_classes: K.
        bias: Whether the linear layer has a bias; the class maps do not contain it.
        dropout: Probability of dropping a pooled feature while training.
        pooling: `"avg"`, `"max"` or `"lse"`.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: `in_channels` or `num_classes` is not positive, `dropout` is no probability, or `pooling` is none of
            these.

    Shape:
        features `(N, D, h, w)` -> logits `(N, K)`; likewise of volumes `(N, D, d, h, w)` and signals `(N, D, t)`.

    Example:
        >>> head = GAPHead(in_channels=64, num_classes=10)
        >>> features = torch.randn(2, 64, 7, 7)
        >>> head(features).shape, head.class_maps(features).shape
        (torch.Size([2, 10]), torch.Size([2, 10, 7, 7]))
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        pooling: Pooling = "avg",
    ) -> None:
        super().__init__()
        self.pooling = check_choice("pooling", pooling, tuple(POOLINGS))
        self.dropout = nn.Dropout(check_number("dropout", dropout, "[0, 1]"))
        self.linear = nn.Linear(
            check_count("in_channels", in_channels),
            check_count("num_classes", num_classes),
            bias=check_flag("bias", bias),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits `(N, K)` of features `(N, D, h, w)`."""
        logits: Tensor = self.linear(self.dropout(POOLINGS[self.pooling](self._checked(features))))
        return logits

    def class_maps(self, features: Tensor) -> Tensor:
        """Return the map of each class, M_c = Σ_k w_ck A_k: `(N, D, h, w)` -> `(N, K, h, w)`, signed, without bias."""
        return torch.einsum("kd,nd...->nk...", self.linear.weight, self._checked(features))

    def _checked(self, features: Tensor) -> Tensor:
        if features.dim() not in (3, 4, 5) or features.shape[1] != self.linear.in_features:
            raise ValueError(
                f"Expected `features` to be (N, {self.linear.in_features}, h, w), got shape {tuple(features.shape)}."
            )
        return features


class GAPModel(nn.Module):
    """A CAM model, as `gap_model` returns it: a backbone cut at a layer, a convolution, and a `GAPHead`.

    Attributes:
        backbone: From images to the features of the layer where it was cut.
        neck: A 3×3 convolution with ReLU, or an empty module.
        head: The `GAPHead`.
        cut: The name of the layer where the backbone was cut.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: GAPHead, cut: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.cut = cut

    def features(self, images: Tensor) -> Tensor:
        """Return the features `(N, D, h, w)` that the head pools."""
        features: Tensor = self.neck(self.backbone(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, K)` of images `(N, C, H, W)`."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def class_maps(self, images: Tensor) -> Tensor:
        """Return the class activation map of each class `(N, K, h, w)`, signed, from one forward without a gradient."""
        return self.head.class_maps(self.features(images))


def gap_model(
    backbone: str | nn.Module,
    num_classes: int,
    *,
    weights: Any = None,
    resolution: int | None = None,
    hidden: int | None = 1024,
    pooling: Pooling = "avg",
    in_channels: int = 3,
    image_size: int = 224,
) -> GAPModel:
    """Turn a backbone into a CAM model, as Zhou et al. 2016, section 3.

    Everything after the last convolutional map of the wanted resolution is removed (fully connected layers, pooling,
    later stages); then come a 3×3 convolution (stride 1, pad 1) of 1024 units with ReLU, global average pooling and one
    linear layer. The remaining layers of the backbone keep their weights. With `weights` the linear layer begins near
    zero, since what class maps have of a random start is never unlearned.

    Args:
        backbone: The name of a torchvision classification model, or any module that torch.fx can trace.
        num_classes: K.
        weights: For a name, torchvision's weights, such as `"DEFAULT"`, or a file with the model's weights: of torch
            (a state dict, or a checkpoint that holds one, under any prefix) or of safetensors, in any precision; its
            classifier does not matter. None for random ones.
        resolution: Height and width of the class maps at `image_size`. Default: the paper's for `"alexnet"` (13×13,
            after conv5), `"vgg16"` (14×14, after conv5-3) and `"googlenet"` (14×14, after inception4e); else that of
            the last convolutional map.
        hidden: Units of the added convolution; None for no convolution.
        pooling: See `GAPHead`.
        in_channels: Channels of the images. For a name and another number than three, the first convolution's filters
            are averaged over red, green and blue.
        image_size: Height and width of the images that the resolution is meant for; others work as well.

    Returns:
        The model: `model(images)` returns logits, `model.class_maps(images)` the maps of all classes.

    Raises:
        TypeError: `backbone` is neither a name nor a module, or another argument is of the wrong kind.
        ValueError: torchvision has no such model; `weights` are neither torchvision's nor a file, or those of another
            model; the backbone has no convolutional map (of this resolution), or cannot be traced.

    Example:
        >>> model = gap_model("resnet18", num_classes=5, resolution=14, hidden=None)
        >>> model.cut, model.class_maps(torch.randn(1, 3, 224, 224)).shape
        ('layer3', torch.Size([1, 5, 14, 14]))
    """
    num_classes = check_count("num_classes", num_classes)
    resolution = optional(check_count)("resolution", resolution)
    hidden = optional(check_count)("hidden", hidden)
    check_choice("pooling", pooling, tuple(POOLINGS))
    in_channels = check_count("in_channels", in_channels)
    image_size = check_count("image_size", image_size)
    if isinstance(backbone, str):
        if resolution is None and backbone in PAPER_RESOLUTIONS:  # it identifies the layer at 224 pixels
            resolution, image_size = PAPER_RESOLUTIONS[backbone], 224
        cut, layer = _cut_named(backbone, weights, in_channels, image_size, resolution)
    elif not isinstance(backbone, nn.Module):
        raise TypeError(f"Expected `backbone` to be a name or a module, got {type(backbone).__name__}.")
    elif weights is not None:
        raise ValueError(f"Expected `weights` to be None for a module, which has its own, got {shown(weights)}.")
    else:
        cut, layer = _cut(backbone, in_channels, image_size, resolution)
    with Forward(cut).undisturbed() as isolated:
        images = torch.zeros(1, in_channels, image_size, image_size)
        depth = isolated.model(isolated.call_of(images).images).shape[1]
    convolution: list[nn.Module] = []
    if hidden is not None:
        convolution = [nn.Conv2d(depth, hidden, kernel_size=3, stride=1, padding=1), nn.ReLU()]
    head = GAPHead(hidden or depth, num_classes, pooling=pooling)
    if weights is not None:
        nn.init.normal_(head.linear.weight, std=_NEW_HEAD_STD)
    return GAPModel(cut, nn.Sequential(*convolution), head, str(layer))


def _cut(module: nn.Module, in_channels: int, image_size: int, resolution: int | None) -> tuple[Backbone, TargetLayer]:
    """Return a module up to its last convolutional map (of a resolution), and the layer that returns that."""
    image = torch.zeros(1, in_channels, image_size, image_size)
    size = None if resolution is None else (resolution, resolution)
    layer = find_target_layer(Forward(module, _logits_or_features), image, size=size, can_be_cut=True)
    return cut_backbone(module, layer, image), layer


def _cut_named(
    name: str, weights: Any, in_channels: int, image_size: int, resolution: int | None
) -> tuple[Backbone, TargetLayer]:
    """Return the same of a torchvision model, with torchvision's weights or those of a file."""
    check_torchvision_name(name, "`backbone`")
    named = None if weights is None else find_torchvision_weights(name, weights)
    file = published = None
    if weights is not None and named is None:
        choices = f"one of {', '.join(get_model_weights(name).__members__)} of {name}, or "
        path = existing_file(weights, choices, GAP_MODEL)
        file, published = WeightFile.open(path, arguments=GAP_MODEL), published_weights(name, path)
    model: Any = torchvision_model(name, named)
    if file is not None:
        take_input_as_trained(model, published)
    if in_channels != 3 and hasattr(model, "transform_input"):
        model.transform_input = False  # which converts one normalization of RGB to another
    cut, layer = _cut(model, 3, image_size, resolution)
    if file is not None:
        file.load_into_backbone(cut, model.state_dict().keys())
    if in_channels != 3:
        _take_channels(cut, in_channels)
    return cut, layer


def _take_channels(backbone: nn.Module, in_channels: int) -> None:
    """Put a first convolution of `in_channels` in the place of the one that takes red, green and blue."""
    convolutions = ((name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))
    layer_name, first = next(convolutions)
    options = {option: getattr(first, option) for option in ("kernel_size", "stride", "padding", "dilation")}
    adapted = nn.Conv2d(in_channels, first.out_channels, bias=first.bias is not None, **options)
    with torch.no_grad():
        # the mean filter over red, green and blue for every channel, scaled so that its outputs keep their magnitude
        adapted.weight.copy_(first.weight.mean(1, keepdim=True).expand_as(adapted.weight) * (3 / in_channels))
        if first.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(first.bias)
    backbone.set_submodule(layer_name, adapted)


def _logits_or_features(output: Any) -> Tensor:
    """Return the logits of a whole model; for a backbone's features their sum, which depends on the same layers."""
    if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1:
        return output.flatten(1).sum(1, keepdim=True)
    return read_output(output, 1).logits
