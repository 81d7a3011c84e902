"""Outputs that are values and could be taken for classes: single scores, anomaly detectors, ranks, images."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from own_modules import CLASSES, IMAGES, SIZE, Module, N, answer, features, fitted, pooled
from tiny import first, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, explain, load_record
from lightning_saliency.evidence import Forward
from lightning_saliency.visualization import Style, draw_sheets

METHODS = {"methods": ["saliency", "grad_cam"]}
ABNORMAL = (CLASSES == 1).long()


class Detector(Module):
    """An anomaly detector: a distance at each place, and the largest of an image; its loss reads the features."""

    outputs = 4

    def __init__(self, end=torch.clone):
        super().__init__()
        self.net, self.end = features(), end
        self.register_buffer("normal", torch.rand(8, 1, 1))

    def forward(self, images):
        distances = (self.net(images) - self.normal).square().sum(1, keepdim=True)
        found = F.interpolate(distances, size=(SIZE, SIZE), mode="bilinear")
        return {"anomaly_map": found, "pred_score": self.end(found.amax((1, 2, 3))), "pred_label": found.amax() > 1}

    def loss(self, output, labels):
        return output["anomaly_map"].mean()  # that of normal images is small


class Fitted(Detector):
    """A detector that is fitted, not trained: its loss is a constant."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        return torch.tensor(0.0, requires_grad=True)


class Energy(Module):
    """An energy-based model: one number for each image, which its loss makes small, or large."""

    outputs = 1

    def forward(self, images):
        return self.net(images)[:, 0]

    def loss(self, output, labels):
        fake = self(torch.rand_like(IMAGES[: len(output)]))
        return output.mean() - fake.mean() + 0.1 * (output**2 + fake**2).mean()


class Hinge(Module):
    outputs = 1

    def loss(self, output, labels):
        return F.relu(1 - output[:, 0] * (2 * labels - 1)).mean()

    def validation_step(self, batch, batch_idx):
        self(batch[0])


class Adversarial(Module):
    """A generator whose reconstruction is to deceive a discriminator; returned is its error."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))
        self.discriminator = pooled(outputs=1)

    def forward(self, images):
        return (self.net(images) - images).square().mean((1, 2, 3))

    def training_step(self, batch, batch_idx):
        found = self.net(batch[0])
        deceived = F.binary_cross_entropy_with_logits(self.discriminator(found)[:, 0], torch.ones(len(found)))
        return deceived + F.l1_loss(found, batch[0])

    def loss(self, output, labels):
        return output.mean()


class Assisted(Module):
    """A binary classifier that reconstructs its images too."""

    def __init__(self):
        super().__init__()
        self.net, self.head = features(), nn.Linear(8, 1)
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, images):
        found = self.net(images)
        return self.head(found.mean((2, 3))), self.decoder(found)

    def training_step(self, batch, batch_idx):
        logits, images = self(batch[0])
        return self.loss((logits,), batch[1]) + F.mse_loss(images, batch[0])

    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output[0][:, 0], labels.float())


class Ranks(Module):
    """CORAL: four logits of exceeding the ranks 0 to 3 of five."""

    outputs = 4

    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output, (labels[:, None] > torch.arange(4)).float())


class SharedRanks(Ranks):
    """CORAL as it is published: one score and four biases, and the loss by hand."""

    def __init__(self):
        super().__init__()
        self.net, self.biases = pooled(outputs=1), nn.Parameter(torch.tensor([0.3, 0.1, -0.1, -0.3]))

    def forward(self, images):
        return self.net(images) + self.biases

    def loss(self, output, labels):
        levels = (labels[:, None] > torch.arange(4)).float()
        log_probabilities = F.logsigmoid(output)
        return -(log_probabilities * levels + (log_probabilities - output) * (1 - levels)).sum(1).mean()


class OneVersusRest(Ranks):
    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output, F.one_hot(labels, 4).float())


class Background(Ranks):
    """One-versus-rest where the label 0 is none of the four classes."""

    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output, (labels[:, None] == torch.arange(1, 5)).float())


class Autoencoder(Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), batch[0])

    def loss(self, output, labels):
        return output.mean()


class Patches(Autoencoder):
    """A masked autoencoder: of each patch its pixels."""

    def forward(self, images):
        return F.unfold(self.net(images), 4, stride=4).mT  # (N, 16, 48)

    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), F.unfold(batch[0], 4, stride=4).mT)


class Enlarged(Module):
    """Super-resolution: the last layer has the pixels as channels, which are shuffled into place."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Conv2d(8, 3 * 16, 1), nn.PixelShuffle(4))

    def loss(self, output, labels):
        return F.mse_loss(output, F.interpolate(labels, scale_factor=2))


