"""What a model's output means: told by the training's loss and the labels, with no settings, and said on the sheets."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from own_modules import CLASSES, IMAGES, SIZE, Module, N, features, fitted
from tiny import L, first, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, load_record

GENERATOR = torch.Generator().manual_seed(1)


class Sigmoid(Module):
    outputs = 1

    def forward(self, images):
        return self.net(images)[:, 0].sigmoid()

    def loss(self, output, labels):
        return F.binary_cross_entropy(output, labels.float())


class Multilabel(Module):
    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output, labels)


class SigmoidMultilabel(Module):
    def forward(self, images):
        return self.net(images).sigmoid()

    def loss(self, output, labels):
        return F.binary_cross_entropy(output, labels)


class Age(Module):
    outputs = 1

    def loss(self, output, labels):
        return F.mse_loss(output[:, 0], labels)


class Keypoints(Module):
    outputs = 4

    def loss(self, output, labels):
        return F.smooth_l1_loss(output, labels)


class Segments(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=2))

    def loss(self, output, labels):
        return F.cross_entropy(output, labels, ignore_index=255)


class FeaturesFirst(Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = features(12, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(12, 3)

    def forward(self, images):
        found = self.net(images)
        return found, self.head(found)

    def loss(self, output, labels):
        return F.cross_entropy(output[1], labels)


class Heads(Module):
    def __init__(self):
        super().__init__()
        self.net = features(8, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.heads = nn.ModuleDict({"shape": nn.Linear(8, 5), "color": nn.Linear(8, 3)})

    def forward(self, images):
        found = self.net(images)
        return {name: head(found) for name, head in self.heads.items()}

    def loss(self, output, labels):
        return sum(F.cross_entropy(output[name], labels[name]) for name in output)


class Exits(Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = features(), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))

    def forward(self, images):
        early = self.first(images)
        late = self.second(early)
        return [head(found.mean((2, 3))) for head, found in zip(self.heads, (early, late), strict=True)]

    def loss(self, output, labels):
        return sum(F.cross_entropy(logits, labels) for logits in output)


class Embedding(Module):
    """Contrastive: two views of an image are near, others far."""

    outputs = 16

    def loss(self, output, labels):
        near = F.normalize(output)
        return F.cross_entropy(near @ near.roll(1, 0).T / 0.1, torch.arange(len(near)))


class Autoencoder(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.mse_loss(self(batch[0]), batch[0]))


SETS = (torch.rand(N, 3, generator=GENERATOR) > 0.4).float()
AGES = torch.rand(N, generator=GENERATOR) * 60 + 20
POINTS = torch.rand(N, 4, generator=GENERATOR)
MASKS = torch.randint(0, 3, (N, SIZE, SIZE), generator=GENERATOR)
MASKS[0, :4] = 255


def answer(module, rows=slice(0, 4)):
    with torch.no_grad():
        return module.eval()(IMAGES[rows])


def test_a_sigmoid_of_one_class_is_explained_before_it_and_its_probability_is_the_models_own(tmp_path):
    module = Sigmoid()
    with pytest.warns(UserWarning, match="goes into its sigmoid is explained instead"):
        look = fitted(tmp_path, module, (CLASSES == 1).long())
    explanation = look.explained[0].explanation
    torch.testing.assert_close(explanation.probabilities[:, 1], answer(module))
    assert [sample.label for sample in look.samples.samples] == [0, 1, 0, 0]
    expected = explanation.logits[:, 0] * torch.tensor([-1, 1, -1, -1])  # class 0 by the negative
    torch.testing.assert_close(explanation.scores, expected)


@pytest.mark.parametrize("kind", [Multilabel, SigmoidMultilabel])
@pytest.mark.filterwarnings("ignore:The model returns probabilities")
def test_each_class_of_a_multi_label_model_has_a_probability_of_its_own(tmp_path, kind):
    module = kind()
    explanation = (look := fitted(tmp_path, module, SETS)).explained[0].explanation
    own = answer(module)
    torch.testing.assert_close(explanation.probabilities, own if kind is SigmoidMultilabel else own.sigmoid())
    assert [sample.truth for sample in look.samples.samples] == [
        tuple(row.nonzero()[:, 0].tolist()) for row in SETS[:4]
    ]
    assert explanation.answers == [tuple(row.nonzero()[:, 0].tolist()) for row in explanation.logits > 0]
    recorded = load_record(tmp_path)
    assert recorded[-1].task == "multilabel"
    assert recorded[-1].predictions == tuple(explanation.answers)


def test_values_are_never_a_class_or_a_percentage(tmp_path):
    module = Age()
    explanation = (look := fitted(tmp_path, module, AGES)).explained[0].explanation
    torch.testing.assert_close(torch.tensor(explanation.answers), answer(module))
    torch.testing.assert_close(torch.tensor([sample.truth for sample in look.samples.samples]), AGES[:4, None])
    torch.testing.assert_close(explanation.scores, explanation.logits[:, 0])
    assert explanation.probabilities is None
    recorded = load_record(tmp_path)[-1]
    assert (recorded.task, recorded.probabilities) == ("regression", (None,) * 4)
    assert look.target == "value"


def test_one_of_several_values_is_explained(tmp_path):
    explanation = fitted(tmp_path, Keypoints(), POINTS, target=2).explained[0].explanation
    torch.testing.assert_close(explanation.scores, explanation.logits[:, 2])


def test_a_segmentation_is_explained_by_the_mean_over_a_classs_pixels(tmp_path):
    module = Segments()
    explanation = (look := fitted(tmp_path, module, MASKS)).explained[0].explanation
    maps = answer(module)
    torch.testing.assert_close(explanation.masks, maps.argmax(1))
    counts = torch.stack([(MASKS[:4] == index).sum((1, 2)) for index in range(3)], 1)
    assert [sample.label for sample in look.samples.samples] == counts.argmax(1).tolist()
    for row, index in enumerate(explanation.classes.tolist()):
        pixels = maps[row, index][maps[row].argmax(0) == index]
        expected = pixels.mean() if len(pixels) else maps[row, index].mean()
        torch.testing.assert_close(explanation.scores[row], expected)


@pytest.mark.parametrize(("kind", "index"), [(FeaturesFirst, 1), (Exits, 1)])
def test_of_several_tensors_the_one_is_explained_that_the_loss_reads(tmp_path, kind, index):
    module = kind()
    explanation = fitted(tmp_path, module, CLASSES).explained[0].explanation
    torch.testing.assert_close(explanation.logits, answer(module)[index])


def test_of_several_heads_one_is_explained_and_named(tmp_path):
    module, labels = Heads(), {"shape": torch.arange(N) % 5, "color": CLASSES}
    look = fitted(tmp_path, module, labels)
    torch.testing.assert_close(look.explained[0].explanation.logits, answer(module)["shape"])
    assert [sample.label for sample in look.samples.samples] == [0, 1, 2, 3]
    assert "shape" in look.target


def test_an_embedding_is_not_read_as_classes(tmp_path):
    look = fitted(tmp_path, Embedding(), CLASSES)
    explanation = look.explained[0].explanation
    assert (explanation.task.name, look.target) == ("embedding", "similarity to itself")
    assert (explanation.answers, explanation.classes, explanation.probabilities) == ([None] * 4, None, None)


def test_an_embedding_is_explained_by_a_function_of_it(tmp_path):
    reference = torch.ones(16)
    look = fitted(tmp_path, Embedding(), CLASSES, target=lambda embeddings: embeddings @ reference)
    assert look.explained[0].explanation.answers == [None] * 4


def test_an_image_that_is_returned_is_no_class_scores(tmp_path):
    with pytest.warns(UserWarning, match="Name the task"):
        assert fitted(tmp_path, Autoencoder(), CLASSES) is None


def test_the_forms_of_output_and_labels_tell_where_no_loss_does(tmp_path):
    keeps, module = Keeps(), Age()
    runner = trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=first(4)))
    runner.validate(module, loader(TensorDataset(IMAGES, AGES), batch_size=4), verbose=False)
    assert keeps.looks[-1].explained[0].explanation.task.name == "regression"


class VAE(Autoencoder):
    """A variational autoencoder, of which the step calls the encoder with images."""

    forward = L.LightningModule.forward

    def __init__(self):
        super().__init__()
        self.net = features(8, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12))
        self.mean, self.log_variance, self.decoder = nn.Linear(12, 4), nn.Linear(12, 4), nn.Linear(4, 3 * SIZE * SIZE)

    def step_loss(self, images):
        found = self.net(images)
        mean, log_variance = self.mean(found), self.log_variance(found)
        sampled = mean + log_variance.mul(0.5).exp() * torch.randn_like(mean)
        reconstructed = F.mse_loss(self.decoder(sampled).view_as(images), images)
        return reconstructed + (mean.square() + log_variance.exp() - log_variance).mean()

    def training_step(self, batch, batch_idx):
        return self.step_loss(batch[0])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step_loss(batch[0]))


def test_the_code_of_an_autoencoder_is_no_class_scores(tmp_path):
    with pytest.warns(UserWarning, match=r"reads, of shape \(N, 768\), got output \(4, 12\)|which it does not"):
        assert fitted(tmp_path, VAE(), CLASSES) is None


class Overlapping(Module):
    """Nested classes, each with a sigmoid of its own, by a Dice loss that is written out."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=2))

    def loss(self, output, labels):
        shares = output.sigmoid()
        both = (shares * labels).sum((2, 3))
        return (1 - (2 * both + 1) / (shares.sum((2, 3)) + labels.sum((2, 3)) + 1)).mean()


