"""The classifiers of torchvision, torch.nn and vit-pytorch, with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from model_kinds import CLASSES, Published, Size
from torch import Tensor, nn

_TORCHVISION = {
    "alexnet": "alexnet",
    "convnext_tiny": "convnext",
    "densenet121": "densenet",
    "efficientnet_b0": "efficientnet",
    "efficientnet_v2_s": "efficientnet",
    "googlenet": "googlenet",
    "inception_v3": "inception",
    "maxvit_t": "maxvit",
    "mnasnet0_5": "mnasnet",
    "mobilenet_v2": "mobilenetv2",
    "mobilenet_v3_small": "mobilenetv3",
    "regnet_y_400mf": "regnet",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "shufflenet_v2_x0_5": "shufflenetv2",
    "squeezenet1_1": "squeezenet",
    "swin_t": "swin_transformer",
    "swin_v2_t": "swin_transformer",
    "vgg11_bn": "vgg",
    "vit_b_32": "vision_transformer",
}

_COARSE = ("efficientnet_b0", "efficientnet_v2_s", "inception_v3", "mnasnet0_5")
"""Those whose map would be smaller than 3×3 otherwise, or about as large as an answer's random offset."""


def torchvision_models() -> Iterator[Published]:
    """Yield the smallest members of each of torchvision's families."""
    for name, family in _TORCHVISION.items():
        if name in ("maxvit_t", "vit_b_32"):
            sizes: tuple[Size, ...] = ((224, 224),)
        else:
            sizes = ((96, 128), (160, 192))
        if name in _COARSE:
            sizes = ((192, 256),)
        yield Published("torchvision", family, name, partial(_torchvision, name), sizes)


def _torchvision(name: str, size: Size) -> nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return model


class Tokens(nn.Module):
    """A transformer encoder of torch.nn on patches, with a class token or the mean of all tokens."""

    def __init__(self, grid: Size, *, batch_first: bool, norm_first: bool, class_token: bool, at_end: bool = False):
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 8, stride=8)
        self.class_token = nn.Parameter(torch.randn(1, 1, 32)) if class_token else None
        self.positions = nn.Parameter(torch.randn(1, grid[0] * grid[1] + class_token, 32) / 4)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)
        self.batch_first, self.at_end = batch_first, at_end

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).mT
        if self.class_token is not None:
            class_token = self.class_token.expand(len(images), -1, -1)
            tokens = torch.cat((tokens, class_token) if self.at_end else (class_token, tokens), 1)
        tokens = tokens + self.positions
        tokens = self.encoder(tokens) if self.batch_first else self.encoder(tokens.transpose(0, 1)).transpose(0, 1)
        return self.head(tokens.mean(1) if self.class_token is None else tokens[:, -1 if self.at_end else 0])


def torch_models() -> Iterator[Published]:
    """Yield transformers of torch.nn, batch first and second, and a perceptron, which has no map."""
    kinds: dict[str, dict[str, bool]] = {
        "batch first, mean": {"batch_first": True, "norm_first": True, "class_token": False},
        "batch second, mean": {"batch_first": False, "norm_first": True, "class_token": False},
        "batch first, class token": {"batch_first": True, "norm_first": True, "class_token": True},
        "batch second, class token": {"batch_first": False, "norm_first": True, "class_token": True},
        "batch first, class token last": {"batch_first": True, "norm_first": True, "class_token": True, "at_end": True},
        "batch first, norm last, mean": {"batch_first": True, "norm_first": False, "class_token": False},
        "batch second, norm last, class token": {"batch_first": False, "norm_first": False, "class_token": True},
    }
    for name, options in kinds.items():
        yield Published("torch.nn", name, f"TransformerEncoder, {name}", partial(_tokens, options), ((48, 64),))
    yield Published("torch.nn", "perceptron", "perceptron", _perceptron, ((32, 32),), has_map=False)


