"""Every option of the public constructors and functions: a wrong kind or value is refused by its name, when it is made.

The table has an entry for each parameter, which `test_each_parameter_has_an_entry` compares with the signatures.
"""

import inspect
import math
import re
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import gap_net
from torch import nn
from torchvision.models import ResNet18_Weights

import lightning_saliency
from lightning_saliency import CAMClassifier, Forward, GAPHead, class_model_image, explain, fooling_image, gap_model
from lightning_saliency import callbacks as callback_room
from lightning_saliency import metrics as metrics_room
from lightning_saliency.attribution import METHODS
from lightning_saliency.callbacks import (
    ClassModelCallback,
    Execution,
    FoolingCallback,
    History,
    Metrics,
    SaliencyCallback,
    Samples,
    Style,
)
from lightning_saliency.evidence import TASKS, Surroundings, Target, Task
from lightning_saliency.metrics import MetricOverImages, area_above, box_accuracy, box_hits, heatmaps_to_boxes
from lightning_saliency.visualization import Shading, colorize
from lightning_saliency.visualization.views import Volumes

NAN, INF = math.nan, math.inf
NET = gap_net().float()
BACKBONE = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
IMAGES = torch.rand(2, 2, 12, 12)


class Odd:
    """A value of no kind, whose text raises."""

    def __repr__(self):
        raise RuntimeError("no text")


@dataclass(frozen=True)
class Kind:
    """Values that an option must refuse, and some that it must take."""

    wrong: list[Any]
    right: list[Any] = field(default_factory=list)

    def or_none(self):
        return Kind([value for value in self.wrong if value is not None], [*self.right, None])

    def but(self, *right):
        """The same, where some of the wrong values are right."""
        return Kind([value for value in self.wrong if not any(value is one for one in right)], [*self.right, *right])


NOTHING = [None, [], (), {}, Odd(), 1j, "", b"", torch.zeros(0), np.zeros((0, 2)), type, ...]
TEXTS = ["3", "0.1", "False", "nan", b"3"]
ARRAYS = [[3], (3, 3), {3}, torch.tensor(3), torch.tensor([3, 3]), np.array([3, 3])]
BOOLS = [True, False, np.True_, np.False_]
NOT_FINITE = [NAN, INF, -INF, np.float32("nan"), np.float64("inf"), 10**30, 10**5000, -(10**5000)]


def count(least=1):
    wrong = [*NOTHING, *TEXTS, *ARRAYS, *BOOLS, *NOT_FINITE, 1.5, 3.0, np.float64(3), -1, least - 1, -(2**70)]
    return Kind(wrong, [max(least, 1), 3, np.int64(3), np.uint8(2)])


def number(*right, outside):
    wrong = [*NOTHING, *TEXTS, *ARRAYS, *BOOLS, NAN, INF, -INF, 10**5000, -(10**5000), *outside]
    return Kind(wrong, [*right, *map(np.float32, right), *map(np.float64, right)])


def choice(*right):
    wrong = ["x", b"x", 3, 1.5, NAN, [*right], {right[0]: 1}, np.array(["x", "y"]), *BOOLS, *NOTHING]
    return Kind(wrong, [*right, *(np.str_(one) for one in right)])


FLAG = Kind([0, 1, 1.0, NAN, np.int64(1), *TEXTS, *ARRAYS, *NOTHING], [True, False, np.True_, np.False_])
FUNCTION = Kind([3, NAN, True, "f", b"f", [], {}, Odd(), torch.zeros(2)], [None, torch.numel, nn.Identity()])
OUTPUT = Kind([3, NAN, True, "", b"f", [], (), {}, Odd(), torch.zeros(2)], [None, "logits", torch.numel, nn.Identity()])
CHANNELS = Kind(choice("first", "mean", "rgb").or_none().wrong, [None, "first", "mean", "rgb", [3, 2, 1]])
TASK = choice("multiclass", "multilabel", "regression", "segmentation", "embedding").or_none()
NAMES = ["../up", "/abs", "..", ".", "a/../../b", "a//b", "a/", " ", "a ", ".a", "a.", "a\nb", "a\0", "a\r", "\x7f",
         "a\\b", "C:", "C:/x", "a:b", "nul", "a/CON.txt", "com1", "a*", "a?", "<a>", "a|b", '"', "\ud800", "x" * 200,
         "a\u2028b", "a\x85"]  # fmt: skip