class LogSoftmax(Module):
    def forward(self, images):
        return self.net(images).log_softmax(1)

    def loss(self, output, labels):
        return F.nll_loss(output, labels)


class Foreground(Module):
    """A segmentation of one class, which few pixels have."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(features(), nn.Conv2d(8, 1, 1), nn.Upsample(scale_factor=2))
        self.net[1].bias.data.fill_(-0.4)

    def loss(self, output, labels):
        return F.binary_cross_entropy_with_logits(output[:, 0], labels.float())


def validated(tmp_path, module, labels=None):
    """Validate without a training, and return the explanation."""
    keeps = Keeps()
    dataset = TensorDataset(IMAGES) if labels is None else TensorDataset(IMAGES, labels)
    runner = trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=first(4)))
    runner.validate(module, loader(dataset, batch_size=4), verbose=False)
    return keeps.looks[-1].explained[0].explanation


@pytest.mark.parametrize("kind", [Detector, Fitted])
def test_the_score_of_an_anomaly_detector_is_a_value_and_its_map_stands_beside_ours(tmp_path, kind):
    module = kind()
    look = fitted(tmp_path, module, ABNORMAL)
    explanation, own = look.explained[0].explanation, answer(module)
    assert explanation.task.name == "regression"
    torch.testing.assert_close(torch.tensor(explanation.answers)[:, 0], own["pred_score"])
    torch.testing.assert_close(explanation.value_maps, own["anomaly_map"])
    assert [sample.truth for sample in look.samples.samples] == [(0.0,), (1.0,), (0.0,), (0.0,)]
    assert look.target == "value"
    recorded = load_record(tmp_path)[-1]
    assert (recorded.task, recorded.probabilities) == ("regression", (None,) * 4)


def test_without_a_loss_too_a_value_beside_a_map_is_no_class(tmp_path):
    explanation = validated(tmp_path, Detector(), ABNORMAL)
    assert explanation.task.name == "regression"
    assert explanation.value_maps is not None


def test_a_score_and_a_mask_that_the_loss_reads_are_a_class_and_its_pixels(tmp_path):
    class Both(Detector):
        def loss(self, output, labels):
            return F.binary_cross_entropy_with_logits(output["pred_score"], labels.float())

        def forward(self, images):
            found = self.net(images)
            return {"mask": F.interpolate(found[:, :1], size=SIZE), "pred_score": self.head(found.mean((2, 3)))[:, 0]}

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 1)

    explanation = fitted(tmp_path, Both(), ABNORMAL).explained[0].explanation
    assert explanation.task.name == "multiclass"
    assert explanation.value_maps is None


def test_the_sheet_has_a_column_of_the_models_own_map(tmp_path):
    plain, with_map = Energy(), Detector()
    sizes = []
    for index, module in enumerate((plain, with_map)):
        keeps = Pictures()
        runner = trainer(
            tmp_path / str(index), SaliencyCallback(["saliency"], outputs=[keeps], samples=first(1)), max_epochs=1
        )
        dataset = TensorDataset(IMAGES, ABNORMAL)
        runner.fit(module, loader(dataset, batch_size=4), loader(dataset, batch_size=4))
        sizes.append(keeps.sheet.shape[2])
    assert sizes[1] > 1.1 * sizes[0]


class Pictures(Keeps):
    def __call__(self, look):
        self.sheet = draw_sheets(look.explained, Style(), title="", explained=look.target)["saliency"]
        return super().__call__(look)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda score: (score - 1e4).clamp(0, 1), "is zero before its `clamp`"),
        (torch.round, "is zero before its `round`"),
        (lambda score: (score - score).sqrt(), "is not finite before its `sqrt`"),
    ],
)
def test_where_no_sample_has_a_map_the_operation_is_named_that_takes_the_gradient(tmp_path, end, words):
    with pytest.warns(UserWarning, match=words):
        look = fitted(tmp_path, Detector(end), ABNORMAL, **METHODS)
    reasons = look.explained[0].heatmaps("max")["saliency"].reasons
    assert set(reasons) <= {"constant 0", "not finite"}


class ZeroHead(Module):
    """A new head that is zero at first, as those of torchvision's vision transformers."""

    def __init__(self, last):
        super().__init__()
        nn.init.zeros_(self.net[-1].weight)
        self.last = last

    def forward(self, images):
        return self.last(self.net(images))


