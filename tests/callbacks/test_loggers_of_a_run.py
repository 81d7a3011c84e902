"""Which loggers a run has: each gets the pictures in the way it can, and without any nothing breaks."""

import numpy as np
import pytest
import torch
from looking import Keeps
from PIL import Image
from tiny import CSVLogger, L, Logger, TensorBoardLogger, TinyClassifier, data, events, loader, picture, trainer

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import Execution


class TakesImages(Logger):
    """A logger of the kind that has `log_image`, as Weights & Biases has."""

    def __init__(self):
        super().__init__()
        self.seen = []

    name, version = "takes", 0

    def log_image(self, key, images, step=None):
        self.seen.append((key, [image.size for image in images], step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_each_logger_gets_the_pictures_in_the_way_it_can(tmp_path):
    takes = TakesImages()
    loggers = [TensorBoardLogger(tmp_path / "tb", name="", version=""), CSVLogger(tmp_path / "csv"), takes]
    trainer(tmp_path, GradCAMCallback(samples=2), logger=loggers).fit(TinyClassifier(), loader(), loader())
    sheets = [picture(event) for event in events(tmp_path / "tb").Images("saliency/grad_cam")]
    files = sorted((tmp_path / "csv").glob("**/saliency/grad_cam/*.png"))
    assert [file.name for file in files] == ["step=0000000.png", "step=0000002.png", "step=0000005.png"]
    assert all(str(file).startswith(loggers[1].log_dir) for file in files)
    for sheet, file in zip(sheets, files, strict=True):
        with Image.open(file) as image:
            assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), sheet)
    drawn = [(key, step) for key, _, step in takes.seen if key == "saliency/grad_cam"]
    assert drawn == [("saliency/grad_cam", step) for step in (0, 2, 5)]


def test_no_logger_is_one_warning_and_training_goes_on(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(), logger=False)
    with pytest.warns(UserWarning, match="no logger to write pictures to") as caught:
        runner.fit(TinyClassifier(), loader(), loader())
    assert sum("no logger" in str(warning.message) for warning in caught) == 1
    assert runner.global_step == 6


def test_fast_dev_run_goes_through(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(execution=Execution(on_error="raise")), fast_dev_run=True, logger=True)
    runner.fit(TinyClassifier(), loader(), loader())
    assert runner.state.finished


@pytest.mark.filterwarnings("default:You defined a `validation_step`")
@pytest.mark.parametrize("has_loader", [False, True])
def test_a_run_without_validation_is_told_so(tmp_path, has_loader):
    options = {"limit_val_batches": 0} if has_loader else {}
    runner = trainer(tmp_path, SaliencyCallback(), max_epochs=1, **options)
    with pytest.warns(UserWarning, match="this run will have none"):
        runner.fit(TinyClassifier(), loader(), loader() if has_loader else None)


def test_of_callbacks_that_share_a_name_each_has_its_pictures(tmp_path):
    callbacks = [CAMCallback(samples=2, history=False), GradCAMCallback(samples=3, history=False)]
    trainer(tmp_path, *callbacks, max_epochs=1).fit(TinyClassifier(), loader(), loader())
    tags = set(events(tmp_path).Tags()["images"])
    assert tags == {"saliency/cam", "saliency/class_maps", "saliency/grad_cam"}


def test_two_callbacks_that_would_share_a_tag_are_refused(tmp_path):
    callbacks = [GradCAMCallback(layer="backbone.0"), GradCAMCallback(samples=2)]
    with pytest.raises(ValueError, match=r"'saliency/grad_cam' twice.*`name=...`"):
        trainer(tmp_path, *callbacks).fit(TinyClassifier(), loader(), loader())


def test_the_initial_network_is_looked_at_but_not_logged_where_it_is_not_to_be(tmp_path):
    keeps = Keeps()
    callback = GradCAMCallback(outputs=[keeps], history=False, execution=Execution(log_initial=False))
    trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(data(8)))
    assert [(look.title, look.is_logged) for look in keeps.looks] == [
        ("before training", False),
        ("epoch 0 · step 2", True),
    ]
    assert [look.epoch for look in keeps.looks] == [None, 0]
    assert len(events(tmp_path).Images("saliency/grad_cam")) == 1


def test_pictures_and_scalars_stand_at_the_steps_of_lightnings_scalars_with_several_optimizers(tmp_path):
    class TwoOptimizers(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():  # each counts as a step of the trainer
                optimizer.zero_grad()
                self.manual_backward(torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.backbone, self.head)]

    runner = trainer(tmp_path, GradCAMCallback(samples=2, history=False))
    runner.fit(TwoOptimizers(), loader(), loader())
    assert runner.global_step == 12
    found = events(tmp_path)
    steps = [event.step for event in found.Scalars("val_loss")]
    assert [event.step for event in found.Images("saliency/grad_cam")] == [0, *steps]
    assert [event.step for event in found.Scalars("xai_saliency/seconds")] == steps
    assert isinstance(runner.logger, L.loggers.TensorBoardLogger)
