"""What can be set: checked when it is made, short forms, groups, and all of it in a LightningCLI's YAML."""

import inspect
import warnings
from importlib import import_module

import pytest
import torch
import yaml
from looking import Keeps
from tiny import classifier_of

from lightning_saliency import callbacks
from lightning_saliency._lightning import PACKAGES
from lightning_saliency.callbacks import (
    CAMCallback,
    ClassModelCallback,
    Execution,
    FoolingCallback,
    GradCAMCallback,
    History,
    Metrics,
    SaliencyCallback,
    Samples,
    Style,
)

SHELLS = [getattr(callbacks, name) for name in callbacks.__all__ if name.endswith("Callback")]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.__name__)
def test_a_callback_has_at_most_twelve_parameters_and_documents_each(shell):
    parameters = [name for name in inspect.signature(shell.__init__).parameters if name != "self"]
    assert len(parameters) <= 12
    if "__init__" in vars(shell):
        assert [name for name in parameters if f"        {name}: " not in shell.__doc__] == []


@pytest.mark.parametrize("group", [Samples, Style, Metrics, History, Execution], ids=lambda group: group.__name__)
def test_a_group_of_options_is_frozen_and_documents_each(group):
    options = list(inspect.signature(group).parameters)
    assert [option for option in options if f"        {option}: " not in group.__doc__] == []
    made = group()
    with pytest.raises(AttributeError, match="cannot assign"):
        setattr(made, options[0], None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["grad_cm"]}, ValueError, "`methods`.*Did you mean 'grad_cam'"),
        ({"methods": []}, ValueError, "`methods`.*at least one"),
        ({"methods": {"cam": {"noise": 1}}}, ValueError, "the options of 'cam' in `methods`.*got 'noise'"),
        ({"methods": {"saliency": {"noise": 1}}}, ValueError, "'saliency' in `methods` out of reduce"),
        ({"samples": 0}, ValueError, r"`samples\.num`.*positive int, got 0"),
        ({"samples": True}, TypeError, "`samples` to be how many, positions .*, got True"),
        ({"samples": "first"}, TypeError, "`samples`.*got 'first'"),
        ({"samples": [-1]}, ValueError, r"`samples\.positions`"),
        ({"samples": [True]}, TypeError, r"`samples\.positions`"),
        ({"samples": []}, ValueError, r"`samples\.positions` to be one or more positions"),
        (
            {"samples": torch.zeros(3, 8, 8)},
            ValueError,
            r"`samples`.*\(N, C, H, W\), got a tensor of shape \(3, 8, 8\)",
        ),
        (
            {"samples": (torch.zeros(2, 3, 8, 8), torch.zeros(3).long())},
            ValueError,
            "`samples`.*one integer class for each of the 2",
        ),
        ({"every_n_epochs": -1}, ValueError, "`every_n_epochs` to be a positive int, got -1"),
        ({"target": ""}, ValueError, "`target`"),
        (
            {"target": "rat", "style": Style(class_names=["cat", "dog"])},
            ValueError,
            "`target`.*got 'rat'. Nearest: cat",
        ),
        ({"target": 1.5}, TypeError, "`target`"),
        ({"target": [0, 1]}, ValueError, "`target`.*each of the 8 samples, got 2"),
        ({"layer": 3}, TypeError, "`layer` to be a dotted name, a module, several of these, or None, got int"),
        ({"layer": ["a", 3]}, TypeError, "`layer` to be a dotted name, a module, several of these, or None, got list"),
        ({"style": {"alpha": 0.4}}, TypeError, r"`style` to be `Style\(\.\.\.\)`, got {'alpha'"),
        ({"style": Style(top_k=2)}, ValueError, r"`methods` to include 'cam', whose maps `Style\(top_k=2\)` shows"),
        ({"metrics": 3}, TypeError, r"`metrics` to be True, False or `Metrics\(\.\.\.\)`, got 3\.$"),
        ({"metrics": "all"}, TypeError, r"`metrics` to be .*, got 'all'\. Write `Metrics\('all'\)`\.$"),
        ({"metrics": ["entropy"]}, TypeError, r"Write `Metrics\(\['entropy'\]\)`\.$"),
        ({"history": 5}, TypeError, r"`history` to be .*, got 5\. Write `History\(5\)`\.$"),
        ({"history": "yes"}, TypeError, r"`history` to be True, False or `History\(\.\.\.\)`, got 'yes'"),
        ({"execution": Style()}, TypeError, r"`execution` to be `Execution\(\.\.\.\)`, got Style"),
        ({"outputs": [print]}, TypeError, "`outputs` to be `Output`s, got builtin_function_or_method"),
        ({"name": ""}, ValueError, "`name`"),
    ],
)
def test_a_wrong_option_is_named_when_the_callback_is_made(options, error, message):
    with pytest.raises(error, match=message):
        SaliencyCallback(**options)


