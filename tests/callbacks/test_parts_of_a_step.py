"""Which modules of a step are explained: a head called outside, `forward` as a method, the network that is trained."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import NUM_CLASSES, L, data, first, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution
from lightning_saliency.evidence import Chain


def convolutions(width=12):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, width, 3, padding=1), nn.ReLU()
    )


def vectors(width=12):
    return nn.Sequential(convolutions(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Fits(L.LightningModule):
    """Trains by the cross-entropy of what `logits` returns for the images of a batch."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class LinearProbe(Fits):
    """A frozen body under `no_grad`, and a head, in `forward`, which the step calls as a method."""

    def __init__(self):
        super().__init__()
        self.model, self.classification_head = convolutions(), nn.Linear(12 * 64, NUM_CLASSES)

    def forward(self, images):
        with torch.no_grad():
            features = self.model(images).flatten(1)
        return self.classification_head(features)

    def logits(self, images):
        return self.forward(images)


class LogSoftmax(Fits):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 8, 3), nn.Linear(8 * 49, 16), nn.Linear(16, NUM_CLASSES)

    def forward(self, images):
        features = F.max_pool2d(F.relu(self.conv(images)), 2).flatten(1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(features))), 1)

    def training_step(self, batch, batch_idx):
        return F.nll_loss(self.forward(batch[0]), batch[1])


class AddsUp(LogSoftmax):
    """What `forward` returns is no module's output."""

    def forward(self, images):
        features = F.max_pool2d(F.relu(self.conv(images)), 2).flatten(1)
        return self.fc2(self.fc1(features)) + images.mean((2, 3))

    training_step = Fits.training_step

    def logits(self, images):
        return self.forward(images)


@pytest.mark.parametrize("module", [LinearProbe, LogSoftmax, AddsUp])
@pytest.mark.parametrize("fits", [True, False])
def test_forward_called_as_a_method_is_explained(tmp_path, module, fits):
    look = look_of(tmp_path, module(), fits=fits)
    assert isinstance(look.forward.model, module)
    check(look)


def test_a_log_softmax_at_the_end_is_no_randomness(tmp_path, recwarn):
    look_of(tmp_path, LogSoftmax())
    assert not [warning for warning in recwarn if "validation pass" in str(warning.message)]


class Outside(Fits):
    """A body and a head without `forward`."""

    def __init__(self, body=None, width=12):
        super().__init__()
        self.backbone, self.head = body or convolutions(), nn.Linear(width, NUM_CLASSES)

    def glue(self, features):
        return features.mean((2, 3))

    def logits(self, images):
        with torch.no_grad():
            features = self.backbone(images * 2)
        return self.head(self.glue(features))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)

    def forward(self, images):
        return {"pooled": images.mean((2, 3)), "tokens": [self.patches(images).flatten(2).transpose(1, 2)]}


class Encodes(Outside):
    """`forward` is the embedding, and the head comes after it."""

    def forward(self, images):
        return F.normalize(self.backbone(images * 2).mean((2, 3)), dim=1)

    def logits(self, images):
        return self.head(self.forward(images))


class CallsItself(Encodes):
    def logits(self, images):
        return self.head(self(images))


