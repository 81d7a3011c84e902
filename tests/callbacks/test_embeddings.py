"""Embeddings in training: explained by their similarity to themselves, with no settings, and never read as classes."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, loader, sheets, trainer
from torch import nn

from lightning_saliency import CAMCallback, SaliencyCallback, load_record
from lightning_saliency.callbacks import Execution, Metrics
from lightning_saliency.visualization.captions import Names, prediction_captions

N, SIZE, D, K = 8, 16, 12, 5
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, OTHERS = (torch.randn(N, 3, SIZE, SIZE, generator=GENERATOR) for _ in range(2))


class Views(torch.utils.data.Dataset):
    """Two views of each image, and its class."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return IMAGES[index], OTHERS[index], index % K


def nt_xent(first, second):
    every = F.normalize(torch.cat([first, second]))
    similarity = (every @ every.T / 0.5).masked_fill(torch.eye(len(every), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(every)).roll(len(first)))


class SimCLR(L.LightningModule):
    """A module of one's own: how its `forward` ends, and its loss, are what differ."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, D)
        )  # fmt: skip

    def forward(self, images):
        return self.net(images)

    def loss(self, first, second, labels):
        return nt_xent(self(first), self(second))

    def training_step(self, batch, batch_idx):
        return self.loss(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(*batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Normalized(SimCLR):
    def forward(self, images):
        return F.normalize(self.net(images))


class Divided(SimCLR):
    def forward(self, images):
        found = self.net(images)
        return found / found.norm(dim=1, keepdim=True)


class Triplets(SimCLR):
    def loss(self, first, second, labels):
        return F.triplet_margin_loss(self(first), self(second), self(second.flip(0)))


class BYOL(SimCLR):
    """A predictor and a copy of the network whose embeddings carry no gradient; the step calls the network."""

    def __init__(self):
        super().__init__()
        self.predictor = nn.Linear(D, D)

    def loss(self, first, second, labels):
        with torch.no_grad():
            fixed = self(second)
        return -F.cosine_similarity(self.predictor(self(first)), fixed).mean()


class ArcFace(Normalized):
    """The classes' weights are a part of the loss: `forward` ends in the embedding."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(K, D))

    def loss(self, first, second, labels):
        cosine = self(first) @ F.normalize(self.weight).T
        return F.cross_entropy(16 * (cosine - 0.2 * F.one_hot(labels, K)), labels)


