"""Hugging Face's image classifiers, built from small configurations with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import transformers
from model_kinds import CLASSES, Published, Size
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

_TOKENS = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
_VIT = {**_TOKENS, "intermediate_size": 96}
_TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_CLIP = {"vision_config": _VIT, "text_config": _TEXT}
_SWIN = {"embed_dim": 24, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "window_size": 4}
_PYRAMID = {"depths": [1, 1, 1, 2], "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4]}
_STAGES = {"depths": [1, 1, 2, 2], "hidden_sizes": [16, 32, 48, 64]}

_CONFIGS: dict[str, tuple[dict[str, Any], Size]] = {
    "beit": ({**_VIT, "use_relative_position_bias": True}, (64, 64)),
    "bit": ({"depths": [1, 1, 1, 2], "hidden_sizes": [32, 64, 64, 96], "num_groups": 8}, (96, 128)),
    "clip": (_CLIP, (64, 64)),
    "convnext": (_STAGES, (96, 128)),
    "convnextv2": (_STAGES, (96, 128)),
    "cvt": ({"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, (96, 96)),
    "data2vec-vision": ({**_VIT, "use_relative_position_bias": True}, (64, 64)),
    "deit": (_VIT, (64, 64)),
    "dinov2": ({**_TOKENS, "mlp_ratio": 2, "image_size": 64}, (64, 96)),
    "dinov2_with_registers": ({**_TOKENS, "mlp_ratio": 2}, (64, 64)),
    "donut-swin": (_SWIN, (64, 96)),
    "efficientnet": (
        {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640, "batch_norm_eps": 1e-6},
        (96, 128),
    ),
    "focalnet": (
        {
            "embed_dim": 16,
            "depths": [1, 1, 2],
            "hidden_sizes": [16, 32, 64],
            "focal_levels": [2] * 3,
            "focal_windows": [3] * 3,
        },
        (64, 96),
    ),
    "hgnet_v2": ({}, (96, 128)),
    "hiera": (
        {"embed_dim": 16, "depths": [1, 1, 2, 2], "num_heads": [1, 2, 2, 4], "image_size": [128, 128]},
        (128, 128),
    ),
    "ijepa": (_VIT, (64, 64)),
    "levit": ({}, (128, 128)),
    "metaclip_2": (_CLIP, (64, 64)),
    "mobilenet_v1": ({"depth_multiplier": 0.5}, (96, 128)),
    "mobilenet_v2": ({"depth_multiplier": 0.5}, (96, 128)),
    "mobilevit": ({"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 96]}, (256, 256)),
    "mobilevitv2": ({"width_multiplier": 0.5}, (128, 128)),
    "poolformer": (_STAGES, (96, 128)),
    "pp_lcnet": ({"scale": 0.5}, (192, 256)),
    "pvt": (_PYRAMID, (128, 128)),
    "pvt_v2": (_PYRAMID, (128, 128)),
    "regnet": ({**_STAGES, "groups_width": 16}, (96, 128)),
    "resnet": ({"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 2]}, (96, 128)),
    "segformer": ({**_PYRAMID, "decoder_hidden_size": 32}, (128, 160)),
    "siglip": (_CLIP, (64, 64)),
    "swiftformer": ({"depths": [1, 1, 2, 2], "embed_dims": [16, 24, 32, 48]}, (96, 128)),
    "swin": (_SWIN, (64, 96)),
    "swinv2": (_SWIN, (64, 64)),
    "textnet": (
        {
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 3]], [[3, 3], [3, 1]]],
            "conv_layer_strides": [[1], [2], [2], [2, 1]],
            "hidden_sizes": [16, 16, 24, 32, 48],
            "stem_out_channels": 16,
        },
        (96, 128),
    ),
    "timm_wrapper": ({"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 96}}, (96, 96)),
    "vit": (_VIT, (64, 96)),
    "vit_msn": (_VIT, (64, 64)),
}
"""The configuration of each family, and the size (H, W) of its images."""

NOT_RUN = {
    "dinat": "needs natten, a package of compiled kernels",
    "imagegpt": "reads a sequence of color clusters, no image",
    "perceiver": "its tokens are latents: there is no map of the image",
    "shieldgemma2": "a language model that answers yes or no",
    "siglip2": "reads patches that a processor has cut, with a mask",
}
"""Those that are no classifiers of images `(N, C, H, W)`, or that cannot be installed everywhere."""


def hugging_face_models() -> Iterator[Published]:
    """Yield each image classifier, with each implementation of attention that it has."""
    for family, classes in CLASSIFIERS.items():
        if family in NOT_RUN:
            continue
        size = _CONFIGS[family][1]
        for name in (classes,) if isinstance(classes, str) else classes:
            has_choice = getattr(transformers, name)._supports_sdpa
            for attention in ("sdpa", "eager") if has_choice else ("eager",):
                title = f"{name} ({attention})" if has_choice else name
                yield Published("transformers", family, title, partial(_build, family, name, attention), (size,))


def _build(family: str, name: str, attention: str, size: Size) -> nn.Module:
    options = {key: dict(value) if isinstance(value, dict) else value for key, value in _CONFIGS[family][0].items()}
    config_class = transformers.CONFIG_MAPPING[family]
    given = options.get("vision_config", options)
    if "vision_config" in options or "image_size" in config_class().to_dict():
        given.setdefault("image_size", size[0] if size[0] == size[1] else list(size))
    config = config_class(**options, num_labels=CLASSES, attn_implementation=attention)
    model: nn.Module = getattr(transformers, name)(config)
    return model