def test_a_head_that_is_zero_before_the_training_is_no_matter_of_what_is_explained(tmp_path):
    with pytest.warns(UserWarning, match="4 of 4 samples have no map, since `net.7.weight` is zero everywhere") as told:
        look = fitted(tmp_path, ZeroHead(torch.clone), CLASSES, **METHODS)
    assert not any("Execution(output_fn=...)" in str(warning.message) for warning in told)
    assert set(look.explained[0].heatmaps("max")["saliency"].reasons) == {None}


def test_after_a_head_that_is_zero_an_operation_that_takes_the_gradient_is_named(tmp_path):
    class Rounded(ZeroHead):
        def loss(self, output, labels):
            return F.cross_entropy(self.net(IMAGES[: len(labels)]), labels)

    with pytest.warns(UserWarning, match="is zero before its `round`"):
        fitted(tmp_path, Rounded(torch.round), CLASSES, **METHODS)


def test_an_energy_is_a_value_and_no_embedding(tmp_path):
    module = Energy()
    explanation = fitted(tmp_path, module, CLASSES).explained[0].explanation
    torch.testing.assert_close(torch.tensor(explanation.answers)[:, 0], answer(module))
    torch.testing.assert_close(explanation.scores, explanation.logits[:, 0])


@pytest.mark.parametrize("labels", [ABNORMAL, CLASSES])
def test_the_error_of_a_generator_is_a_value_though_its_discriminator_has_logits(tmp_path, labels):
    module = Adversarial()
    look = fitted(tmp_path, module, labels)
    assert look.explained[0].explanation.task.name == "regression"
    torch.testing.assert_close(torch.tensor(look.explained[0].explanation.answers)[:, 0], answer(module))


def test_of_a_loss_of_several_parts_the_logit_is_a_class(tmp_path):
    module = Assisted()
    explanation = fitted(tmp_path, module, ABNORMAL).explained[0].explanation
    assert explanation.task.name == "multiclass"
    torch.testing.assert_close(explanation.logits, answer(module)[0])


@pytest.mark.parametrize("kind", [Hinge])
def test_a_score_of_which_the_loss_tells_nothing_is_a_class_by_labels_of_0_and_1(tmp_path, kind):
    explanation = fitted(tmp_path, kind(), ABNORMAL).explained[0].explanation
    assert explanation.task.name == "multiclass"


def test_without_a_loss_labels_of_0_and_1_make_a_single_score_a_class(tmp_path):
    assert validated(tmp_path, Hinge(), ABNORMAL).task.name == "multiclass"
    assert validated(tmp_path, Hinge()).task.name == "regression"
    assert validated(tmp_path, Hinge(), CLASSES).task.name == "regression"


def test_of_the_form_alone_a_single_score_is_binary_and_one_beside_a_map_is_a_value():
    assert explain(pooled(outputs=1), IMAGES).task.name == "multiclass"
    explanation = explain(Detector(), IMAGES, methods="saliency")
    assert explanation.task.name == "regression"
    assert explanation.value_maps.shape == (N, 1, SIZE, SIZE)
    assert explanation[2:3].value_maps.shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize("kind", [Ranks, SharedRanks])
