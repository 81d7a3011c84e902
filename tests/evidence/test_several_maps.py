"""Transformers that make several maps of their tokens, or change their tokens on the way: which layer, which reason."""

import pytest
import torch
from torch import nn

from lightning_saliency import explain

WIDTH = 16


def blocks(count):
    options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
    return nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 2, 32, **options) for _ in range(count))


class Tokens(nn.Module):
    """Patches of 8 pixels behind a class token, through three blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)
        self.position = nn.Parameter(0.1 * torch.randn(1, 65, WIDTH))
        self.blocks = blocks(3)

    def encoded(self, images):
        patches = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 1:]


class MaskTransformer(Tokens):
    """The masks are products of patches with tokens of the classes, which join them (Strudel 2021, Segmenter)."""

    def __init__(self):
        super().__init__()
        self.classes, self.decoder = nn.Parameter(torch.randn(1, 4, WIDTH)), blocks(2)

    def forward(self, images):
        tokens = torch.cat([self.encoded(images), self.classes.expand(len(images), -1, -1)], 1)
        for block in self.decoder:
            tokens = block(tokens)
        masks = (tokens[:, :-4] @ tokens[:, -4:].transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))
        return nn.functional.interpolate(masks, images.shape[2:], mode="bilinear")


class SimplePyramid(Tokens):
    """Boxes of each place of four maps, all made of the last tokens (Li 2022, ViTDet)."""

    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(
            [
                nn.ConvTranspose2d(WIDTH, 8, 4, 4),
                nn.ConvTranspose2d(WIDTH, 8, 2, 2),
                nn.Conv2d(WIDTH, 8, 1),
                nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(WIDTH, 8, 1)),
            ]
        )
        self.scores, self.boxes = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, images):
        tokens = self.encoded(images).transpose(1, 2).unflatten(2, (8, 8))
        maps = [level(tokens) for level in self.levels]
        scores, boxes = (
            torch.cat([head(features).flatten(2) for features in maps], 2).transpose(1, 2)
            for head in (self.scores, self.boxes)
        )
        return {"logits": scores, "pred_boxes": boxes.sigmoid()}


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_boxes_of_several_levels_are_read_at_the_tokens_that_all_levels_are_made_of():
    explanation = explain(SimplePyramid(), IMAGES, methods=["grad_cam", "attention_relevance"], task="detection")
    assert explanation.layer == "blocks.2"
    assert explanation.attributions["grad_cam"].shape == (2, 1, 8, 8)
    assert all((raw.amax((1, 2, 3)) > 0).all() for raw in explanation.attributions.values())


def test_a_mask_transformer_is_read_at_the_input_of_its_last_attention_and_relevance_is_refused_with_the_reason():
    explanation = explain(MaskTransformer(), IMAGES, methods=["grad_cam", "summed_hires_cam", "lrp"])
    assert explanation.task.name == "segmentation"
    assert explanation.layer == "decoder.1.norm1"
    assert all(raw.abs().amax() > 0 for raw in explanation.attributions.values())
    with pytest.raises(ValueError, match=r"drops or joins tokens between its attentions.*`summed_hires_cam` and `lrp`"):
        explain(MaskTransformer(), IMAGES, methods="attention_relevance")


class Merging(Tokens):
    """A quarter of the patches behind the first block."""

    def forward(self, images):
        patches = self.patch(images).flatten(2).transpose(1, 2)
        merged = self.blocks[0](patches).unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1, 2)
        return self.blocks[1](merged).mean(1)


def test_attentions_over_other_grids_are_no_reason_to_say_that_there_are_none():
    with pytest.raises(ValueError, match="attentions are over grids of patches of several sizes"):
        explain(Merging(), IMAGES, methods="attention_relevance")
    with pytest.raises(ValueError, match="The run shows no attention over the image's patches"):
        explain(
            nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(256, 3)), IMAGES, methods="attention_rollout"
        )
