"""Explanations are values: they know how they were made, and neither they nor what was given is written into."""

import copy
import dataclasses

import pytest
import torch
from networks import gap_net
from states import assert_alike, assert_all_alike, assert_same

from lightning_saliency.attribution import METHODS, Explanation, HeatmapStage, Settings, explain, explain_call
from lightning_saliency.data import plain_call
from lightning_saliency.evidence import PREDICTED, TASKS, Forward, Target, find_layers, name_layer
from lightning_saliency.metrics import measure_faithfulness, measure_head_randomization

IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = [2, 0, 1]
METHOD_OPTIONS = {
    "cam": None,
    "grad_cam": {"principal": True},
    "saliency": {"reduce": "signed"},
    "smooth_grad": {"num_samples": 3},
    "integrated_gradients": {"steps": 64},
    "guided_backprop": {},
    "guided_grad_cam": {},
    "occlusion": {"size": 4},
}
RUNS = {
    "plain": {"layer": "5"},
    "layers": {"layer": ["2", "5"]},
    "fused": {"layer": ["2", "5"], "fuse": "mean"},
    "flipped": {"layer": "5", "flip": True},
    "all": {"layer": ["2", "5"], "fuse": "max", "flip": True, "chunk_size": 2, "task": "multilabel"},
    "callable": {"layer": "5", "target": lambda logits: logits[:, 0], "flip": True},
}


def options_of(run):
    """What is given to `explain`; `cam` reads the last layer alone."""
    run = {"target": list(LABELS), **RUNS[run]}
    methods = copy.deepcopy(METHOD_OPTIONS)
    if isinstance(run["layer"], list):
        run["layer"] = list(run["layer"])
        del methods["cam"]
    return {"methods": methods, **run}


def fields_of(value):
    """A frozen value as plain dicts and lists, copied: its tensors too."""
    if dataclasses.is_dataclass(value):
        return {item.name: fields_of(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: fields_of(part) for key, part in parts}
    return value


def mutables_of(value):
    """All dicts and lists in a frozen value, but for the model's."""
    if dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            yield from mutables_of(getattr(value, item.name))
    elif isinstance(value, dict | list | tuple):
        if not isinstance(value, tuple):
            yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from mutables_of(part)


@pytest.mark.parametrize("run", RUNS)
def test_what_is_given_to_explain_stays_as_it_was(run):
    options = options_of(run)
    before, held, images = copy.deepcopy(options), dict(options["methods"]), IMAGES.clone()
    explain(gap_net(), images, **options)
    assert options == before
    assert all(options["methods"][key] is value for key, value in held.items())
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("run", RUNS)
def test_settings_and_a_call_are_not_written_into_and_serve_again(run):
    model, options = gap_net(), options_of(run)
    explanation = explain(model, IMAGES, **options)
    settings, call = explanation.settings, plain_call(IMAGES)
    before = fields_of(settings), fields_of(call)
    found = [explain_call(settings, call) for _ in range(2)]
    assert_same((fields_of(settings), fields_of(call)), before)
    for one in found:
        assert_all_alike(one.attributions, explanation.attributions)
        assert_all_alike(one.signed, explanation.signed)
        assert one.settings == settings


@pytest.mark.parametrize("run", RUNS)
def test_an_explanation_is_not_written_into_by_whoever_uses_it(run):
    model, options = gap_net(), options_of(run)
    explanation = explain(model, IMAGES, **options)
    before = fields_of(explanation)
    explanation.heatmaps()
    explanation.heatmaps(normalize="shared")
    HeatmapStage(explanation)("minmax")
    part = explanation[1:]
    part.heatmaps()
    if "cam" in options["methods"]:
        explanation.class_maps()
    if explanation.classes is not None:
        measure_faithfulness(model, explanation, steps=2)
        measure_head_randomization(model, explanation)
    explain(model, IMAGES * 2, **options)
    assert_same(fields_of(explanation), before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.scores = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation.settings.flip = True


def test_explanations_share_no_dict_that_one_could_change():
    model, options = gap_net(), options_of("flipped")
    one, other = explain(model, IMAGES, **options), explain(model, IMAGES, **options)
    given = {id(value) for value in mutables_of(options)}
    assert not {id(value) for value in mutables_of(one)} & ({id(value) for value in mutables_of(other)} | given)
    part = one[:2]
    for name in ("attributions", "signed", "notes"):
        assert getattr(part, name) is not getattr(one, name)
    options["methods"]["occlusion"]["size"] = 1
    options["methods"]["cam"] = {"new": 1}
    assert one.settings.methods["occlusion"] == {"size": 4}
    assert one.settings.methods["cam"] == {}


def test_an_explanation_knows_how_it_was_made():
    model = gap_net()
    forward = Forward(model, output_fn=lambda output: output)
    found = explain(forward, IMAGES, **{**options_of("all"), "layer": ["2", model[5]]})
    settings = found.settings
    assert settings.forward == dataclasses.replace(forward, task=TASKS["multilabel"])
    assert list(settings.methods) == [key for key in METHOD_OPTIONS if key != "cam"]
    assert settings.methods["grad_cam"] == {"principal": True}
    assert settings.target == Target(LABELS)
    assert settings.layers == (name_layer(model, "2"), name_layer(model, "5"))
    assert (settings.fuse, settings.flip, settings.chunk_size) == ("max", True, 2)
    assert found.layers == ("2", "5")
    assert explain(model, IMAGES).settings.read_layers == (name_layer(model, "5"),)  # the one that was found
    assert explain(model, IMAGES, methods="saliency").settings.layers == ()
    assert explain(model, IMAGES).settings == Settings(
        Forward(model), {"grad_cam": {}}, found=find_layers(model, IMAGES), progress=True
    )


def test_a_target_that_is_known_by_now_takes_the_place_of_the_settings_own():
    model = gap_net()
    settings = explain(model, IMAGES, methods=["grad_cam", "saliency"], target=Target("label")).settings
    assert settings.target == Target("label")
    expected = explain(model, IMAGES, methods=["grad_cam", "saliency"], target=LABELS)
    found = explain_call(settings, plain_call(IMAGES), torch.tensor(LABELS))
    assert_all_alike(found.attributions, expected.attributions)
    mixed = explain_call(settings, plain_call(IMAGES), torch.tensor([2, PREDICTED, 1]))
    assert mixed.classes.tolist() == [2, int(found.predictions[1]), 1]


def test_the_heatmaps_of_a_stage_are_made_once_for_each_scale():
    explanation = explain(gap_net(), IMAGES, methods=["grad_cam", "saliency"], layer=["2", "5"])
    stage = HeatmapStage(explanation)
    for normalize in ("max", "minmax", "shared"):
        assert list(stage(normalize)) == ["grad_cam@2", "grad_cam@5", "saliency"]
        for key, maps in explanation.heatmaps(normalize=normalize).items():
            assert torch.equal(stage(normalize)[key].maps, maps)
            assert stage(normalize)[key] is stage(normalize)[key]
            assert len(stage(normalize)[key]) == 3
    with pytest.raises(TypeError, match="does not support item assignment"):
        stage("max")["saliency"] = None


def test_the_images_are_those_that_the_model_was_given():
    found = explain(gap_net().float(), IMAGES, methods="saliency")
    assert isinstance(found, Explanation)
    assert found.images.dtype == found.inputs.dtype == torch.float32  # the model's precision
    assert_alike(found.images, IMAGES)
    assert len(found) == len(found.call) == 3
    assert set(METHODS) >= set(found.settings.methods)
