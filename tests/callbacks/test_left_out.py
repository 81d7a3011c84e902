"""Models on which some or all of the default methods cannot work: training goes on, and what works is shown."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from beside import fit_beside, texts
from tiny import NUM_CLASSES, L, TinyClassifier, data, events, loader, sheets, trainer
from torch import nn

from lightning_saliency import GradCAMCallback, SaliencyCallback, load_record
from lightning_saliency.callbacks import Execution, Metrics, Style

ALL = {f"saliency/{key}" for key in ("grad_cam", "grad_cam_plus_plus", "saliency", "Overview")}
EACH = Style(cards="all")


class Classifies(TinyClassifier):
    """Trains `net`, which turns images into logits."""

    def __init__(self):
        super().__init__()
        del self.backbone, self.head
        self.net = self.make()

    def forward(self, images):
        return self.net(images)


class MLP(Classifies):
    def make(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))


class Patches(nn.Module):
    """Cuts images into patches, for a transformer whose mean token is classified."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, images):
        return self.head(self.encoder(self.embed(images).flatten(2).mT).mean(1))


class Transformer(Classifies):
    def make(self):
        return Patches()


class Pooled(Classifies):
    """Pools its images before the only convolution, so that it has no map of its own but the pooled images."""

    def make(self):
        pool = nn.AvgPool2d(4)
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))


class Segments(Classifies):
    """Returns a class for each pixel."""

    def make(self):
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, NUM_CLASSES, 1))

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1][:, None, None].expand(-1, 16, 16))

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))


class Autoencodes(Segments):
    """Returns images."""

    def make(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def loss(self, batch):
        return F.mse_loss(self(batch[0]), batch[0])


class Contrasts(Segments):
    """Calls its backbone alone, and has no head."""

    def make(self):
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

    forward = None

    def loss(self, batch):
        return self.net(batch[0]).mean((2, 3)).square().mean()


del Contrasts.forward


def test_of_the_default_methods_those_that_work_are_shown(tmp_path):
    with pytest.warns(UserWarning, match="shows saliency alone") as caught:
        runner = fit_beside(tmp_path, MLP, SaliencyCallback(execution=Execution(audit=True)))
    (text,) = texts(caught, "shows saliency alone")
    assert "grad_cam: " in text
    assert "no map of more than one position" in text
    assert "`layer=...`" in text
    assert "`methods=['saliency']`" in text
    assert texts(caught, "could not show") == []
    assert sheets(tmp_path / "with") == {"saliency/saliency"}
    assert len(events(tmp_path / "with").Images("saliency/saliency")) == 4
    assert "xai_saliency/saliency/entropy" in runner.callback_metrics
    record = load_record(tmp_path / "with")
    assert record.epochs == [None, 0, 1, 2]
    assert list(record[-1].attributions) == ["saliency"]


@pytest.mark.parametrize("module", [Segments, Autoencodes, Contrasts])
def test_where_no_method_works_training_goes_on_and_one_line_says_why(tmp_path, module):
    with pytest.warns(UserWarning, match="could not show its pictures") as caught:
        fit_beside(tmp_path, module, SaliencyCallback(execution=Execution(audit=True)))
    (text,) = texts(caught, "SaliencyCallback")
    assert "\n" not in text
    assert sheets(tmp_path / "with") == set()


@pytest.mark.parametrize("samples", [[0, 20], 8])
def test_where_no_method_works_positions_in_the_stream_are_no_second_fault(tmp_path, samples):
    runner = trainer(tmp_path, SaliencyCallback(samples=samples), num_sanity_val_steps=-1)
    with pytest.warns(UserWarning, match="could not show its pictures") as caught:
        runner.fit(Segments(), loader(), loader())
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert runner.state.finished


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"methods": "grad_cam"},
            "`methods` to be such as work on this model, got grad_cam. ValueError.*no map of more than one",
        ),
        ({"methods": ["saliency", "grad_cam"]}, "such as work on this model, got saliency, grad_cam"),
        ({"layer": "net.1"}, r"'net\.1' to return a feature map, \(N, D, h, w\), .*got \(8, 16\)"),
        ({"layer": "net.7"}, r"`layer` to name a module of MLP, got 'net\.7'"),
        ({"target": 7}, "`target` to be below the model's 3 classes"),
    ],
)
def test_what_the_user_names_must_work(tmp_path, options, message):
    runner = trainer(tmp_path, SaliencyCallback(**options))
    with pytest.raises(ValueError, match=message):
        runner.fit(MLP(), loader(), loader())
    assert runner.global_step == 0