@pytest.mark.parametrize(
    ("group", "option", "value", "error", "message"),
    [
        (Samples, "num", 1.5, TypeError, r"`samples\.num` to be a positive int, got 1\.5"),
        (
            Samples,
            "choose",
            "random",
            ValueError,
            r"`samples\.choose` to be one of spread, first, per_class, hardest, got",
        ),
        (Samples, "dataloader_idx", -1, ValueError, r"`samples\.dataloader_idx`"),
        (Samples, "labels", 3, TypeError, r"`samples\.labels` to be a function or None, got int"),
        (Style, "mean", [0.5], ValueError, r"`style\.mean` and `style\.std` both or neither"),
        (Style, "mean", "gray", TypeError, r"`style\.mean` to be a finite number"),
        (Style, "class_names", "abc", TypeError, r"`style\.class_names` to be a list of names"),
        (Style, "colormap", "jett", ValueError, r"`style\.colormap`.*Did you mean 'jet'"),
        (Style, "alpha", 1.5, ValueError, r"`style\.alpha`"),
        (Style, "normalize", "sum", ValueError, r"`style\.normalize` to be one of max, minmax, shared"),
        (Style, "channels", "last", ValueError, r"`style\.channels` to be one of first, mean"),
        (Style, "top_k", 0, ValueError, r"`style\.top_k` to be a positive int"),
        (Metrics, "names", ["entropi"], ValueError, r"`metrics\.names` .*, got 'entropi'\. Did you mean 'entropy'\?$"),
        (Metrics, "names", "entropi", ValueError, r"`metrics\.names` .*, got 'entropi'\. Did you mean 'entropy'\?$"),
        (Metrics, "names", "contrast", ValueError, r"`metrics\.names` .*, got 'contrast'\.$"),
        (Metrics, "samples", 0, ValueError, r"`metrics\.samples` to be a positive int, got 0"),
        (Metrics, "randomization_every_n_epochs", -1, ValueError, r"`metrics\.randomization_every_n_epochs`"),
        (History, "animation_every_n_epochs", 1.5, TypeError, r"`history\.animation_every_n_epochs`.*got 1\.5"),
        (Execution, "chunk_size", 1.5, TypeError, r"`execution\.chunk_size` to be a positive int"),
        (Execution, "fuse", "sum", ValueError, r"`execution\.fuse` to be one of mean, max, None, got 'sum'"),
        (
            Execution,
            "task",
            "binary",
            ValueError,
            r"`execution\.task` to be one of multiclass, ordinal, multilabel, regression, seg",
        ),
        (
            Execution,
            "output_fn",
            3,
            TypeError,
            r"`execution\.output_fn` to be a function, a key of",
        ),
        (Execution, "on_error", "ignore", ValueError, r"`execution\.on_error` to be one of warn, raise"),
        (Execution, "max_fraction", 0, ValueError, r"`execution\.max_fraction` to be a number in \(0, 1\], got 0"),
        (Execution, "max_fraction", 1.5, ValueError, r"`execution\.max_fraction`.*got 1\.5"),
    ],
)
def test_a_wrong_option_of_a_group_is_named_with_its_group_when_it_is_made(group, option, value, error, message):
    with pytest.raises(error, match=message):
        group(**{option: value})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"metrics": Metrics(samples=9), "samples": 4, "target": [1, 2, 0, 1]},
            ValueError,
            r"`target` not to be one class per sample where `metrics\.samples` are others",
        ),
        (
            {"metrics": Metrics(faithfulness=True), "target": torch.sum},
            ValueError,
            "`target` to be a class, whose probability `faithfulness` measures",
        ),
        (
            {"metrics": Metrics(samples=9), "samples": Samples(num=4, objects=torch.zeros(4, 4))},
            TypeError,
            r"`samples\.objects` to be a function of the batch where `metrics\.samples`",
        ),
    ],
)
def test_options_that_do_not_go_together_are_named(options, error, message):
    with pytest.raises(error, match=message):
        SaliencyCallback(**options)


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ({"samples": 3}, {"samples": Samples(num=3)}),
        ({"samples": [2, 1]}, {"samples": Samples(positions=[2, 1])}),
        ({"samples": torch.tensor([2, 1])}, {"samples": Samples(positions=[2, 1])}),
        ({"metrics": True}, {"metrics": Metrics()}),
        ({"history": True}, {"history": History()}),
        ({"methods": "grad_cam"}, {"methods": {"grad_cam": {}}}),
        ({"methods": ["cam", "saliency"]}, {"methods": {"cam": None, "saliency": {}}}),
        ({"layer": "backbone"}, {"layer": ["backbone"]}),
        ({}, {"samples": Samples(num=8), "style": Style(), "execution": Execution(), "target": "label"}),
    ],
)
def test_a_short_form_is_that_of_the_whole_one(short, whole):
    one, other = (
        GradCAMCallback(**{name: value for name, value in options.items() if value is not None})
        for options in (short, whole)
    )
    assert one.samples == other.samples
    assert one.methods == other.methods
    assert (one.style, one.execution, one.target) == (other.style, other.execution, other.target)
    assert one.state_key == other.state_key
    assert [type(output) for output in one.outputs] == [type(output) for output in other.outputs]


