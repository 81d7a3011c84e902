"""A file of torchvision's own weights is known by its hash, and used as torchvision uses them by name."""

from functools import partial
from hashlib import sha256

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import Weights, WeightsEnum
from torchvision.models._api import BUILTIN_MODELS, register_model
from torchvision.transforms._presets import ImageClassification

from lightning_saliency.models import gap_model
from lightning_saliency.models.sources import load_model

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Converting(nn.Module):
    """Converts its input where it is told so, as torchvision's GoogLeNet does."""

    def __init__(self, num_classes=3, transform_input=False):
        super().__init__()
        self.transform_input = transform_input
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        images = images * 0.5 - 1 if self.transform_input else images
        return self.head(self.features(images).mean((2, 3)))


@pytest.fixture
def files(tmp_path):
    """A file that torchvision is told to have published as weights of `converting`, and another one."""
    torch.manual_seed(0)
    published, other = tmp_path / "renamed.pth", tmp_path / "other.pth"
    torch.save(Converting().state_dict(), published)
    torch.save(Converting().state_dict(), other)
    digest = sha256(published.read_bytes()).hexdigest()

    class ConvertingWeights(WeightsEnum):
        DEFAULT = Weights(
            url=f"https://download.invalid/converting-{digest[:8]}.pth",
            transforms=partial(ImageClassification, crop_size=12),
            meta={"categories": ["ant", "bee", "cow"]},
        )

    def converting(*, weights: ConvertingWeights | None = None, progress: bool = True, **options):
        return Converting(**options)

    converting.__module__ = f"{torchvision.models.__name__}.converting"
    register_model("converting")(converting)
    yield published, other
    del BUILTIN_MODELS["converting"]


def by_hand(path, transform_input):
    model = Converting(transform_input=transform_input).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def test_the_command_lines_model_converts_its_input_if_the_weights_are_torchvisions(files, capsys):
    published, other = files
    loaded = load_model("torchvision:converting", str(published), None)
    assert torch.equal(loaded.model.eval()(IMAGES), by_hand(published, True)(IMAGES))
    assert loaded.class_names == ("ant", "bee", "cow")
    assert loaded.make_transform(None, None, None).crop_size == [12]
    assert capsys.readouterr().err == ""
    loaded = load_model("torchvision:converting", str(other), None)
    assert torch.equal(loaded.model.eval()(IMAGES), by_hand(other, False)(IMAGES))
    assert (loaded.class_names, loaded.make_transform) == (None, None)
    assert "Input: taken as it is, since the file is none of torchvision's own" in capsys.readouterr().err


def test_so_does_a_backbone_that_is_cut(files, capsys):
    for path, transform_input in zip(files, (True, False), strict=True):
        model = gap_model("converting", 2, weights=path, image_size=16).eval()
        converted = IMAGES * 0.5 - 1 if transform_input else IMAGES
        assert torch.equal(model.backbone(IMAGES), by_hand(path, transform_input).features(converted))
        assert ("Input: taken as it is" in capsys.readouterr().err) != transform_input
