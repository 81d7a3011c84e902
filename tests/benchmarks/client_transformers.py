"""Clients with Hugging Face's models, built small from configurations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from client_kinds import CLASSES, COUNT, Case, Oracle, Samples, Step, classes, client, dict_batches, images
from torch import Tensor, nn
from torch.utils.data import DataLoader

_SOURCE = "transformers"
_NAMES = ("ant", "bee", "cat", "dog", "eel")
_SIZE = {"image_size": 32, "patch_size": 8}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, **_SIZE}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "max_position_embeddings": 8,
}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_LABELS = {
    "id2label": dict(enumerate(_NAMES)),
    "label2id": {name: index for index, name in enumerate(_NAMES)},
    "num_labels": CLASSES,
}


class FromBatch(Step):
    """`self.model(**batch)`, whose output has the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Any) -> Tensor:
        return self.model(**batch).loss


def _data(labels: Tensor, *shape: int, **columns: Tensor) -> tuple[Any, Any]:
    data = ({"pixel_values": images(*shape, seed=seed), "labels": labels, **columns} for seed in (0, 1))
    return tuple(map(dict_batches, data))


def _logits(module: Any, batch: Any) -> Tensor:
    return module.model(pixel_values=batch["pixel_values"]).logits


def _labels(batch: Any) -> Tensor:
    return batch["labels"]


@client(_SOURCE, "ViT tutorial: `forward(pixel_values)` returns `outputs.logits`; names in `config.id2label`")
def vit() -> Case:
    class ViTLightningModule(Step):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.ViTConfig(**_VIT, **_LABELS)
            self.vit = transformers.ViTForImageClassification(config)

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.vit(pixel_values=pixel_values).logits

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    oracle = Oracle("classes", lambda module, batch: module(batch["pixel_values"]), _labels, names=_NAMES)
    return Case(ViTLightningModule(), oracle, *_data(classes()))


@client(_SOURCE, "`AutoModelForImageClassification`, `self.model(**batch)` without `forward`: loss and logits")
def swin() -> Case:
    config = transformers.SwinConfig(
        image_size=64, embed_dim=12, depths=[1, 2], num_heads=[1, 2], window_size=4, **_LABELS
    )
    model = transformers.AutoModelForImageClassification.from_config(config)
    return Case(FromBatch(model), Oracle("classes", _logits, _labels, names=_NAMES), *_data(classes(), 3, 64, 64))


@client(_SOURCE, "`forward(pixel_values, labels=None)` returns the model's output")
def resnet() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.ResNetConfig(embedding_size=8, **_STAGES, layer_type="basic", num_labels=CLASSES)
            self.model = transformers.ResNetForImageClassification(config)

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
            return self.model(pixel_values=pixel_values, labels=labels)

        def loss(self, batch: Any) -> Tensor:
            return self(batch["pixel_values"], batch["labels"]).loss

    return Case(Module(), Oracle("classes", _logits, _labels), *_data(classes(), 3, 64, 64))


@client(_SOURCE, "`forward(**inputs)` called as `self(**batch)`; a data collator")
def convnext() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.ConvNextConfig(**_STAGES, num_labels=CLASSES)
            self.model = transformers.ConvNextForImageClassification(config)

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

        def loss(self, batch: Any) -> Tensor:
            return self(**batch).loss

    def loader(seed: int) -> Any:
        pairs = zip(images(3, 64, 64, seed=seed), classes().tolist(), strict=True)
        samples = [{"pixel_values": image, "labels": label} for image, label in pairs]
        return DataLoader(Samples(samples), batch_size=4, collate_fn=transformers.DefaultDataCollator())

    return Case(Module(), Oracle("classes", _logits, _labels), loader(0), loader(1))


@client(_SOURCE, "DeiT: logits, class-token logits and distillation logits in one output; loss outside")
def deit() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.DeiTConfig(**_VIT, num_labels=CLASSES)
            self.model = transformers.DeiTForImageClassificationWithTeacher(config)

        def forward(self, pixel_values: Tensor) -> Any:
            return self.model(pixel_values)

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["pixel_values"]).logits, batch["labels"])

    return Case(Module(), Oracle("classes", _logits, _labels), *_data(classes()))


@client(_SOURCE, "BEiT, several labels: `problem_type='multi_label_classification'`, labels of 0 and 1")
def beit_multi_label() -> Case:
    config = transformers.BeitConfig(**_VIT, num_labels=CLASSES, problem_type="multi_label_classification")
    labels = (torch.arange(COUNT)[:, None] * 3 % torch.arange(2, 2 + CLASSES) == 0).float()
    oracle = Oracle("classes", _logits, _labels, scale="sigmoid")
    return Case(FromBatch(transformers.BeitForImageClassification(config)), oracle, *_data(labels))