TAG = Kind([3, NAN, *BOOLS, *NOTHING, b"a", *ARRAYS, *NAMES], ["b", "a/b", "Größe 2", np.str_("c"), "x" * 100])
MODULE_NAME = Kind([3, NAN, *BOOLS, *NOTHING, b"a", *ARRAYS], ["net", "net.0"]).or_none()
LAYER = Kind([3, NAN, *BOOLS, b"a", *ARRAYS, [], (), {}, Odd(), ["a", 3], ["a", "a"]], ["0", ["0", "2"], None])
ONE_METHOD = ["grad_cam", ["cam", "saliency"], {"smooth_grad": {"num_samples": np.int64(2)}}, {"cam": None}]
WRONG_METHODS = [3, NAN, *BOOLS, [], (), {}, "", "gradcma", b"cam", ["grad_cam", 3], [["cam"]], [None], {3: {}}, Odd(),
                 {"cam": 3}, {"cam": "x"}, {"cam": {"x": 1}}, {"smooth_grad": {3: 1}}, torch.tensor(3), {"cam": [1]},
                 {"grad_cam": {"principal": "False"}}, {"smooth_grad": {"num_samples": True}}]  # fmt: skip
CLASS_INDEX = [True, b"x", "", 1.5, NAN, 10**30, [], {}, Odd(), [0.5], [True], [[0, 1]], 1j, [None], ["a", 0.5],
               torch.tensor([0.5]), np.True_]  # fmt: skip
NOT_FROM_0 = [*CLASS_INDEX, "x", -1, [-1, 0]]
CLASS_NAMES = Kind([3, NAN, *BOOLS, "cat", b"cat", "", [], (), {}, Odd(), [None], [True, "a"], [["a"]], [b"a"]],
                   [["cat", "dog"], ("a\n", "b\r\n", "\0"), [1, 2], np.array(["a", "b"]), [""], ["\ud800", "x" * 9999],
                    None])  # fmt: skip
MEANS = Kind(["0.5", b"", "", *BOOLS, NAN, INF, 10**5000, [], {}, Odd(), [True], ["0.5"], [0.5, None], [NAN], [[0.5]],
              np.array([NAN]), torch.tensor([INF])], [0.5, 1, [0.5], [1, 0.5, 2], np.array([0.5]), torch.tensor(0.5),
              np.float32(0.5)])  # fmt: skip
SAMPLES = Kind([*BOOLS, NAN, 1.5, -1, 0, 10**30, "", "first", b"ab", [], {}, Odd(), [True], [-1], [1.5], ["a"], [None],
                None, torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8).int(), torch.zeros(0, 3, 8, 8), torch.tensor(3),
                (torch.zeros(2, 3, 8, 8), [0, 1]), (torch.zeros(2, 3, 8, 8), torch.zeros(3).long())],
               [1, 3, np.int64(3), [2, 1], (np.int64(2),), range(2), np.arange(3), torch.arange(2), Samples(),
                torch.zeros(2, 3, 8, 8), (torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]))])  # fmt: skip
OBJECTS = Kind(
    [
        3,
        NAN,
        *BOOLS,
        "a",
        b"",
        [],
        {},
        Odd(),
        [3],
        ["a"],
        torch.zeros(3),
        torch.zeros(2, 5),
        torch.zeros(2, 3, 8, 8),
        [torch.zeros(4)],
        [torch.zeros(2, 4), None],
        np.zeros((2, 4)),
    ],
    [None, len, torch.zeros(8, 4), [torch.zeros(2, 4)] * 8, torch.ones(8, 1, 4, 4), torch.ones(8, 4, 4)],
)
PICTURES = Kind([3, True, "a", b"", [], {}, Odd(), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8).int(), (1, 2, 3),
                 (torch.zeros(2, 3, 8, 8),), [None, None], (torch.zeros(2, 3, 8, 8), "ab")],
                [None, torch.zeros(2, 3, 8, 8), [torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])]])  # fmt: skip


def group(*right):
    return Kind([3, 0, NAN, "x", "", b"", [], {}, Odd(), {"num": 3}, type(right[0])], list(right))