class Projected(SimCLR):
    """Returns the projection that is compared, and what it is made of."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(D, 6)

    def forward(self, images):
        found = self.net(images)
        return {"projection": self.projection(found), "features": found}

    def loss(self, first, second, labels):
        return nt_xent(self(first)["projection"], self(second)["projection"])


class Towers(SimCLR):
    """Images and texts: the similarities of a batch, and the embeddings of both."""

    def __init__(self):
        super().__init__()
        self.texts = nn.Embedding(K, D)

    def forward(self, images, labels):
        image_embeds, text_embeds = F.normalize(self.net(images)), F.normalize(self.texts(labels))
        similarities = image_embeds @ text_embeds.T
        return {"logits_per_image": similarities, "text_embeds": text_embeds, "image_embeds": image_embeds}

    def loss(self, first, second, labels):
        return F.cross_entropy(self(first, labels)["logits_per_image"], torch.arange(len(first)))


class Siamese(SimCLR):
    """Called with two images at once, of which each has an embedding."""

    def forward(self, first, second):
        return self.net(first), self.net(second)

    def loss(self, first, second, labels):
        return F.triplet_margin_loss(*self(first, second), self.net(second.flip(0)))


def fitted(tmp_path, module, callback=SaliencyCallback, **options):
    """Train for two epochs with the callback, and return its last look."""
    keeps = Keeps()
    runner = trainer(tmp_path, callback(outputs=[keeps], samples=4, **options), max_epochs=2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner.fit(module, loader(Views(), batch_size=4), loader(Views(), batch_size=4))
    ours = [str(warning.message) for warning in said if "SaliencyCallback" in str(warning.message)]
    return (keeps.looks[-1] if keeps.looks else None), ours, runner


def embed(module, images=IMAGES[:4]):
    with torch.no_grad():
        return module.eval()(images)


def test_an_embedding_is_explained_by_its_similarity_to_itself_and_not_a_word_is_said(tmp_path):
    module = SimCLR()
    look, said, runner = fitted(tmp_path, module)
    explanation = look.explained[0].explanation
    assert said == []
    assert explanation.task.name == "embedding"
    torch.testing.assert_close(explanation.logits, embed(module))
    torch.testing.assert_close(explanation.scores, embed(module).square().sum(1))
    assert all(reason is None for maps in look.explained[0].heatmaps("max").values() for reason in maps.reasons)
    scalars = {name for name in runner.callback_metrics if name.startswith("xai_saliency/")}
    assert {"xai_saliency/grad_cam/entropy", "xai_saliency/grad_cam/rank_correlation_initial"} <= scalars


def test_the_record_and_the_captions_of_an_embedding_have_no_class_and_no_percentage(tmp_path):
    look, _, _ = fitted(tmp_path, SimCLR())
    record = load_record(tmp_path)
    recorded, none = record[-1], (None,) * 4
    assert (recorded.task, recorded.explained) == ("embedding", "similarity to itself")
    assert (recorded.predictions, recorded.probabilities, recorded.classes) == (none, none, none)
    assert record.samples.labels == none
    assert look.target == "similarity to itself"
    truths = [sample.truth for sample in look.samples.samples]
    captions = prediction_captions(look.explained[0].explanation, truths, Names())
    assert [(caption.text, caption.correct) for caption in captions] == [("embedding of 12", None)] * 4


@pytest.mark.parametrize("kind", [Triplets, BYOL])
def test_what_a_loss_compares_is_shown_as_an_embedding(tmp_path, kind):
    look, said, _ = fitted(tmp_path, kind())
    assert said == []
    assert (look.explained[0].explanation.task.name, look.target) == ("embedding", "similarity to itself")


@pytest.mark.parametrize("kind", [Normalized, Divided])
def test_a_normalized_embedding_is_explained_by_what_goes_into_its_normalization(tmp_path, kind):
    module = kind()
    look, said, _ = fitted(tmp_path, module)
    explanation = look.explained[0].explanation
    assert said == []
    torch.testing.assert_close(explanation.logits.norm(dim=1), torch.ones(4))  # the embedding is the model's own
    torch.testing.assert_close(explanation.scores, embed(module.net).square().sum(1))
    assert all(reason is None for maps in look.explained[0].heatmaps("max").values() for reason in maps.reasons)


def test_an_embedding_whose_classes_are_in_the_loss_is_no_classes_and_a_warning_says_what_the_loss_reads(tmp_path):
    module = ArcFace()
    look, said, _ = fitted(tmp_path, module)
    explanation = look.explained[0].explanation
    assert explanation.task.name == "embedding"
    torch.testing.assert_close(explanation.logits, embed(module))
    assert [sample.label for sample in look.samples.samples] == [None] * 4
    assert len(said) == 1
    assert "shows an embedding, no classes" in said[0]
    assert r"reads, of shape (N, 5), got output (4, 12)" in said[0]


def test_of_given_images_too_such_an_embedding_is_shown(tmp_path):
    class Unvalidated(ArcFace):
        validation_step = L.LightningModule.validation_step

    module = Unvalidated()
    keeps = Keeps()
    runner = trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=IMAGES[:4]), max_epochs=1)
    with pytest.warns(UserWarning, match="shows an embedding, no classes"):
        runner.fit(module, loader(Views(), batch_size=4))
    torch.testing.assert_close(keeps.looks[-1].explained[0].explanation.logits, embed(module))


class Encoder(SimCLR):
    """What the loss reads is made by another submodule, so that what the first one returns is only a step to it."""

    forward = L.LightningModule.forward

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(D, K)

    def loss(self, first, second, labels):
        return F.cross_entropy(self.head(self.net(first)), labels)


def test_the_features_of_a_classifier_are_not_shown_as_its_embedding(tmp_path):
    look, _, _ = fitted(tmp_path, Encoder())
    assert look is None or look.explained[0].explanation.task.name == "multiclass"


def test_of_several_tensors_the_embedding_is_explained_that_the_loss_compares(tmp_path):
    module = Projected()
    explanation = fitted(tmp_path, module)[0].explained[0].explanation
    torch.testing.assert_close(explanation.logits, embed(module)["projection"])


def test_of_images_and_texts_the_embedding_of_the_image_is_explained(tmp_path):
    module = Towers()
    look, said, _ = fitted(tmp_path, module)
    explanation = look.explained[0].explanation
    assert said == []
    torch.testing.assert_close(explanation.logits, F.normalize(embed(module.net)))
    torch.testing.assert_close(explanation.scores, embed(module.net).square().sum(1))


def test_of_two_images_the_embedding_of_the_first_is_explained(tmp_path):
    module = Siamese()
    look, said, _ = fitted(tmp_path, module, methods="saliency")  # the layers run twice in a call
    assert said == []
    torch.testing.assert_close(look.explained[0].explanation.logits, embed(module.net))


def test_another_one_is_chosen_by_its_key(tmp_path):
    module = Projected()
    execution = Execution(output_fn="features", task="embedding")
    explanation = fitted(tmp_path, module, execution=execution)[0].explained[0].explanation
    torch.testing.assert_close(explanation.logits, embed(module)["features"])


@pytest.mark.parametrize("kind", [SimCLR, Normalized])
def test_the_similarity_to_a_reference_is_that_of_the_embeddings_as_they_are_returned(tmp_path, kind):
    module, reference = kind(), torch.arange(D) / D
    look, said, _ = fitted(tmp_path, module, target=lambda embeddings: embeddings @ reference)
    explanation = look.explained[0].explanation
    assert (said, look.target) == ([], "chosen target")
    torch.testing.assert_close(explanation.scores, embed(module) @ reference)


def test_a_class_of_an_embedding_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"`target` to be no class for the model's embeddings .*, which have none"):
        fitted(tmp_path, SimCLR(), target=3)


def test_metrics_of_classes_are_left_out_without_a_word_and_a_random_head_is_compared(tmp_path):
    metrics = Metrics("all", faithfulness=True, randomization_every_n_epochs=1)
    _, said, runner = fitted(tmp_path, SimCLR(), methods="grad_cam", metrics=metrics)
    assert not [text for text in said if "random" not in text]
    for compared in ("random_head", "previous"):
        assert -1 <= runner.callback_metrics[f"xai_saliency/grad_cam/rank_correlation_{compared}"] <= 1


def test_cam_of_an_embedding_shows_no_maps_of_classes(tmp_path):
    module = SimCLR()
    look, said, _ = fitted(tmp_path, module, CAMCallback)
    explanation = look.explained[0].explanation
    assert said == []
    weights = explanation.logits @ module.net[-1].weight.detach()
    maps = torch.einsum("nd,ndhw->nhw", weights, module.net[:2](IMAGES[:4]).detach())[:, None]
    torch.testing.assert_close(explanation.attributions["cam"], maps)
    assert "saliency/cam" in sheets(tmp_path)
    assert not [tag for tag in sheets(tmp_path) if "class_maps" in tag]
