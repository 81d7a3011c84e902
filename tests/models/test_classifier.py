"""CAMClassifier: what it learns and logs, its groups and freezing, its predictions, checkpoints and command line."""

import subprocess
import sys
import warnings
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from states import assert_alike
from tiny import L, data, events, loader, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import multiclass_auroc, multilabel_accuracy, multilabel_auroc

from lightning_saliency._lightning import PACKAGES
from lightning_saliency.attribution import explain, to_heatmaps
from lightning_saliency.metrics import heatmaps_to_boxes
from lightning_saliency.models import CAMClassifier

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def backbone(channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def classifier(**options):
    torch.manual_seed(0)
    return CAMClassifier(3, backbone(), **({"image_size": 16, "hidden": 8, "learning_rate": 0.02} | options))


def multilabel_data():
    images, labels = data(48).tensors
    return TensorDataset(images, F.one_hot((labels + torch.arange(48) // 24) % 3, 3).maximum(F.one_hot(labels, 3)))


def colored_squares(num=96):
    """Noise with a square in the channel that is the class, somewhere, and its box behind images and labels."""
    generator = torch.Generator().manual_seed(0)
    images, labels = 0.1 * torch.randn(num, 3, 16, 16, generator=generator), torch.arange(num) % 3
    corners = torch.randint(0, 11, (num, 2), generator=generator)
    for image, label, (x, y) in zip(images, labels, corners.tolist(), strict=True):
        image[label, y : y + 6, x : x + 6] += 1
    return TensorDataset(images, labels, torch.cat([corners, corners + 6], dim=1))


def test_it_learns_and_its_boxes_find_the_object(tmp_path):
    model, runner = classifier(backbone_learning_rate=0.02), trainer(tmp_path, max_epochs=8)
    dataset = colored_squares()
    runner.fit(model, loader(dataset, shuffle=True), loader(dataset))
    assert runner.callback_metrics["val_accuracy"] > 0.95
    found = runner.predict(model, loader(dataset, batch_size=96))[0]
    squares = dataset.tensors[2]
    x, y = (found.boxes[:, 0] + found.boxes[:, 2]) / 2, (found.boxes[:, 1] + found.boxes[:, 3]) / 2
    inside = (squares[:, 0] < x) & (x < squares[:, 2]) & (squares[:, 1] < y) & (y < squares[:, 3])
    assert found.found.all()
    assert inside.float().mean() > 0.8


@pytest.mark.filterwarnings("ignore:No (posi|nega)tive samples")  # the first batch of sanity checking
@pytest.mark.parametrize(
    ("task", "metric", "expected"),
    [
        ("multiclass", "accuracy", lambda logits, labels: (logits.argmax(1) == labels).float().mean()),
        ("multiclass", "auroc", lambda logits, labels: multiclass_auroc(logits, labels, 3)),
        ("multilabel", "accuracy", lambda logits, labels: multilabel_accuracy(logits, labels, 3, average="micro")),
        ("multilabel", "auroc", lambda logits, labels: multilabel_auroc(logits, labels, 3)),
    ],
)
def test_the_logged_values_are_the_losses_and_metrics_of_the_whole_set(task, metric, expected, tmp_path):
    dataset = multilabel_data() if task == "multilabel" else data(48)
    model, runner = classifier(task=task, metric=metric), trainer(tmp_path)
    runner.fit(model, loader(dataset), loader(dataset))
    images, labels = dataset.tensors
    with torch.no_grad():
        logits = model.eval()(images)
    loss = F.binary_cross_entropy_with_logits(logits, labels.float()) if labels.dim() == 2 else None
    loss = F.cross_entropy(logits, labels) if loss is None else loss
    for stage, logged in (("val", runner.callback_metrics), ("test", runner.test(model, loader(dataset))[0])):
        assert float(logged[f"{stage}_loss"]) == pytest.approx(float(loss), rel=1e-4)
        assert float(logged[f"{stage}_{metric}"]) == pytest.approx(float(expected(logits, labels)), rel=1e-5)
    assert "train_loss" in events(tmp_path).Tags()["scalars"]


def test_the_groups_have_their_learning_rates_and_follow_the_schedule(tmp_path):
    rates = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    model = classifier(learning_rate=0.01)
    trainer(tmp_path, Watch(), max_epochs=4).fit(model, loader(), loader())
    assert rates[0] == pytest.approx([0.01, 0.001], rel=0.05)  # the backbone has weights to keep: a tenth
    assert rates[-1] == pytest.approx([0, 0], abs=1e-9)
    assert [first for first, _ in rates] == sorted([first for first, _ in rates], reverse=True)
    assert classifier(backbone_learning_rate=0.3).backbone_learning_rate == 0.3
    assert CAMClassifier(2, "squeezenet1_1", hidden=None, learning_rate=0.2).backbone_learning_rate == 0.2

    rates.clear()
    model = classifier(learning_rate=0.01, schedule="constant")
    runner = trainer(tmp_path / "constant", Watch(), max_epochs=-1, max_steps=-1, limit_train_batches=1)
    runner.fit_loop.max_epochs = -1
    stop = L.callbacks.Timer(duration={"seconds": 1})
    runner.callbacks.append(stop)
    runner.fit(model, loader(), loader())
    assert {tuple(pair) for pair in rates} == {(0.01, 0.001)}
    grouped = runner.optimizers[0].param_groups
    assert [group["name"] for group in grouped] == ["head", "backbone"]
    assert {id(p) for p in grouped[1]["params"]} == {id(p) for p in model.backbone.parameters()}
    assert sum(len(group["params"]) for group in grouped) == len(list(model.parameters()))


def test_a_cosine_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`schedule` to be 'constant' for a training without an end"):
        trainer(tmp_path, max_epochs=-1).fit(classifier(), loader(), loader())


def test_the_backbone_is_frozen_until_its_epoch_with_its_statistics(tmp_path):
    states = []

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            states.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    model = classifier(unfreeze_at_epoch=2)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    trainer(tmp_path, Watch(), max_epochs=3).fit(model, loader(), loader())

    def changed(old, new):
        return {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}

    assert changed(before, states[0]) == changed(states[0], states[1]) == {"neck", "head"}
    assert changed(states[1], states[2]) == {"backbone", "neck", "head"}
    of_backbone = [name for name in before if name.startswith("backbone")]
    assert not any(torch.equal(states[1][name], states[2][name]) for name in of_backbone)


@pytest.mark.parametrize("unfreeze_at_epoch", [1, 3])
def test_a_run_that_is_resumed_on_either_side_of_the_thaw_ends_as_the_whole_run(unfreeze_at_epoch, tmp_path):
    def run(folder, epochs, checkpoint=None):
        model = classifier(unfreeze_at_epoch=unfreeze_at_epoch, schedule="constant")
        runner = trainer(tmp_path / folder, max_epochs=epochs)
        runner.fit(model, loader(), loader(), ckpt_path=checkpoint)
        runner.save_checkpoint(tmp_path / f"{folder}.ckpt")
        return model.state_dict()

    whole = run("whole", 4)
    run("half", 2)
    resumed = run("resumed", 4, tmp_path / "half.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_freezing_with_several_processes_is_refused(tmp_path):
    model = classifier(unfreeze_at_epoch=1)
    runner = trainer(tmp_path, devices=2, strategy="ddp_spawn")
    with pytest.raises(ValueError, match="`unfreeze_at_epoch` to be 0 with several processes, got 1 with 2"):
        model.configure_callbacks()[0].setup(runner, model, "fit")
    assert classifier().configure_callbacks() == []


def test_lightnings_own_backbone_finetuning_serves_as_well(tmp_path):
    model = classifier(schedule="constant")
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    thaw = L.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.01)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The provided params to be frozen already exist")
        trainer(tmp_path, thaw).fit(model, loader(), loader())
    assert not any(torch.equal(before[name], value) for name, value in model.backbone.named_parameters())


def test_a_prediction_is_one_forward_without_a_gradient(tmp_path):
    model = classifier(box_threshold=0.4).double()
    calls = []
    model.model.head.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    images, labels = data(6).tensors[0].double(), data(6).tensors[1]
    for dataset in (TensorDataset(images, labels), TensorDataset(images)):
        batches = DataLoader(dataset, batch_size=4)
        calls.clear()
        first, second = trainer(tmp_path).predict(model, batches)
        assert calls == [False, False]
        assert first.logits.shape == (4, 3)
        assert first.class_maps.shape == (4, 3, 8, 8)
        model.eval()
        maps, logits = model.class_maps(images), model(images)
        torch.testing.assert_close(torch.cat([first.class_maps, second.class_maps]), maps.detach())
        torch.testing.assert_close(torch.cat([first.logits, second.logits]), logits.detach())
        classes = torch.cat([first.classes, second.classes])
        assert torch.equal(classes, logits.argmax(1))
        expected = to_heatmaps(torch.stack([m[c] for m, c in zip(maps, classes, strict=True)])[:, None], (16, 16))
        torch.testing.assert_close(torch.cat([first.heatmaps, second.heatmaps]), expected.detach())
        boxes, found = heatmaps_to_boxes(expected, 0.4)
        assert torch.equal(torch.cat([first.boxes, second.boxes]), boxes)
        assert torch.equal(torch.cat([first.found, second.found]), found)
    assert not any(tensor.requires_grad for tensor in first)


def test_a_map_without_anything_positive_has_no_box_and_says_so():
    model = classifier().eval()
    with torch.no_grad():
        model.model.head.linear.weight.copy_(-model.model.head.linear.weight.abs())
    found = model.predict_step(data(6).tensors[0], 0)
    assert not found.found.any()
    assert not found.boxes.any()
    assert not found.heatmaps.any()


def test_checkpoints_go_round_and_fetch_no_weights_again(tmp_path):
    model = CAMClassifier(3, "squeezenet1_1", hidden=None, image_size=64, resolution=15)
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(model, loader(data(8, size=64)), loader(data(8, size=64)))
    model.hparams["weights"] = "DEFAULT"  # as if it had begun with them; loading would have to fetch them
    runner.save_checkpoint(tmp_path / "named.ckpt")
    again = CAMClassifier.load_from_checkpoint(tmp_path / "named.ckpt").eval()
    images = data(2, size=64).tensors[0]
    assert torch.equal(again(images), model.eval()(images))

    model = classifier(box_threshold=0.3)
    runner = trainer(tmp_path / "module", max_epochs=1)
    runner.fit(model, loader(), loader())
    runner.save_checkpoint(tmp_path / "module.ckpt")
    again = CAMClassifier.load_from_checkpoint(tmp_path / "module.ckpt", backbone=backbone()).eval()
    assert torch.equal(again(data().tensors[0]), model.eval()(data().tensors[0]))
    assert again.box_threshold == 0.3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": "regression"}, "`task` to be one of multiclass, multilabel, got 'regression'"),
        ({"metric": "f1"}, "`metric` to be one of accuracy, auroc, got 'f1'"),
        ({"schedule": "step"}, "`schedule` to be one of constant, cosine, got 'step'"),
        ({"pooling": "sum"}, "`pooling` to be one of avg, max, lse, got 'sum'"),
        ({"unfreeze_at_epoch": -1}, "`unfreeze_at_epoch` to be an int from 0, got -1"),
        ({"box_threshold": 1.0}, r"`box_threshold` to be a number in \[0, 1\), got 1.0"),
        ({"resolution": 5}, "convolutional map of 5×5"),
        ({"hidden": 0}, "`hidden` to be a positive int, got 0"),
        ({"in_channels": 0}, "`in_channels` to be a positive int, got 0"),
        ({"learning_rate": -1.0}, r"`learning_rate` to be a number from 0, got -1\.0"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        classifier(**options)


def test_a_single_class_and_batches_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`num_classes` to be an int from 2, got 1"):
        CAMClassifier(1)
    images = DataLoader(data(4).tensors[0], batch_size=2)
    with pytest.raises(TypeError, match=r"a batch to be \(images, labels, ...\), got a Tensor"):
        trainer(tmp_path).fit(classifier(), images, images)


def test_several_labels_may_be_floats(tmp_path):
    images, labels = multilabel_data().tensors
    dataset = TensorDataset(images, labels.float())
    for metric in ("accuracy", "auroc"):
        trainer(tmp_path / metric, num_sanity_val_steps=0).fit(
            classifier(task="multilabel", metric=metric), loader(dataset), loader(dataset)
        )


def test_the_command_line_takes_it_and_explains_its_options(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cli = import_module(f"{L.__name__}.cli").LightningCLI
    arguments = ["--model.num_classes=4", "--model.backbone=squeezenet1_1", "--model.hidden=null",
                 "--model.pooling=lse", "--model.unfreeze_at_epoch=2"]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cli(CAMClassifier, run=False, args=arguments, save_config_callback=None)
        with pytest.raises(SystemExit):
            cli(CAMClassifier, run=False, args=["--help"])
    assert made.model.model.head.pooling == "lse"
    assert made.model.unfreeze_at_epoch == 2
    printed = capsys.readouterr().out
    assert "torch.nn.Linear" not in printed
    for option, words in (
        ("--model.backbone BACKBONE", "The name of a torchvision classification model"),
        ("--model.task {multiclass,multilabel}", "binary cross-entropy"),
    ):
        assert option in printed
        assert words in " ".join(printed.split())


def test_cam_of_it_is_the_map_that_is_pooled():
    model, images = classifier().double().eval(), data(4).tensors[0].double()
    found = explain(model, images, methods=["cam", "grad_cam"])
    maps = model.class_maps(images).detach()
    assert_alike(found.class_maps(), maps)
    assert_alike(found.attributions["grad_cam"], found.attributions["cam"].relu() / maps[0, 0].numel())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_it_is_a_module_of_the_package_that_the_program_imported_first(package):
    code = (
        f"import {package.__name__} as L\n"
        "from lightning_saliency.models import CAMClassifier\n"
        "assert issubclass(CAMClassifier, L.LightningModule), CAMClassifier.__mro__\n"
        "from lightning_saliency._lightning import BaseFinetuning\n"
        "assert BaseFinetuning is L.callbacks.BaseFinetuning"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