METRIC_NAMES = Kind(
    [3, NAN, None, *BOOLS, "", "x", b"few", [], (), {}, Odd(), ["x"], ["entropy", 3], [["entropy"]], [None]],
    ["few", "all", np.str_("all"), "entropy", ["entropy"], ("entropy", np.str_("energy_in_box"))],
)
STYLE, EXECUTION = group(Style(alpha=0.2), None), group(Execution(flip=True), None)
STEPS, LENGTH, RATE = count(), number(0.5, 1e-3, outside=[0, -1, -0.0]), number(0, 0.5, outside=[-1, -1e-9])
FRACTION = number(0, 0.25, outside=[1, 1.5, -0.1])
MODEL = Kind([3, None, "resnet18", True, Odd(), [], nn.Linear, torch.zeros(2)], [NET, Forward(NET)])
INPUTS = Kind([3, None, "a", True, Odd(), [], {}, torch.zeros(3), torch.zeros(0, 2, 12, 12), np.zeros((2, 2, 12, 12)),
               torch.zeros(2, 2, 12, 12).int(), torch.zeros(2, 2, 12, 12).bool()], [IMAGES])  # fmt: skip

ASCENT = {"steps": STEPS, "step_size": LENGTH, "weight_decay": RATE}
BOUNDS = Kind([3, True, "ab", "", [], {}, Odd(), (1, 0), (0, 0), (0, NAN), (0, "1"), (False, True), (0,),
               (None, 1), (torch.zeros(3), 1)], [None, (0, 1), (-INF, torch.ones(2, 1, 1))])  # fmt: skip
MADE = {"execution": EXECUTION, "style": STYLE, "every_n_epochs": count(), "model": MODULE_NAME, "name": TAG}
POOLING = choice("avg", "max", "lse")
CUT = {
    "num_classes": count(), "hidden": count().or_none(), "pooling": POOLING, "in_channels": count().but(2),
    "image_size": count(),
}  # fmt: skip

