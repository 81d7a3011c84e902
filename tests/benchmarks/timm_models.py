"""timm's models: the smallest member of each family, and further ones, for the variety within a family."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import timm
import torch
from model_kinds import CLASSES, Published, Size
from torch import nn

SMALLEST = (
    "beit_base_patch16_224",
    "halonet_h1",
    "test_byobnet",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "test_convnext",
    "cpubone_nano",
    "crossvit_tiny_240",
    "csatv2",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "davit_tiny",
    "deepseek_vit_412m",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "vit_tiny_patch16_dinov3_qkvb",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "gemma4_vit_167m_enc",
    "ghostnet_050",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "sam2_hiera_tiny",
    "hrnet_w18_small",
    "iformer_t",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2_small",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_coatnet",
    "poolformerv2_s12",
    "gmlp_ti16_224",
    "lcnet_035",
    "mobilenetv5_base",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "naflexvit_base_patch16_parfac_gap",
    "nasnetalarge",
    "nest_tiny",
    "nextvit_small",
    "test_nfnet",
    "pit_ti_224",
    "pnasnet5large",
    "pvt_v2_b0",
    "qwen3_vit_88m",
    "rdnet_tiny",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "res2next50",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "legacy_seresnet18",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256",
    "swinv2_cr_tiny_224",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "samvit_base_patch16_224",
    "vitamin_small_224",
    "volo_d1_224",
    "ese_vovnet19b_slim_dw",
    "legacy_xception",
    "xception41p",
    "xcit_nano_12_p8_224",
)
"""The member with the fewest parameters of each module of `timm.models`; `smallest()` finds them, in minutes."""

FURTHER = (
    "beit3_base_patch16_224",
    "botnet26t_256",
    "caformer_s18",
    "coatnet_0_224",
    "coatnet_pico_rw_224",
    "convnext_atto",
    "crossvit_9_240",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
    "flexivit_small",
    "gmixer_12_224",
    "halonet26t",
    "lambda_resnet26t",
    "mambaout_femto",
    "maxvit_pico_rw_256",
    "maxvit_tiny_tf_224",
    "mixer_s32_224",
    "mobilenetv3_small_050",
    "mobilevitv2_050",
    "mvitv2_small_cls",
    "naflexvit_base_patch16_gap",
    "pit_ti_distilled_224",
    "poolformer_s12",
    "regnety_002",
    "repvit_m0_9",
    "resmlp_12_224",
    "resnet18",
    "swinv2_tiny_window8_256",
    "test_maxvit",
    "tnt_s_patch16_224",
    "twins_pcpvt_small",
    "vgg11_bn",
    "vit_base_patch16_gap_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_medium_patch16_reg4_gap_256",
    "vit_pe_core_tiny_patch16_384",
    "vit_relpos_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_224",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_224",
    "vit_small_plus_patch16_dinov3",
    "vit_small_r26_s32_224",
    "vit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
)
"""Other members: other heads and tokens, other numbers of prefix tokens, other kinds of attention."""

HEADLESS = (
    "convnext_atto",
    "mobilenetv3_small_050",
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "vgg11_bn",
    "vit_medium_patch16_reg4_gap_256",
    "vit_tiny_patch16_224",
)
"""Members that are run without a classifier, too: their scores are their features."""

_ENCODERS = {"gemma4_vit_167m_enc": {"global_pool": "avg"}}
"""Options of those that have no classifier of their own, and are given one."""

_COARSE = (
    "csatv2",
    "efficientvim_m1",
    "efficientvit_m0",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnet_035",
    "levit_128s",
    "pnasnet5large",
)
"""Those whose map would be smaller than 3×3 otherwise, or about as large as an answer's random offset."""

_OBLONG = ((96, 128), (112, 140), (128, 192), (96, 144), (192, 256))
_SQUARE = ((128, 128), (112, 112), (224, 224), (256, 256))


def timm_models() -> Iterator[Published]:
    """Yield the smallest of each family, with oblong images if it takes any, and the further ones, with square ones."""
    families = {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}
    for name in (*SMALLEST, *FURTHER):
        own = timm.get_pretrained_cfg_value(name, "input_size")[1:]
        sizes = (*(_OBLONG if name in SMALLEST else ()), *_SQUARE, own)
        if name in _COARSE:
            sizes = ((192, 256), own)
        yield Published("timm", families[name], name, partial(_build, name, CLASSES), tuple(dict.fromkeys(sizes)))
    for name in HEADLESS:
        yield Published("timm", families[name], f"{name}, num_classes=0", partial(_build, name, 0), _SQUARE)


def smallest() -> dict[str, str]:
    """Return the name of the smallest member of each family."""
    families = {}
    for module in timm.list_modules():
        counts = {}
        for name in timm.list_models(module=module):
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=CLASSES)
            counts[name] = sum(parameter.numel() for parameter in model.parameters())
        families[module] = min(counts, key=lambda name: (counts[name], name))
    return families


def _build(name: str, classes: int, size: Size) -> nn.Module:
    if name in _ENCODERS:
        encoder = timm.create_model(name, **_ENCODERS[name])
        return nn.Sequential(encoder, nn.Linear(encoder.num_features, classes))
    try:
        return timm.create_model(name, num_classes=classes, img_size=size)
    except TypeError:  # it takes images of any size
        return timm.create_model(name, num_classes=classes)


if __name__ == "__main__":
    print(smallest())