@pytest.mark.parametrize("options", [{}, {"layer": "net.embed"}])
def test_a_transformer_is_shown_by_its_attentions(tmp_path, recwarn, options):
    runner = fit_beside(
        tmp_path,
        Transformer,
        SaliencyCallback(style=EACH, metrics=Metrics("all"), execution=Execution(audit=True), **options),
    )
    assert texts(recwarn, "SaliencyCallback") == []
    keys = ("attention_relevance", "grad_cam", "saliency")
    assert sheets(tmp_path / "with") == {f"saliency/{key}" for key in (*keys, "Overview")}
    assert 0 <= runner.callback_metrics["xai_saliency/attention_relevance/prefix_relevance"] <= 1
    record = load_record(tmp_path / "with")
    assert record.epochs == [None, 0, 1, 2]
    assert [maps[0].shape for maps in record[-1].attributions.values()] == [(4, 4), (4, 4), (16, 16)]


def test_a_layer_that_all_methods_can_read_brings_them_back(tmp_path):
    with pytest.warns(UserWarning, match="shows saliency alone"):
        trainer(tmp_path / "none", SaliencyCallback(), max_epochs=1).fit(Pooled(), loader(), loader())
    trainer(tmp_path / "one", SaliencyCallback(layer="net.0", style=EACH), max_epochs=1).fit(
        Pooled(), loader(), loader()
    )
    assert sheets(tmp_path / "one") >= {"saliency/grad_cam", "saliency/saliency"}


FORWARDS = []


class Counts(MLP):
    """Notes the forwards that are not the steps' own."""

    def forward(self, images):
        if len(images) != 8:
            FORWARDS.append(len(images))
        return super().forward(images)


def test_the_methods_are_chosen_once_for_the_run(tmp_path):
    counts = []

    class Notes(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if not counts:  # after the look at the initial network
                counts.append(len(FORWARDS))

        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                counts.append(len(FORWARDS))

    FORWARDS.clear()
    ours = SaliencyCallback(samples=5, metrics=False)
    with pytest.warns(UserWarning, match="shows saliency alone"):
        trainer(tmp_path, ours, Notes(), max_epochs=3).fit(Counts(), loader(), loader())
    first, *rest = (after - before for before, after in pairwise([0, *counts]))
    assert len(set(rest)) == 1
    assert first > rest[0] > 0


class Ripens(TinyClassifier):
    """Cannot be explained before it is trained."""

    def forward(self, images):
        if len(images) in (1, 5) and not self.trainer.global_step:
            raise RuntimeError("not ready")
        return super().forward(images)


def test_a_model_that_can_be_explained_later_is_shown_from_then_on(tmp_path):
    with pytest.warns(UserWarning, match="RuntimeError: not ready") as caught:
        fit_beside(tmp_path, Ripens, SaliencyCallback(samples=5, style=EACH))
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert sheets(tmp_path / "with") == ALL
    assert load_record(tmp_path / "with").epochs == [0, 1, 2]


class FailsOnce(TinyClassifier):
    """Fails in the second epoch, whatever the method."""

    def forward(self, images):
        if len(images) in (1, 5) and self.trainer.global_step == 6:
            raise RuntimeError("only now")
        return super().forward(images)


def test_a_fault_after_a_look_that_went_well_leaves_no_method_out(tmp_path):
    with pytest.warns(UserWarning, match="RuntimeError: only now") as caught:
        fit_beside(tmp_path, FailsOnce, SaliencyCallback(samples=5, style=EACH))
    assert len(texts(caught, "SaliencyCallback")) == 1
    assert sheets(tmp_path / "with") == ALL
    assert load_record(tmp_path / "with").epochs == [None, 0, 2]


class TakesOne(TinyClassifier):
    """Has no memory for more than one image, and none at all for some."""

    def forward(self, images):
        if len(images) in (2, 5):
            torch.empty(2**50)
        return super().forward(images)


def test_too_little_memory_leaves_no_method_out(tmp_path):
    fit_beside(tmp_path, TakesOne, SaliencyCallback(samples=5, style=EACH))
    assert sheets(tmp_path / "with") == ALL


def test_the_choice_is_in_the_checkpoint(tmp_path):
    half = trainer(tmp_path, SaliencyCallback(samples=5), max_epochs=1)
    with pytest.warns(UserWarning, match="shows saliency alone"):
        half.fit(Counts(), loader(), loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest = trainer(tmp_path, SaliencyCallback(samples=5, metrics=False), max_epochs=2)
    FORWARDS.clear()
    with pytest.warns(UserWarning, match="shows saliency alone"):
        rest.fit(Counts(), loader(), loader(), ckpt_path=str(tmp_path / "half.ckpt"))
    assert FORWARDS == [5, 5]  # two looks, one in sanity checking, and no search
    assert load_record(tmp_path).epochs == [None, 0, 1]


def test_a_callback_whose_class_names_its_methods_is_refused_where_they_cannot_work(tmp_path):
    runner = trainer(tmp_path, GradCAMCallback())
    with pytest.raises(ValueError, match="got grad_cam"):
        runner.fit(MLP(), loader(data()), loader())
    assert runner.global_step == 0
