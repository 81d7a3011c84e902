"""The explained class by its name, and the layers as modules: what a user has at hand in place of numbers and paths."""

import pytest
import torch
from looking import Keeps
from tiny import TinyClassifier, data, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, Style, filmstrip, load_record
from lightning_saliency.callbacks import Execution

NAMES = ["cat", "Tiger_Cat", "cow"]


def named(classes=NAMES):
    dataset = data(12)
    dataset.classes = classes
    return dataset


def fit(folder, module=None, *, dataset=None, methods="grad_cam", **options):
    kept = Keeps()
    callback = SaliencyCallback(
        methods,
        samples=4,
        outputs=[kept],
        execution=Execution(on_error="raise", fuse=options.pop("fuse", None)),
        **options,
    )
    runner = trainer(folder, callback, max_epochs=1)
    runner.fit(module or TinyClassifier(), loader(), loader(dataset if dataset is not None else named()))
    return callback, kept.looks[-1]


def test_the_class_is_named_as_the_data_set_names_it(tmp_path):
    _, look = fit(tmp_path, target="tiger cat")
    assert look.explained[0].explanation.classes.tolist() == [1] * 4
    assert look.target == "class tiger cat"
    assert load_record(tmp_path)[-1].classes == (1,) * 4


def test_one_name_a_sample_and_a_class_from_the_end(tmp_path):
    _, look = fit(tmp_path / "a", target=["cow", "CAT", -2, 0])
    assert look.explained[0].explanation.classes.tolist() == [2, 0, 1, 0]
    _, look = fit(tmp_path / "b", target=-1)
    assert look.explained[0].explanation.classes.tolist() == [2] * 4


def test_the_style_names_the_classes_where_the_data_set_does_not(tmp_path):
    _, look = fit(tmp_path, target="dog", dataset=data(12), style=Style(class_names=["cat", "dog", "cow"]))
    assert look.explained[0].explanation.classes.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("dataset", "target", "says"),
    [
        (named(), "tigercat", r"`target` to be label, predicted, or one of the 3 classes .*Nearest: Tiger_Cat"),
        (data(12), "tiger cat", r"`target` .* as the classes have no names here, .*style=Style\(class_names"),
        (named(), -4, r"`target` to be one of the model's 3 classes \(0 to 2, or -3 to -1\), got -4"),
    ],
)
def test_a_class_that_is_not_there_ends_the_run_before_its_first_step(tmp_path, dataset, target, says):
    class Untrained(TinyClassifier):
        def on_before_optimizer_step(self, optimizer):
            pytest.fail("a step was taken")

    callback = SaliencyCallback("grad_cam", samples=4, target=target)  # whose faults are warnings
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path, callback).fit(Untrained(), loader(), loader(dataset))


def test_a_second_fit_reads_the_names_of_its_own_data(tmp_path):
    kept = Keeps()
    callback = SaliencyCallback("grad_cam", samples=4, target="cow", outputs=[kept], history=False)
    for names in (NAMES, NAMES[::-1]):
        trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(named(names)))
    classes = [look.explained[0].explanation.classes.tolist()[0] for look in kept.looks]
    assert classes[0] == 2
    assert classes[-1] == 0


def test_a_layer_is_passed_as_a_module_of_the_model(tmp_path):
    model = TinyClassifier()
    _, look = fit(tmp_path / "module", model, layer=model.backbone[2])
    torch.manual_seed(0)
    assert look.explained[0].explanation.layers == ("backbone.2",)


@pytest.mark.parametrize("fuse", [None, "mean"])
def test_layers_are_passed_as_modules_and_names_and_give_the_scalars_of_their_names(tmp_path, fuse):
    model = TinyClassifier()
    callback, look = fit(tmp_path, model, layer=[model.backbone[2], "backbone.6"], fuse=fuse)
    assert look.explained[0].explanation.layers == ("backbone.2", "backbone.6")
    names = {"grad_cam"} if fuse else {"grad_cam@backbone.2", "grad_cam@backbone.6"}
    assert set(look.explained[0].explanation.attributions) == names
    assert {f"{name}/entropy" for name in names} <= callback.outputs[1].worst().keys()
    assert filmstrip(tmp_path, "Grad-CAM" if fuse else "Grad-CAM@backbone.2").shape[0] == 3


def test_a_layer_of_a_part_of_the_module_is_found_in_it(tmp_path):
    class Wrapped(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(self.backbone, self.head)
            del self.backbone, self.head

        def forward(self, images):
            return self.net(images)

    model = Wrapped()
    _, look = fit(tmp_path, model, model="net", layer=model.net[0][2])
    assert look.explained[0].explanation.layers == ("0.2",)


def test_a_layer_of_another_model_is_refused_when_the_run_begins(tmp_path):
    callback = SaliencyCallback("grad_cam", samples=4, layer=TinyClassifier().backbone[2])
    with pytest.raises(
        ValueError, match=r"`layer` to be a module of the model, got a ReLU that TinyClassifier does not"
    ):
        trainer(tmp_path, callback).fit(TinyClassifier(), loader(), loader(named()))


@pytest.mark.parametrize(
    "methods", [["GradCAM", "Grad-CAM++", "Saliency"], {"ig": {"steps": 4}, "SmoothGrad": {"num_samples": 2}}]
)
def test_methods_are_called_by_their_keys_however_they_are_spelled(tmp_path, methods):
    _, look = fit(tmp_path, methods=methods)
    keys = (
        ["grad_cam", "grad_cam_plus_plus", "saliency"]
        if isinstance(methods, list)
        else ["integrated_gradients", "smooth_grad"]
    )
    assert list(look.explained[0].explanation.attributions) == keys