def test_segmentation_whose_classes_overlap_has_the_pixels_of_each(tmp_path):
    radius = (torch.arange(SIZE) - 8).abs()
    square = torch.maximum(radius[:, None], radius)
    masks = torch.stack([square < size for size in (3, 7, 5)]).float().expand(N, 3, SIZE, SIZE)
    keeps, batches = Keeps(), loader(TensorDataset(IMAGES, masks), batch_size=4)
    trainer(tmp_path, SaliencyCallback(samples=N, outputs=[keeps]), max_epochs=1).fit(Overlapping(), batches, batches)
    (group,) = keeps.looks[-1].explained
    explanation = group.explanation
    with torch.no_grad():
        expected = keeps.looks[-1].forward.model(IMAGES) > 0
    assert explanation.task.name == "multilabel_segmentation"
    assert torch.equal(explanation.masks, expected)
    torch.testing.assert_close(explanation.probabilities, expected.flatten(2).float().mean(2))
    assert group.samples.labels == (1,) * N
    assert explanation.classes.tolist() == [1] * N
    nested = torch.full((SIZE, SIZE), -1).where(square >= 7, 1).where(square >= 5, 2).where(square >= 3, 0)
    assert torch.equal(group.samples.pixel_labels[0], nested)
    assert load_record(tmp_path)[-1].task == "multilabel_segmentation"