TABLE: dict[Any, tuple[dict[str, Any], dict[str, Kind]]] = {
    Samples: ({}, {
        "num": count(), "choose": choice("spread", "first", "per_class", "hardest"), "images": PICTURES,
        "positions": Kind([3, *BOOLS, "", "12", b"ab", [], {}, Odd(), [True], [-1], [1.5], ["1"], [None], [10**30]],
                          [None, [2, 1], (np.int64(3),), range(3), np.arange(3), torch.arange(2)]),
        "dataloader_idx": count(0).but(0), "image": MODULE_NAME, "labels": FUNCTION, "objects": OBJECTS,
    }),
    Metrics: ({}, {
        "names": METRIC_NAMES, "samples": count().or_none(), "faithfulness": FLAG,
        "randomization_every_n_epochs": count().or_none(),
    }),
    History: ({}, {"report": FLAG, "animation_every_n_epochs": count().or_none()}),
    Execution: ({}, {
        "fuse": choice("mean", "max").or_none(), "flip": FLAG, "task": TASK,
        "output_fn": OUTPUT, "chunk_size": count().or_none(), "log_initial": FLAG,
        "on_error": choice("warn", "raise"), "max_fraction": number(0.1, 1, outside=[0, 1.5, -0.1]).or_none(),
        "audit": FLAG,
    }),
    Style: ({"mean": 0.5, "std": 0.5}, {
        "mean": MEANS, "std": Kind([*MEANS.wrong, 0, -1, [0.5, 0]], MEANS.right), "class_names": CLASS_NAMES,
        "colormap": choice("turbo", "viridis"), "alpha": number(0, 0.5, 1, outside=[-0.1, 1.1]),
        "fade": FLAG, "contour": number(0.5, 0.99, outside=[0, 1, -0.1, 1.1]).or_none(), "cards": choice("few", "all"),
        "theme": choice("light", "dark"), "cell": Kind([*count(32).wrong, 3], [32, np.int64(64)]).or_none(),
        "normalize": choice("max", "minmax", "shared"), "channels": CHANNELS,
        "volumes": choice(*get_args(Volumes)),
        "top_k": count().or_none(),
    }),
    SaliencyCallback: ({}, {
        "methods": Kind(WRONG_METHODS, [*ONE_METHOD, None]), "samples": SAMPLES,
        "target": Kind(CLASS_INDEX, ["label", "predicted", "a cat", 3, -1, np.int64(2), [0] * 8,
                                     torch.zeros(8).long(), torch.sum]),
        "layer": LAYER, "metrics": group(Metrics(), True, False, np.True_),
        "history": group(History(), True, False, np.False_),
        "outputs": Kind([3, NAN, True, "a", b"", {}, Odd(), [3], [None], ["a"], [print]], [None, [], ()]), **MADE,
    }),
    ClassModelCallback: ({}, {
        "classes": Kind([3, *BOOLS, "", "12", b"ab", [], {}, Odd(), [True], [-1], [1.5], ["1"], [None], [10**30]],
                        [None, [2, 1], (np.int64(3),), range(3), np.arange(3), torch.arange(2)]),
        "steps": STEPS, "dataloader_idx": count(0).but(0), **MADE,
    }),
    FoolingCallback: ({}, {
        "target": count(0).but(0).or_none(), "method": choice("sign", "gradient"), "step_size": LENGTH,
        "max_steps": STEPS, "samples": SAMPLES, **MADE,
    }),
    Target: ({}, {"choice": Kind(CLASS_INDEX, [None, "label", "a cat", ["a", 1], 3, -1, np.int64(2), [1, 2], range(3),
                                               torch.sum])}),
    Forward: ({"model": NET}, {
        "model": Kind(MODEL.wrong, [NET]), "output_fn": OUTPUT.but(()),
        "task": Kind([3, True, "x", Odd(), Task], list(TASKS.values())),
        "context": Kind([3, None, True, "a", Odd(), [], torch.no_grad()], [torch.no_grad]),
        "memory_format": Kind([3, None, True, "channels_last", Odd(), torch.float32], [torch.channels_last]),
        "surroundings": Kind([3, None, True, "x", Odd(), NET], [Surroundings()]),
    }),
    explain: ({"model": NET, "images": IMAGES}, {
        "model": MODEL, "images": INPUTS, "methods": Kind(WRONG_METHODS, ONE_METHOD),
        "target": Kind([*CLASS_INDEX, "label", "x", [0, 1, 0], 99, -99], [None, 1, -1, [0, np.int64(1)],
                                                                                  lambda logits: logits[:, 0],
                                                                 torch.tensor([1, 0])]),
        "layer": Kind([*LAYER.wrong, "no such layer", nn.ReLU()], ["0", NET[0], None]),
        "fuse": choice("mean", "max").or_none(), "flip": FLAG,
        "task": Kind(TASK.wrong, ["multiclass", "multilabel", np.str_("regression"), None]),
        "chunk_size": count().or_none(), "progress": FLAG, "transform": FUNCTION,
        "weights": Kind([3, "DEFAULT", True, Odd(), []], [None, ResNet18_Weights.DEFAULT]),
        "class_names": Kind([*CLASS_NAMES.wrong, ["a", "b", "c", "d"]], [None]),
    }),
    class_model_image: ({"model": NET, "classes": [0, 1], "image_size": (2, 12, 12), "steps": 1}, {
        "model": MODEL, "classes": Kind([*NOT_FROM_0, None, 99], [0, [1], np.array([1, 0]), torch.tensor([0])]),
        "image_size": Kind([3, None, *BOOLS, "abc", "", [], {}, Odd(), (12, 12), (2, 12, 0), (2, 12, 1.5),
                            (2, 12, True), (2, -12, 12), (2, 10**30, 12)],
                           [(2, 12, 12), [np.int64(2), 12, 12], torch.Size([2, 9, 9])]),
        "start": Kind([3, True, "a", Odd(), [], torch.zeros(3), torch.zeros(3, 2, 12, 12),
                       torch.zeros(2, 12, 12).int()],
                      [None, torch.zeros(2, 12, 12), torch.zeros(2, 2, 12, 12)]),
        **{option: Kind(kind.wrong, [one for one in kind.right if not one or one >= 1e-3][:3])
           for option, kind in ASCENT.items()},
        "bounds": BOUNDS, "regularized": FLAG, "seed": count(0).but(0, 2**63 - 1),
    }),
    fooling_image: ({"model": NET, "images": IMAGES, "max_steps": 1}, {
        "model": MODEL, "images": INPUTS, "target": Kind([*NOT_FROM_0, "label", [0, 1, 0], 99, torch.sum], [None, 1]),
        "method": choice("sign", "gradient"), "step_size": LENGTH, "max_steps": count(),
        "bounds": BOUNDS,
    }),
    GAPHead: ({"in_channels": 4, "num_classes": 3}, {
        "in_channels": count(), "num_classes": count(), "bias": FLAG, "dropout": number(0, 0.5, 1, outside=[-0.1, 1.5]),
        "pooling": POOLING,
    }),
    gap_model: ({"backbone": BACKBONE, "num_classes": 3, "in_channels": 2, "image_size": 12, "hidden": None}, {
        **CUT, "backbone": Kind([3, None, True, "", "resnet1", b"", Odd(), [], nn.Linear], [BACKBONE]),
        "weights": Kind([3, "DEFAULT", True, "", Odd(), []], [None]),
        "resolution": Kind(count().wrong).or_none(), "in_channels": Kind(count().wrong, [2, np.int64(2)]),
        "image_size": Kind(count().wrong, [12, np.int64(12)]),
    }),
    CAMClassifier: ({"backbone": BACKBONE, "num_classes": 3, "in_channels": 2, "image_size": 12, "hidden": None}, {
        **CUT, "num_classes": Kind(count(2).wrong, [2, np.int64(3)]),
        "backbone": Kind([3, None, True, "", "resnet1", b"", Odd(), [], nn.Linear], [BACKBONE]),
        "weights": Kind([3, "DEFAULT", True, "", Odd(), []], [None]),
        "resolution": Kind(count().wrong).or_none(), "in_channels": Kind(count().wrong, [2, np.int64(2)]),
        "image_size": Kind(count().wrong, [12, np.int64(12)]), "task": choice("multiclass", "multilabel"),
        "metric": choice("accuracy", "auroc"), "learning_rate": RATE, "backbone_learning_rate": RATE.or_none(),
        "weight_decay": RATE, "schedule": choice("constant", "cosine"), "unfreeze_at_epoch": count(0).but(0),
        "box_threshold": FRACTION,
    }),
}  # fmt: skip

