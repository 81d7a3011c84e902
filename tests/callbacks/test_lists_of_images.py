"""Models that are called with a list of images, of one size or of several, as detectors are."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.data import make_call

METHODS = ["grad_cam", "saliency", "integrated_gradients"]
GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.randn(8, 3, 16, 16, generator=GENERATOR)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


class Listed(L.LightningModule):
    """Takes a list of images, and pads them to one size."""

    is_one_by_one = False

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, pictures):
        assert not isinstance(pictures, torch.Tensor)
        if self.is_one_by_one:
            pictures = [picture.to(self.net[0].weight) / 255 for picture in pictures]
        side = max(max(picture.shape[1:]) for picture in pictures)
        padded = [F.pad(one, (0, side - one.shape[2], 0, side - one.shape[1])) for one in pictures]
        return self.net(torch.stack(padded))

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), torch.cat([target["labels"] for target in batch[1]]))

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OfADict(Listed):
    def loss(self, batch):
        logits = self({"pictures": batch[0], "sizes": [one.shape for one in batch[0]]})
        return F.cross_entropy(logits, torch.cat([target["labels"] for target in batch[1]]))

    def forward(self, inputs):
        return super().forward(inputs["pictures"])


class Pictures(torch.utils.data.Dataset):
    def __init__(self, sides=(16,)):
        self.sides = sides

    def __len__(self):
        return len(PICTURES)

    def __getitem__(self, index):
        side = self.sides[index % len(self.sides)]
        return PICTURES[index, :, :side], {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([index % 3])}


def as_tuples(items):
    return tuple(zip(*items, strict=True))


def as_lists(items):
    return tuple(map(list, zip(*items, strict=True)))


def fitted(tmp_path, module, *callbacks, collate=as_tuples, sides=(16,)):
    torch.manual_seed(0)
    data = loader(Pictures(sides), batch_size=4, collate_fn=collate)
    runner = trainer(tmp_path, *callbacks, max_epochs=2)
    runner.fit(module, data, data)
    return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize(("kind", "collate"), [(Listed, as_tuples), (Listed, as_lists), (OfADict, as_lists)])
def test_lists_and_tuples_of_images_are_explained_and_training_is_untouched(tmp_path, kind, collate):
    torch.manual_seed(1)
    keeps, module = Keeps(), kind()
    torch.manual_seed(1)
    alone = kind()
    watched = fitted(tmp_path / "watched", module, SaliencyCallback(outputs=[keeps], samples=4), collate=collate)
    assert all(map(torch.equal, watched, fitted(tmp_path / "alone", alone, collate=collate)))
    explanation = keeps.looks[-1].explained[0].explanation
    assert torch.equal(explanation.images, PICTURES[:4])
    expected = explain(module.net, PICTURES[:4], methods=["grad_cam"])
    torch.testing.assert_close(explanation.attributions["grad_cam"], expected.attributions["grad_cam"])


def test_images_of_several_sizes_are_explained_each_in_its_own(tmp_path):
    keeps, module = Keeps(), Listed()
    fitted(tmp_path, module, SaliencyCallback(outputs=[keeps], samples=4), sides=(16, 12))
    looked = keeps.looks[-1].explained
    assert [tuple(group.explanation.images.shape) for group in looked] == [(2, 3, 16, 16), (2, 3, 12, 16)]
    torch.testing.assert_close(looked[1].explanation.images, PICTURES[[1, 3], :, :12])


@pytest.mark.parametrize("container", [list, tuple])
def test_a_model_of_lists_gives_the_maps_of_the_stacked_images(container):
    module = Listed().double().eval()
    images = PICTURES[:3].double()
    of_list = explain(module, ((container(images),), {}), methods=METHODS)
    of_batch = explain(module.net, images, methods=METHODS)
    for key, maps in of_batch.attributions.items():
        torch.testing.assert_close(of_list.attributions[key], maps)
    torch.testing.assert_close(of_list.logits, of_batch.logits)


@pytest.mark.parametrize("is_one_by_one", [True, False])
def test_a_list_of_integers_is_explained_where_the_model_converts_it(is_one_by_one):
    module = Listed().double().eval()
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=GENERATOR, dtype=torch.uint8)
    module.is_one_by_one = is_one_by_one
    if not is_one_by_one:
        inner = module.net
        module.net = nn.Sequential(Converts(), *inner)
    explanation = explain(module, make_call((list(images),), {}), methods=METHODS)
    scale = 255 if is_one_by_one else 1
    network = module.net if is_one_by_one else module.net[1:]
    torch.testing.assert_close(explanation.inputs, images.double())
    expected = explain(network, images.double() / scale, methods=["saliency"]).attributions["saliency"]
    torch.testing.assert_close(explanation.attributions["saliency"] * scale, expected)


class Converts(nn.Module):
    def forward(self, images):
        return images.double()