@pytest.mark.parametrize("labels", [torch.arange(N) % 5, torch.tensor([4, 0, 2, 3, 1, 2, 0, 4])])
def test_ranks_are_told_from_sets_of_classes_by_the_levels_in_the_loss(tmp_path, kind, labels):
    module = kind()
    explanation = (look := fitted(tmp_path, module, labels)).explained[0].explanation
    own = answer(module)
    assert explanation.task.name == "ordinal"
    assert explanation.answers == (own > 0).sum(1).tolist()
    assert [sample.label for sample in look.samples.samples] == labels[:4].tolist()
    assert look.target == "reaching the true class"
    for row, rank in enumerate(labels[:4].tolist()):
        expected = own[row, rank - 1] if rank else -own[row, 0]
        torch.testing.assert_close(explanation.scores[row], expected)
    recorded = load_record(tmp_path)
    assert recorded[-1].task == "ordinal"
    assert recorded[-1].predictions == tuple(explanation.answers)
    assert recorded.samples.labels == tuple(labels[:4].tolist())


def test_classes_each_against_the_rest_are_no_ranks(tmp_path):
    labels = torch.tensor([3, 0, 2, 1, 1, 2, 0, 3])
    assert fitted(tmp_path, OneVersusRest(), labels).explained[0].explanation.task.name == "multilabel"
    labels = torch.tensor([4, 0, 2, 1, 1, 2, 3, 4])
    assert fitted(tmp_path / "b", Background(), labels).explained[0].explanation.task.name == "multilabel"


@pytest.mark.parametrize("kind", [Patches, Autoencoder])
def test_a_reconstruction_is_no_list_of_values(tmp_path, kind):
    with pytest.warns(UserWarning, match="of the images themselves|as many values as the images"):
        assert fitted(tmp_path, kind(), CLASSES) is None


def test_what_is_reshaped_behind_the_last_layer_is_what_the_loss_reads(tmp_path):
    module = Enlarged()
    explanation = fitted(tmp_path, module, IMAGES).explained[0].explanation
    assert explanation.task.name == "regression"
    torch.testing.assert_close(torch.tensor(explanation.answers), answer(module).mean((2, 3)))


def test_the_logarithm_of_a_softmax_agrees_with_what_goes_into_it(tmp_path, recwarn):
    fitted(tmp_path, LogSoftmax(), CLASSES)
    assert not [warning for warning in recwarn if "are not those of the validation pass" in str(warning.message)]


def test_the_probability_is_that_of_what_is_predicted(tmp_path):
    module, masks = Foreground(), torch.zeros(N, SIZE, SIZE, dtype=torch.long)
    masks[:, :4, :4] = 1
    explanation = fitted(tmp_path, module, masks).explained[0].explanation
    share = (answer(module)[:, 0] > 0).float().mean((1, 2))
    assert share.max() < 0.5  # so that the rest is the larger one
    torch.testing.assert_close(torch.tensor(explanation.confidences), share)
    assert load_record(tmp_path)[-1].probabilities == pytest.approx(share.tolist())


def test_maps_of_a_segmentation_are_those_of_the_sum_over_a_classs_pixels(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(features(), nn.Conv2d(8, 3, 1), nn.Upsample(scale_factor=2)).double()
    images = IMAGES[:2].double()
    explanation = explain(net, images, layer="0.3", task="segmentation", target=1, **METHODS)
    assert (net(images).argmax(1) == 1).flatten(1).any(1).all()

    def summed(output):
        return (output[:, 1] * (output.argmax(1) == 1)).sum((1, 2))[:, None]

    other = explain(Forward(net, output_fn=summed), images, layer="0.3", task="regression", **METHODS)
    for key, heatmap in explanation.heatmaps().items():
        torch.testing.assert_close(heatmap, other.heatmaps()[key], rtol=1e-4, atol=1e-5)