def test_what_is_switched_off_is_not_there():
    callback = SaliencyCallback(metrics=False, history=False)
    assert [output.key for output in callback.outputs] == ["pictures"]


def command_line(package, tmp_path, entries: str, *arguments: str):
    """Return the LightningCLI of a package with a configuration file for callbacks."""
    config = tmp_path / "config.yaml"
    config.write_text(f"trainer:\n  logger: false\n  callbacks:\n{entries}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the command line of the tests is not the CLI's
        return import_module(f"{package.__name__}.cli").LightningCLI(
            classifier_of(package), run=False, args=["--config", str(config), *arguments], save_config_callback=None
        )


def entry(init_args: str, shell: str = "SaliencyCallback") -> str:
    return f"    - class_path: lightning_saliency.callbacks.{shell}\n      init_args: {init_args}"


def ours(cli) -> list:
    return [callback for callback in cli.trainer.callbacks if isinstance(callback, tuple(SHELLS))]


both_packages = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


@both_packages
def test_a_configuration_file_sets_each_short_form_and_each_group(package, tmp_path):
    written = {
        "{samples: 3, metrics: false, history: false, methods: [grad_cam, saliency], layer: backbone}": (
            SaliencyCallback(["grad_cam", "saliency"], samples=3, metrics=False, history=False, layer="backbone")
        ),
        "{samples: [2, 1], target: predicted, methods: cam, layer: [backbone.2, backbone.6], name: b}": (
            SaliencyCallback("cam", samples=[2, 1], target="predicted", layer=["backbone.2", "backbone.6"], name="b")
        ),
        "{samples: {num: 16, choose: per_class}, target: 1, every_n_epochs: 3, model: net, name: c}": (
            SaliencyCallback(
                samples=Samples(num=16, choose="per_class"), target=1, every_n_epochs=3, model="net", name="c"
            )
        ),
        "{samples: {num: 2, labels: torch.numel}, target: [2, 0], metrics: {faithfulness: true}, name: d}": (
            SaliencyCallback(
                samples=Samples(num=2, labels=torch.numel), target=[2, 0], metrics=Metrics(faithfulness=True), name="d"
            )
        ),
        "{style: {mean: 0.5, std: [0.25], class_names: [a, b], colormap: viridis, alpha: 0.4}, name: e}": (
            SaliencyCallback(
                style=Style(mean=0.5, std=[0.25], class_names=["a", "b"], colormap="viridis", alpha=0.4), name="e"
            )
        ),
        "{history: {animation_every_n_epochs: 2}, metrics: {samples: 30}, name: f}": (
            SaliencyCallback(history=History(2), metrics=Metrics(samples=30), name="f")
        ),
        "{execution: {chunk_size: 4, on_error: raise, max_fraction: 0.1, output_fn: torch.abs}, name: g}": (
            SaliencyCallback(
                execution=Execution(chunk_size=4, on_error="raise", max_fraction=0.1, output_fn=torch.abs), name="g"
            )
        ),
        "{methods: {smooth_grad: {num_samples: 3}, grad_cam: {}, saliency: null}, name: h}": (
            SaliencyCallback({"smooth_grad": {"num_samples": 3}, "grad_cam": {}, "saliency": {}}, name="h")
        ),
        "{outputs: [{class_path: looking.Keeps}], name: i}": SaliencyCallback(outputs=[Keeps()], name="i"),
    }
    made = ours(command_line(package, tmp_path, "\n".join(map(entry, written))))
    assert len(made) == len(written)
    for one, other in zip(made, written.values(), strict=True):
        assert (one.samples, one.style, one.execution) == (other.samples, other.style, other.execution)
        assert (one.methods, one.target, one.name) == (other.methods, other.target, other.name)
        assert one.every_n_epochs == other.every_n_epochs
        assert one.state_key == other.state_key
        assert [type(output) for output in one.outputs] == [type(output) for output in other.outputs]
        options = [[getattr(output, "options", None) for output in callback.outputs] for callback in (one, other)]
        assert options[0] == options[1]


@both_packages
def test_a_configuration_file_makes_the_callbacks_of_gradient_ascent(package, tmp_path):
    class_model, fooling, cam = ours(
        command_line(
            package,
            tmp_path,
            "\n".join(
                [
                    entry("{classes: [0, 2], steps: 3, style: {colormap: viridis}}", "ClassModelCallback"),
                    entry("{method: gradient, samples: {num: 3, choose: hardest}}", "FoolingCallback"),
                    entry("{style: {top_k: 2}}", "CAMCallback"),
                ]
            ),
        )
    )
    assert isinstance(class_model, ClassModelCallback)
    assert isinstance(fooling, FoolingCallback)
    assert fooling.samples == Samples(num=3, choose="hardest")
    assert isinstance(cam, CAMCallback)
    assert cam.style.top_k == 2


@both_packages
def test_the_configuration_that_is_printed_can_be_read_and_used_again(package, tmp_path, capsys):
    init_args = (
        "{samples: {num: 16, choose: per_class}, style: {mean: 0.5, std: 0.25}, metrics: {samples: 30}, "
        "history: false, methods: {smooth_grad: {num_samples: 3}}, execution: {chunk_size: 4}}"
    )
    with pytest.raises(SystemExit):
        command_line(package, tmp_path, entry(init_args), "--print_config")
    printed = capsys.readouterr().out
    assert "!!" not in printed
    trainer = yaml.safe_load(printed)["trainer"]
    (callback,) = trainer["callbacks"]
    init = callback["init_args"]
    assert init["samples"] | {"num": 16, "choose": "per_class", "positions": None} == init["samples"]
    assert (
        init["style"] | {"mean": 0.5, "std": 0.25, "colormap": "plasma", "theme": "light", "cards": "few"}
        == init["style"]
    )
    assert init["metrics"] == {
        "names": "few",
        "samples": 30,
        "faithfulness": False,
        "randomization_every_n_epochs": None,
    }
    assert init["history"] is False
    assert init["methods"] == {"smooth_grad": {"num_samples": 3}}
    assert init["execution"] | {"chunk_size": 4, "on_error": "warn"} == init["execution"]
    (again,) = ours(command_line(package, tmp_path, "    - " + yaml.safe_dump(callback, default_flow_style=True)))
    assert again.samples == Samples(num=16, choose="per_class")
    assert again.execution == Execution(chunk_size=4)


@both_packages
@pytest.mark.parametrize(
    ("init_args", "group", "option"),
    [
        ("{samples: {nums: 3}}", "Samples", "'nums' is not accepted"),
        ("{style: {color_map: x}}", "Style", "'color_map' is not accepted"),
        ("{metrics: {faithful: true}}", "Metrics", "'faithful' is not accepted"),
        ("{history: {animation: 2}}", "History", "'animation' is not accepted"),
        ("{execution: {chunk: 3}}", "Execution", "'chunk' is not accepted"),
        ("{samples: {choose: random}}", "Samples", "'first', 'per_class', 'hardest'"),
        ("{sample: 3}", "SaliencyCallback", "'sample' is not accepted"),
    ],
)
def test_a_misspelled_option_in_a_configuration_file_is_named_with_its_group(
    package, tmp_path, capsys, init_args, group, option
):
    with pytest.raises(SystemExit):
        command_line(package, tmp_path, entry(init_args))
    told = capsys.readouterr().err
    assert f".{group}'" in told
    assert option in told


@both_packages
@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ("{samples: {num: 0}}", r"Expected `samples\.num` to be a positive int, got 0"),
        ("{style: {colormap: jett}}", r"Expected `style\.colormap`.*Did you mean 'jet'"),
        ("{methods: {smooth_grad: {num: 3}}}", "Expected the options of 'smooth_grad' in `methods`.*got 'num'"),
    ],
)
def test_a_wrong_value_in_a_configuration_file_has_our_own_words(package, tmp_path, init_args, message):
    with pytest.raises(ValueError, match=message):
        command_line(package, tmp_path, entry(init_args))