class Stepped(L.LightningModule):
    """A classifier whose steps another module's steps call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, NUM_CLASSES)

    def forward(self, features):
        return self.linear(features.detach())

    def step(self, features):
        return self.forward(features)


def outside(glue, body=None, width=12):
    def build():
        module = Outside(body() if body else None, width)
        module.glue = glue
        return module

    return build


def online():
    module = Outside()
    module.head = Stepped()
    module.logits = lambda images: module.head.step(module.backbone(images * 2).mean((2, 3)))
    return module


def keyword():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, NUM_CLASSES)

        def forward(self, *, features):
            return self.linear(features["maps"].mean((2, 3)))

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convolutions()

        def forward(self, images):
            return {"maps": self.body(images)}

    module = Outside(Maps())
    module.head = Head()
    module.logits = lambda images: module.head(features=module.backbone(images * 2))
    return module


def three():
    module = Outside(convolutions())
    module.neck = nn.Sequential(nn.Conv2d(12, 10, 1), nn.ReLU())
    module.head = nn.Linear(10, NUM_CLASSES)
    module.logits = lambda images: module.head(module.neck(module.backbone(images * 2)).mean((2, 3)))
    return module


def maps_to_logits():
    """The head's input has the form of images."""
    module = Outside(convolutions())
    module.head = nn.Sequential(nn.Conv2d(12, NUM_CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.glue = lambda features: features
    return module


CHAINS = {
    "pooled": (Outside, "backbone → head"),
    "itself": (outside(lambda features: features, vectors), "backbone → head"),
    "flattened": (outside(lambda features: features.flatten(1), width=12 * 64), "backbone → head"),
    "normalized": (outside(lambda features: F.normalize(features, dim=1), vectors), "backbone → head"),
    "mean token": (outside(lambda output: output["tokens"][0].mean(1), Tokens), "backbone → head"),
    "first token": (outside(lambda output: output["tokens"][0][:, 0], Tokens), "backbone → head"),
    "three": (three, "backbone → neck → head"),
    "maps": (maps_to_logits, "backbone → head"),
    "keyword": (keyword, "backbone → head"),
    "forward": (Encodes, "forward → head"),
    "called": (CallsItself, "forward → head"),
    "online": (online, "backbone → head.linear"),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("fits", [True, False])
def test_a_head_called_outside_is_explained_behind_what_it_follows(tmp_path, name, fits):
    build, stages = CHAINS[name]
    module = build()
    look = look_of(tmp_path, module, fits=fits)
    assert isinstance(look.forward.model, Chain)
    assert str(look.forward.model.stages) == stages
    check(look, scale=1 if "forward" in stages else 2)
    assert not any(isinstance(part, Chain) for part in module.modules())


def test_its_layers_have_the_names_that_they_have_in_the_module(tmp_path):
    look = look_of(tmp_path, Outside(), methods=["grad_cam"], layer="backbone.0")
    assert [layer.name for layer in look.explained[0].explanation.settings.layers] == ["backbone.0"]


def test_a_resumed_run_explains_the_same_chain(tmp_path):
    module = Outside()
    runner = trainer(
        tmp_path / "first", SaliencyCallback(samples=first(4), execution=Execution(on_error="raise")), max_epochs=1
    )
    runner.fit(module, loader(), loader())
    runner.save_checkpoint(tmp_path / "run.ckpt")
    keeps = Keeps()
    callback = SaliencyCallback(samples=first(4), outputs=[keeps], execution=Execution(on_error="raise", audit=True))
    options = {"max_epochs": 2, "num_sanity_val_steps": 0}
    trainer(tmp_path / "second", callback, **options).fit(
        Outside(), loader(), loader(), ckpt_path=tmp_path / "run.ckpt"
    )
    assert [str(look.forward.model.stages) for look in keeps.looks] == ["backbone → head"]
    check(keeps.looks[-1], recorded=False)


class TwoHeads(Outside):
    """Two heads of one body, each with labels of its own."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"row": nn.Linear(12, 2), "column": nn.Linear(12, NUM_CLASSES)})
        del self.head

    def training_step(self, batch, batch_idx):
        features = self.backbone(batch["image"] * 2).mean((2, 3))
        return sum(F.cross_entropy(head(features), batch["labels"][name]) for name, head in self.heads.items())


def two_labels(items):
    images, labels = torch.stack([image for image, _ in items]), torch.tensor([int(label) for _, label in items])
    return {"image": images, "labels": {"row": labels % 2, "column": labels}}


def test_of_several_heads_it_is_the_first_with_its_own_labels_and_that_is_said(tmp_path):
    look = look_of(tmp_path, TwoHeads(), batches=loader(collate_fn=two_labels))
    assert str(look.forward.model.stages) == "backbone → heads.row"
    assert look.explained[0].samples.labels == (0, 1, 0, 0)
    assert look.target == "true class of heads.row"


def test_of_two_heads_it_is_the_one_that_the_loss_reads(tmp_path):
    class Features(Outside):
        def logits(self, images):
            features = self.backbone(images * 2).mean((2, 3))
            self.values = self.other(features)
            return self.head(features)

        def __init__(self):
            super().__init__()
            self.other = nn.Linear(12, 2)

    look = look_of(tmp_path, Features())
    assert str(look.forward.model.stages) == "backbone → head"
    check(look)


class Distills(Fits):
    def __init__(self, frozen):
        super().__init__()
        self.teacher, self.student = (nn.Sequential(vectors(), nn.Linear(12, NUM_CLASSES)) for _ in range(2))
        self.teacher.requires_grad_(not frozen)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            soft = self.teacher(batch[0]).softmax(1)
        logits = self.student(batch[0])
        return F.cross_entropy(logits, batch[1]) + F.kl_div(logits.log_softmax(1), soft, reduction="batchmean")


@pytest.mark.parametrize("frozen", [True, False])
def test_of_a_teacher_and_a_student_it_is_the_one_that_learns(tmp_path, frozen):
    module = Distills(frozen)
    look = look_of(tmp_path, module)
    assert look.forward.model is module.student
    check(look)


class CoTraining(Distills):
    def training_step(self, batch, batch_idx):
        return sum(F.cross_entropy(net(batch[0]), batch[1]) for net in (self.teacher, self.student))


def test_of_two_that_learn_none_is_chosen_and_what_to_paste_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"teacher, student") as raised:
        look_of(tmp_path, CoTraining(frozen=False))
    assert "`SaliencyCallback(model='teacher')` or `SaliencyCallback(model='student')`" in str(raised.value)
    module = CoTraining(frozen=False)
    assert look_of(tmp_path / "named", module, model="student").forward.model is module.student


class Gan(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 3 * 256), nn.Unflatten(1, (3, 16, 16)))
        self.discriminator = nn.Sequential(vectors(), nn.Linear(12, 1))

    def losses(self, images):
        made = self.generator(torch.randn(len(images), 4))
        scores = self.discriminator(images), self.discriminator(made)
        return [F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean(), F.softplus(-scores[1]).mean()]

    def training_step(self, batch, batch_idx):
        for index, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(self.losses(batch[0])[1 - index])
            optimizer.step()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.losses(batch[0])[0])

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.01) for net in (self.generator, self.discriminator)]


def test_of_a_gan_it_is_the_network_that_takes_images(tmp_path):
    module = Gan()
    assert look_of(tmp_path, module).forward.model is module.discriminator


class Codes(L.LightningModule):
    """An autoencoder with a random code, and without `forward`: nothing of it has a class or a value."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.spread = vectors(), nn.Linear(12, 4), nn.Linear(12, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 3 * 256), nn.Unflatten(1, (3, 16, 16)))

    def training_step(self, batch, batch_idx):
        features = self.encoder(batch[0])
        code = torch.distributions.Normal(self.mean(features), self.spread(features).exp())
        prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
        made = self.decoder(code.rsample())
        return F.mse_loss(made, batch[0]) + torch.distributions.kl_divergence(code, prior).mean()

    validation_step = training_step
    configure_optimizers = Fits.configure_optimizers


def test_what_cannot_be_explained_is_named_with_its_shapes(tmp_path):
    with pytest.raises(ValueError, match="It calls encoder") as raised:
        look_of(tmp_path, Codes())
    assert "encoder (from images (8, 3, 16, 16) to (8, 12)); mean (from (8, 12) to (8, 4))" in str(raised.value)
    assert "`SaliencyCallback(model='encoder')`" in str(raised.value)


def look_of(folder, module, *, fits=True, methods=None, batches=None, **options):
    batches = batches or loader()
    keeps = Keeps()
    execution = Execution(on_error="raise", audit=True)
    options = {"samples": first(4), "history": False, **options}
    named = {} if methods is None else {"methods": methods}
    runner = trainer(folder, SaliencyCallback(**named, outputs=[keeps], execution=execution, **options), max_epochs=1)
    if fits:
        runner.fit(module, batches, batches)
    else:
        runner.validate(module, batches, verbose=False)
    return keeps.looks[-1 if fits else 0]


def check(look, scale=None, recorded=True):
    """The labels are the samples' own, the images those of the step, and the logits the module's."""
    (group,) = look.explained
    assert group.samples.labels == (0, 1, 2, 0)
    if scale is not None:
        torch.testing.assert_close(group.explanation.images, scale * data()[:4][0], rtol=1e-5, atol=1e-5)
    assert bool(group.explanation.attributions["saliency"].flatten(1).any(1).all())
    if recorded:
        chosen = look.forward.model
        with torch.no_grad():
            expected = chosen(group.explanation.images)
        shown = group.explanation.logits
        same = [torch.allclose(end, expected, atol=1e-4) for end in (shown, shown.log_softmax(1))]
        assert any(same)
