"""Which layer is chosen on torchvision's models and torch.nn's transformers: a small selection of the sweep's.

What is right is measured without the library; `tests/benchmarks/models.py` does it for hundreds of models.
"""

import pytest
import torch
from model_kinds import CLASSES, Published, built
from model_truth import measure, shortcoming
from model_verdict import examine
from model_watching import Reading
from other_models import torch_models, torchvision_models
from torch import nn
from torchvision.models import VGG, MaxVit, SwinTransformer, VisionTransformer
from torchvision.models.vgg import make_layers

OF_CNNS = ["grad_cam", "grad_cam_plus_plus", "saliency"]
OF_TOKENS = ["attention_relevance", "grad_cam", "saliency"]
OF_WINDOWS = ["summed_hires_cam", "grad_cam", "saliency"]


def small_vgg(size):
    features = make_layers([16, "M", 32, "M", 64, 64, "M"], batch_norm=True)
    with torch.device("meta"):
        vgg = VGG(features, init_weights=False)  # its classifier has a hundred million weights
    vgg.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return vgg


def small_vit(size):
    return VisionTransformer(size[0], 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES)


def small_maxvit(size):
    return MaxVit(size, 8, 4, [16, 32], [1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=CLASSES)


def small_swin(size):
    return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


SMALL = [
    Published("torchvision", "vgg", "small VGG", small_vgg, ((96, 128),)),
    Published("torchvision", "vision_transformer", "small VisionTransformer", small_vit, ((48, 48),)),
    Published("torchvision", "maxvit", "small MaxVit", small_maxvit, ((64, 64),)),
    Published("torchvision", "swin_transformer", "small SwinTransformer", small_swin, ((64, 96),)),
]
MODELS = {published.name: published for published in (*torchvision_models(), *torch_models(), *SMALL)}


@pytest.mark.parametrize(
    ("name", "reading", "methods"),
    [
        ("small VGG", Reading("features.13"), OF_CNNS),  # before its last pooling
        ("mobilenet_v3_small", Reading("features"), OF_CNNS),
        ("convnext_tiny", Reading("features"), OF_CNNS),
        ("swin_v2_t", Reading("permute"), OF_WINDOWS),
        ("small MaxVit", Reading("blocks.1"), OF_WINDOWS),
        ("small VisionTransformer", Reading("encoder.layers.encoder_layer_2.ln_1", "NLD", prefix=1), OF_TOKENS),
        (
            "TransformerEncoder, batch first, class token last",
            Reading("encoder.layers.2.norm1", "NLD", suffix=1),
            OF_TOKENS,
        ),
        (
            "TransformerEncoder, batch second, class token",
            Reading("encoder.layers.2.norm1", "LND", prefix=1),
            OF_TOKENS,
        ),
    ],
)
def test_with_no_settings_the_right_layer_is_read_in_the_right_way(name, reading, methods):
    record = examine(MODELS[name], train=False)
    assert record["verdict"] == "right", record.get("reason")
    assert Reading(**record["reading"]) == reading
    assert record["methods"] == methods


LAST_NORM = "encoder.layers.encoder_layer_2.ln_1"


@pytest.mark.parametrize(
    ("name", "reading", "reason"),
    [
        ("small MaxVit", Reading("stem"), "of the weights come later or beside"),
        ("small VisionTransformer", Reading("conv_proj"), "3 attentions read it"),  # the patch embedding
        ("small VisionTransformer", Reading("encoder.ln", "NLD", prefix=1), "a gradient to 0% of its positions"),
        ("small VisionTransformer", Reading(LAST_NORM, "NLD", suffix=1), "if shifted by one"),
        ("small VisionTransformer", Reading(LAST_NORM, "LND", prefix=1), "37 maps for 2 images"),
        ("small SwinTransformer", Reading("features"), "a map of 12×32 for images of 64×96"),  # channels last
        ("small VisionTransformer", Reading(LAST_NORM, "NLD", prefix=1), None),
    ],
)
def test_a_wrong_layer_or_reading_is_found_out(name, reading, reason):
    model, size = built(MODELS[name])
    found = shortcoming(measure(model, reading, size), reading.axes, size)
    assert found is None if reason is None else reason in str(found)