THRESHOLDS = Kind([3, NAN, *BOOLS, "", "0.5", b"", [], {}, Odd(), [True], ["0.5"], [NAN], [1], [-0.1], [None], [[0.5]]],
                  [[0.5], (0.2, np.float64(0.8)), torch.tensor([0.5])])  # fmt: skip
METRIC_OPTIONS = {"threshold": FRACTION, "iou": number(0.5, 1, outside=[0, 1.5, -1]), "thresholds": THRESHOLDS}
METRIC_CLASSES = [
    cls for name in metrics_room.__all__ if inspect.isclass(cls := getattr(metrics_room, name))
    and issubclass(cls, MetricOverImages) and cls is not MetricOverImages
]  # fmt: skip
for made in METRIC_CLASSES:
    if options := [name for name in inspect.signature(made).parameters if name != "kwargs"]:
        TABLE[made] = ({}, {name: METRIC_OPTIONS[name] for name in options})
MAPS, BOXES = torch.rand(2, 1, 6, 6), torch.tensor([[0, 0, 4, 4]] * 2)
COLORING = {
    "colormap": choice("turbo"), "alpha": number(0, 0.5, 1, outside=[-0.1, 1.1]), "fade": FLAG,
    "contour": number(0.5, 0.99, outside=[0, 1, -0.1, 1.1]).or_none(),
}  # fmt: skip
FUNCTIONS = {  # whose tensors are data, and whose options are these
    area_above: ({"heatmaps": MAPS}, {"threshold": FRACTION}),
    heatmaps_to_boxes: ({"heatmaps": MAPS}, {"threshold": FRACTION}),
    box_accuracy: ({"heatmaps": MAPS, "boxes": BOXES}, {"threshold": FRACTION, "iou": METRIC_OPTIONS["iou"]}),
    box_hits: ({"heatmaps": MAPS, "boxes": BOXES}, {"thresholds": THRESHOLDS, "iou": METRIC_OPTIONS["iou"]}),
    Shading: ({}, COLORING),
    colorize: ({"heatmaps": MAPS}, {"colormap": COLORING["colormap"]}),
}
METHOD_OPTIONS = {
    "principal": FLAG, "reduce": choice("absolute", "signed", "positive", "sum"), "num_samples": count(), "noise": RATE,
    "head": count(0).but(0).or_none(),
    "seed": count(0).but(0), "steps": count(), "baseline": number(0, -2.5, outside=[]), "size": count().or_none(),
    "stride": count().or_none(), "fill": number(0, -2.5, outside=[]),
}  # fmt: skip


def cases(which):
    return [
        pytest.param(make, base, option, kind, id=f"{make.__name__}-{option}")
        for make, (base, kinds) in which.items()
        for option, kind in kinds.items()
    ]