def _tokens(options: dict[str, bool], size: Size) -> nn.Module:
    return Tokens((size[0] // 8, size[1] // 8), **options)


def _perceptron(size: Size) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * size[0] * size[1], 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


_VIT = {"image_size": 64, "patch_size": 8, "num_classes": CLASSES, "dim": 48, "depth": 3, "heads": 4, "mlp_dim": 96}

_VIT_PYTORCH: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT, class token": ("vit", "ViT", _VIT),
    "ViT, mean": ("vit", "ViT", {**_VIT, "pool": "mean"}),
    "SimpleViT": ("simple_vit", "SimpleViT", _VIT),
    "SimpleViT, registers at the end": ("simple_vit_with_register_tokens", "SimpleViT", _VIT),
    "DeepViT": ("deepvit", "DeepViT", _VIT),
    "CaiT": ("cait", "CaiT", {**_VIT, "depth": 8, "cls_depth": 2}),
    "RvT": ("rvt", "RvT", {**_VIT, "dim": 64}),
    "parallel ViT": ("parallel_vit", "ViT", _VIT),
    "ViT with patch merger": ("vit_with_patch_merger", "ViT", {**_VIT, "depth": 4}),
    "ViT with learnable memory": ("learnable_memory_vit", "ViT", _VIT),
    "ViT with patch dropout": ("vit_with_patch_dropout", "ViT", _VIT),
    "ViT for small data sets": ("vit_for_small_dataset", "ViT", _VIT),
    "XCiT": ("xcit", "XCiT", {**_VIT, "depth": 8, "cls_depth": 2}),
    "PiT": ("pit", "PiT", {**_VIT, "depth": (1, 2)}),
    "CCT": (
        "cct",
        "CCT",
        {
            "img_size": 64,
            "embedding_dim": 48,
            "kernel_size": 7,
            "stride": 2,
            "padding": 3,
            "n_conv_layers": 2,
            "num_layers": 3,
            "num_heads": 4,
            "num_classes": CLASSES,
        },
    ),
    "T2T-ViT": (
        "t2t",
        "T2TViT",
        {
            **{key: _VIT[key] for key in ("image_size", "num_classes", "dim", "depth", "heads", "mlp_dim")},
            "t2t_layers": ((7, 4), (3, 2)),
        },
    ),
    "CvT": (
        "cvt",
        "CvT",
        {"num_classes": CLASSES, "s1_emb_dim": 16, "s2_emb_dim": 32, "s3_emb_dim": 48, "s3_depth": 3},
    ),
    "MaxViT": (
        "max_vit",
        "MaxViT",
        {"num_classes": CLASSES, "dim_conv_stem": 16, "dim": 16, "dim_head": 8, "depth": (1, 1, 2), "window_size": 4},
    ),
    "NesT": (
        "nest",
        "NesT",
        {
            "image_size": 64,
            "patch_size": 4,
            "dim": 16,
            "heads": 2,
            "num_hierarchies": 3,
            "block_repeats": (1, 1, 2),
            "num_classes": CLASSES,
        },
    ),
    "LeViT": (
        "levit",
        "LeViT",
        {
            "image_size": 128,
            "num_classes": CLASSES,
            "stages": 2,
            "dim": (32, 48),
            "depth": 2,
            "heads": (2, 4),
            "mlp_mult": 2,
        },
    ),
    "CrossViT": (
        "cross_vit",
        "CrossViT",
        {
            "image_size": 64,
            "num_classes": CLASSES,
            "depth": 2,
            "sm_dim": 24,
            "lg_dim": 48,
            "sm_patch_size": 8,
            "lg_patch_size": 16,
        },
    ),
    "CrossFormer": (
        "crossformer",
        "CrossFormer",
        {
            "num_classes": CLASSES,
            "dim": (32, 32, 64, 64),
            "depth": (1, 1, 1, 2),
            "global_window_size": (4, 2, 1, 1),
            "local_window_size": 4,
        },
    ),
    "RegionViT": (
        "regionvit",
        "RegionViT",
        {"num_classes": CLASSES, "dim": (16, 24, 32, 48), "depth": (1, 1, 1, 2), "window_size": 4},
    ),
    "ScalableViT": (
        "scalable_vit",
        "ScalableViT",
        {
            "num_classes": CLASSES,
            "dim": 16,
            "heads": (1, 2, 2, 2),
            "depth": (1, 1, 1, 2),
            "ssa_dim_key": 8,
            "reduction_factor": (2, 2, 1, 1),
            "window_size": (4, 4, None, None),
        },
    ),
    "SepViT": (
        "sep_vit",
        "SepViT",
        {"num_classes": CLASSES, "dim": 16, "dim_head": 8, "heads": (1, 2, 2), "depth": (1, 1, 2), "window_size": 8},
    ),
    "Twins-SVT": (
        "twins_svt",
        "TwinsSVT",
        {
            "num_classes": CLASSES,
            "s1_local_patch_size": 4,
            "s2_local_patch_size": 4,
            "s3_local_patch_size": 2,
            "s4_local_patch_size": 2,
            "s1_global_k": 4,
            "s2_global_k": 4,
            "s3_global_k": 2,
            "s4_global_k": 2,
        },
    ),
    "MobileViT": (
        "mobile_vit",
        "MobileViT",
        {
            "image_size": (128, 128),
            "dims": [32, 48, 64],
            "channels": [8, 8, 16, 16, 24, 24, 32, 32, 40, 40, 64],
            "num_classes": CLASSES,
        },
    ),
}
"""The module, the class and the options of each."""


_LENGTHS = {"RegionViT": 384, "SepViT": 112}
"""The length of their images, where 128 does not fit, or gives less than 3×3 regions."""


def vit_pytorch_models() -> Iterator[Published]:
    """Yield transformers of vit-pytorch."""
    for name, (module, kind, options) in _VIT_PYTORCH.items():
        given = options.get("image_size", options.get("img_size", _LENGTHS.get(name, 128)))
        size = given if isinstance(given, tuple) else (given, given)
        yield Published("vit-pytorch", name, name, partial(_vit_pytorch, module, kind, options), (size,))


def _vit_pytorch(module: str, kind: str, options: dict[str, Any], size: Size) -> nn.Module:
    model: nn.Module = getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)(**options)
    return model
