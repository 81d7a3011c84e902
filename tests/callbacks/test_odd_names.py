"""Names that a user gives, of classes, layers, callbacks and outputs: pictures come out, and files stay inside."""

import warnings

import pytest
import torch
from tiny import CSVLogger, TinyClassifier, data, events, loader, sheets, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, Style, load_record
from lightning_saliency.attribution import METHODS
from lightning_saliency.callbacks import ClassModelCallback, Execution, FoolingCallback, Logged, Output

ODD = [
    ["cat\n", "dog\n", "cow\n"],  # `open("labels.txt").readlines()`
    ["cat\r\n", "d\0og", "c\x07o\x1bw"],
    ["\ud800", "", " \t"],
    ["a\u2028b", "\x85", "x" * 5000],
    ["../../up", "/abs", "C:\\con"],
]


def fit(folder, *callbacks, dataset=None, **options):
    """Train with a callback, whose every warning and error is one of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*(does not have many workers|treespec|GPU available).*")
        trainer(folder, *callbacks, max_epochs=1, num_sanity_val_steps=0, **options).fit(
            TinyClassifier(), loader(data(6)), loader(data(6) if dataset is None else dataset)
        )


@pytest.mark.parametrize("names", ODD)
@pytest.mark.parametrize("of_dataset", [False, True])
def test_pictures_come_out_whatever_the_names_of_the_classes(tmp_path, names, of_dataset):
    dataset = data(6)
    if of_dataset:
        dataset.classes = names
    style = Style() if of_dataset else Style(class_names=names)
    execution = Execution(on_error="raise")
    fit(
        tmp_path,
        SaliencyCallback("grad_cam", samples=3, style=style, execution=execution),
        ClassModelCallback(steps=1, style=style, execution=execution),
        FoolingCallback(samples=2, max_steps=1, style=style, execution=execution),
        dataset=dataset,
    )
    tags = events(tmp_path).Tags()["images"]
    assert {"saliency/grad_cam", "saliency/grad_cam/filmstrip", "saliency/grad_cam/animation"} <= set(tags)
    assert len([tag for tag in sheets(tmp_path) if tag.startswith("class_model/")]) == 3
    assert all(tag.isprintable() for tag in tags)
    recorded = load_record(tmp_path).samples.class_names
    assert len(recorded) == 3
    assert all(name.isprintable() for name in recorded)


class Logs(Output):
    """Logs a picture under a tag of the user's choice."""

    def __init__(self, tag):
        self.tag = tag

    def __call__(self, look):
        return Logged(pictures={self.tag: torch.zeros(3, 8, 8, dtype=torch.uint8)})


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_no_file_leaves_the_run_for_a_name_of_a_class_or_an_output(tmp_path):
    runs = tmp_path / "a" / "b" / "runs"
    fit(
        runs,
        ClassModelCallback(steps=1, style=Style(class_names=["../../../up", "/abs", "a:b"])),
        SaliencyCallback("cam", samples=2, name="left/right", outputs=[Logs("../../../../up"), Logs("a\\b\0/nul")]),
        logger=CSVLogger(runs, name="csv", version=0),
    )
    assert all(path.startswith("a/b/runs/csv/version_0/") for path in files(tmp_path))
    inside = files(runs / "csv" / "version_0")
    assert all(set(path.split("/")).isdisjoint({"..", "nul"}) and path.isprintable() for path in inside)
    assert not any(character in path for path in inside for character in ':\\*?"<>|')
    folders = {path.rpartition("/")[0] for path in inside if path.endswith(".png")}
    assert len(folders) == 3 + 2 + 2  # of the classes; of the outputs; the method's own, and its filmstrip
    assert "left/right/cam/animation.gif" in inside
    assert "left/right.record/samples.npz" in inside


def test_no_file_leaves_the_run_for_the_name_of_a_layer_or_of_a_method_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "../../mine", METHODS["grad_cam"])

    class Odd(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential()
            self.backbone.add_module("up/up", nn.Conv2d(3, 8, 3))
            self.backbone.add_module("nul", nn.Conv2d(8, 12, 3))

    runs = tmp_path / "a" / "b" / "runs"
    layers = ["backbone.up/up", "backbone.nul"]
    callback = SaliencyCallback(
        ["grad_cam", "../../mine"],
        samples=2,
        layer=layers,
        style=Style(cards="all"),
        execution=Execution(on_error="raise"),
    )
    lit, small = Odd(), loader(data(6))
    trainer(runs, callback, logger=CSVLogger(runs, name="csv", version=0), max_epochs=1).fit(lit, small, small)
    assert all(path.startswith("a/b/runs/csv/version_0/") for path in files(tmp_path))
    inside = files(runs / "csv" / "version_0")
    assert len([path for path in inside if path.endswith("/animation.gif")]) == 4
    assert len([path for path in inside if path.endswith(".png")]) >= 4 + 1


@pytest.mark.parametrize("name", ["../up", "/abs", "a\nb", "a\0b", "C:\\x", "a/../../b", "con", ""])
def test_a_name_that_could_leave_the_run_is_refused(name):
    for make in (SaliencyCallback, ClassModelCallback, FoolingCallback):
        with pytest.raises(ValueError, match="Expected `name` to be a t"):
            make(name=name)