@pytest.mark.parametrize("make", TABLE, ids=lambda make: make.__name__)
def test_each_parameter_has_an_entry(make):
    parameters = [name for name in inspect.signature(make).parameters if name not in ("self", "kwargs")]
    assert sorted(TABLE[make][1]) == sorted(parameters)


def test_each_public_callable_has_an_entry():
    rooms = (lightning_saliency, callback_room)
    callables = {one for room in rooms for name in room.__all__ if callable(one := getattr(room, name))}
    shells = {one for one in callables if inspect.isclass(one) and issubclass(one, SaliencyCallback)}
    ours = callables - shells - {*TABLE, *METRIC_CLASSES}
    # made by us, read by users; a base class; and what reads a folder, whose path may be anything that paths are
    assert {one.__name__ for one in ours} <= {
        *("Explanation", "Look", "Logged", "Output", "LookCallback"), *("load_record", "filmstrip"),
        *("draw_heatmap", "tutorial_figure"),  # whose arguments are pictures, and their `Style`
    }  # fmt: skip


@pytest.mark.parametrize(("make", "base", "option", "kind"), cases({**TABLE, **FUNCTIONS}))
def test_a_wrong_value_is_refused_by_the_name_of_its_option(make, base, option, kind):
    name = "target" if make is Target else option
    for value in kind.wrong:
        text = refusal(make, {**base, option: value})
        assert text is not None, f"{make.__name__}({option}=...) takes {value_type(value)}"
        assert text.startswith("Expected "), (value_type(value), text)
        assert names(text, name), (value_type(value), text)
        assert "\n" not in text
        assert len(text) < 1200


@pytest.mark.parametrize(("make", "base", "option", "kind"), cases({**TABLE, **FUNCTIONS}))
@pytest.mark.filterwarnings("ignore:You are using `torch.load`", "ignore:Attribute 'backbone'")
def test_a_right_value_is_taken_and_kept_as_a_plain_one(make, base, option, kind):
    for value in kind.right:
        made = make(**{**base, option: value})
        if is_dataclass(made) and hasattr(made, option) and isinstance(value, np.generic):
            assert not isinstance(getattr(made, option), np.generic), value_type(value)


@pytest.mark.parametrize("key", METHODS)
def test_a_wrong_option_of_a_method_is_refused_by_its_name(key):
    for option in METHODS[key].options:
        for value in METHOD_OPTIONS[option].wrong:
            with pytest.raises((TypeError, ValueError), match=rf"^Expected `methods\['{key}'\]\['{option}'\]` to be "):
                METHODS[key].parse_options(key, {option: value})
        for value in METHOD_OPTIONS[option].right:
            parsed = METHODS[key].parse_options(key, {option: value})[option]
            assert parsed == value
            assert not isinstance(parsed, np.generic) or isinstance(parsed, str)


def refusal(make, options):
    """The message with which these options are refused by one of our errors; None where they are taken."""
    try:
        make(**options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def names(text, option):
    """Whether an error names an option; images and labels are `samples`, however they are given."""
    return re.search(rf"`[^`]*\b{'samples' if option == 'images' else option}\b", text) or f"`{option}" in text


def value_type(value):
    return f"{type(value).__name__} {str(value)[:60]}" if not isinstance(value, Odd | int) else type(value).__name__


# --- any combination of values


def values(kind):
    anything = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4),
        st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.complex_numbers(),
        st.fractions(), st.decimals(), st.datetimes(),
    )  # fmt: skip
    return st.one_of(st.sampled_from(kind.right), st.sampled_from(kind.wrong), anything)


def combinations(make, options):
    """Keyword arguments for some of the options, each right or wrong or anything."""
    return st.fixed_dictionaries({}, optional={name: values(kind) for name, kind in options.items()})


@pytest.mark.parametrize(
    "make",
    [Samples, Metrics, History, Execution, Style, SaliencyCallback, ClassModelCallback, FoolingCallback, Target],
    ids=lambda make: make.__name__,
)
def test_any_combination_constructs_or_names_an_option(make):
    kinds = TABLE[make][1]

    @settings(max_examples=150, deadline=None, derandomize=True, database=None,
              suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])  # fmt: skip
    @given(combinations(make, kinds))
    def construct(options):
        text = refusal(make, options)
        if text is not None:
            assert text.startswith("Expected ")
            assert any(names(text, option) for option in [*options, "target"])

    construct()