@client(_SOURCE, "DINOv2 as a frozen backbone: a linear layer on its class token")
def dinov2_linear_probe() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            config = {key: value for key, value in _VIT.items() if key != "intermediate_size"}
            self.backbone = transformers.Dinov2Model(transformers.Dinov2Config(**config, mlp_ratio=2))
            self.backbone.requires_grad_(False)
            self.classifier = nn.Linear(32, CLASSES)

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.classifier(self.backbone(pixel_values).last_hidden_state[:, 0])

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    return Case(
        Module(), Oracle("classes", lambda module, batch: module(batch["pixel_values"]), _labels), *_data(classes())
    )


@client(_SOURCE, "ViT as a regressor: `num_labels=1`, float labels")
def vit_regression() -> Case:
    config = transformers.ViTConfig(**_VIT, num_labels=1, problem_type="regression")
    oracle = Oracle("values", lambda module, batch: _logits(module, batch)[:, 0], _labels)
    return Case(
        FromBatch(transformers.ViTForImageClassification(config)), oracle, *_data(torch.linspace(20, 60, COUNT))
    )


@client(_SOURCE, "SegFormer: mask logits at a quarter of the size")
def segformer() -> Case:
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1] * 4, decoder_hidden_size=16, **_LABELS
    )
    masks = torch.randint(0, CLASSES, (COUNT, 64, 64), generator=torch.Generator().manual_seed(3))
    model = transformers.SegformerForSemanticSegmentation(config)
    return Case(FromBatch(model), Oracle("masks", _logits, _labels), *_data(masks, 3, 64, 64))


@client(_SOURCE, "DETR tutorial: `model(pixel_values=, pixel_mask=, labels=)`, a list of dicts as labels")
def detr() -> Case:
    class Detr(Step):
        def __init__(self) -> None:
            super().__init__()
            backbone = transformers.ResNetConfig(
                embedding_size=8, **_STAGES, layer_type="basic", out_features=["stage4"]
            )
            config = transformers.DetrConfig(
                backbone_config=backbone,
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                num_queries=8,
                num_labels=CLASSES,
            )
            self.model = transformers.DetrForObjectDetection(config)

        def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> Any:
            return self.model(pixel_values=pixel_values, pixel_mask=pixel_mask)

        def loss(self, batch: Any) -> Tensor:
            return self.model(**batch).loss

    def collate(samples: list[Any]) -> Any:
        pixels = torch.stack(samples)
        boxes = {
            "class_labels": torch.tensor([1, 2]),
            "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.3, 0.6, 0.2, 0.4]]),
        }
        return {"pixel_values": pixels, "pixel_mask": torch.ones(len(pixels), 64, 64), "labels": [boxes] * len(pixels)}

    def best(module: Any, batch: Any) -> Tensor:
        scores = module(batch["pixel_values"], batch["pixel_mask"]).logits.softmax(-1)[..., :-1]
        values, indices = scores.flatten(1).max(1)
        return torch.stack([(indices % CLASSES).float(), values], 1)

    data = (
        DataLoader(Samples(list(images(3, 64, 64, seed=seed))), batch_size=4, collate_fn=collate) for seed in (0, 1)
    )
    return Case(Detr(), Oracle("boxes", best), *data)


def _pairs() -> tuple[Any, Any]:
    tokens = torch.randint(0, 99, (COUNT, 8), generator=torch.Generator().manual_seed(3))
    data = ({"pixel_values": images(seed=seed), "input_ids": tokens} for seed in (0, 1))
    return tuple(map(dict_batches, data))


class Contrastive(Step):
    """Images and texts: the loss is the model's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch, return_loss=True)

    def loss(self, batch: Any) -> Tensor:
        return self(**batch).loss


def _embeds(module: Any, batch: Any) -> Tensor:
    return module(**batch).image_embeds


@client(_SOURCE, "CLIP: images and texts; `logits_per_image` and embeddings")
def clip() -> Case:
    config = transformers.CLIPConfig(
        text_config={**_TEXT, "eos_token_id": 98}, vision_config={**_VIT, "projection_dim": 16}, projection_dim=16
    )
    return Case(Contrastive(transformers.CLIPModel(config)), Oracle("embedding", _embeds), *_pairs())


@client(_SOURCE, "SigLIP: images and texts")
def siglip() -> Case:
    config = transformers.SiglipConfig(text_config={**_TEXT, "projection_size": 32}, vision_config=_VIT)
    return Case(Contrastive(transformers.SiglipModel(config)), Oracle("embedding", _embeds), *_pairs())


@client(_SOURCE, "VideoMAE: frames (N, T, C, H, W)")
def videomae() -> Case:
    config = transformers.VideoMAEConfig(**_VIT, num_frames=4, num_labels=CLASSES)
    model = transformers.VideoMAEForVideoClassification(config)
    return Case(FromBatch(model), Oracle("classes", _logits, _labels), *_data(classes(), 4, 3, 32, 32))


@client(_SOURCE, "masked autoencoder: pretraining with a random mask in each call, no labels")
def vit_mae() -> Case:
    decoder = {
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 64,
    }
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**_VIT, **decoder))
    data = (dict_batches({"pixel_values": images(seed=seed)}) for seed in (0, 1))
    return Case(FromBatch(model), Oracle(), *data)
