"""A detector with a feature pyramid that is trained: what it detects, and the maps, boxes and names that are shown."""

from collections import Counter

import numpy as np
import pytest
import torch
from looking import Keeps
from tiny import loader, trainer
from tiny_detector import CLASSES, Pictures, Pyramid, collated

from lightning_saliency import SaliencyCallback, explain, load_record
from lightning_saliency.callbacks import Metrics
from lightning_saliency.visualization import filmstrip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training, its module, and the looks at it."""
    folder, keeps = tmp_path_factory.mktemp("run"), Keeps()
    torch.manual_seed(0)
    module = Pyramid()
    data = loader(Pictures(256), batch_size=8, collate_fn=collated)
    validation = loader(Pictures(8, seed=1), batch_size=8, collate_fn=collated)
    trainer(folder, SaliencyCallback(outputs=[keeps], metrics=Metrics("all")), max_epochs=5).fit(
        module, data, validation
    )
    return folder, module, keeps.looks


def explained(look):
    return look.explained[0].explanation


def test_before_anything_is_detected_there_is_no_map_and_no_class(run):
    explanation = explained(run[2][0])
    assert explanation.answers == [()] * 8
    assert explanation.classes.tolist() == [-1] * 8
    assert explanation.confidences == [None] * 8
    assert run[2][0].explained[0].heatmaps("max")["saliency"].reasons == ("nothing detected",) * 8
    look = load_record(run[0])[0]
    assert (look.predictions, look.probabilities, look.classes) == (((),) * 8, (None,) * 8, (None,) * 8)
    assert look.boxes == ()


def test_the_layer_is_chosen_once_something_is_detected(run):
    assert list(explained(run[2][0]).attributions) == ["saliency"]
    assert list(explained(run[2][-1]).attributions) == ["hires_cam", "saliency"]
    assert explained(run[2][-1]).layers == ("lateral.1",)


def test_an_image_without_detections_is_blank_and_the_others_are_as_they_are_alone(run):
    look, module = run[2][-1], run[1]
    explanation, samples = explained(look), look.samples.samples
    assert explanation.answers[7] == ()
    assert [heatmaps.reasons[7] for heatmaps in look.explained[0].heatmaps("max").values()] == ["nothing detected"] * 2
    for row in (0, 3):
        alone = explain(
            module.eval(), samples[row].call, methods=["hires_cam", "saliency"], target=[int(explanation.classes[row])]
        )
        for key, maps in alone.attributions.items():
            torch.testing.assert_close(explanation.attributions[key][row], maps[0], rtol=1e-3, atol=1e-4)
    assert not any(explanation.absences[:7])


def test_the_box_of_the_explained_class_lights_up_and_not_another_object(run):
    look = run[2][-1]
    explanation = explained(look)
    maps = look.explained[0].heatmaps("max")["hires_cam"].maps[:, 0]
    shares = []
    for row in range(7):
        objects = look.samples.samples[row].objects
        best = explanation.boxes[row, explanation.classes[row]]
        center = (best[:2] + best[2:]) / 2
        nearest = ((objects.corners[:, :2] + objects.corners[:, 2:]) / 2 - center).norm(dim=1).argmin()
        own, other = (objects.corners[index].long().tolist() for index in (nearest, 1 - nearest))
        inside, beside = (float(maps[row, y1:y2, x1:x2].amax()) for x1, y1, x2, y2 in (own, other))
        assert inside > beside
        shares.append(inside)
    assert sum(shares) / len(shares) > 0.7


def test_true_boxes_and_names_are_kept_with_the_samples_and_in_the_record(run):
    record = load_record(run[0])
    data = Pictures(8, seed=1)
    assert record.samples.class_names == CLASSES
    for row, (_, target) in enumerate(data.items):
        np.testing.assert_array_equal(record.samples.boxes[row], target["boxes"])
        assert record.samples.box_classes[row] == tuple(target["labels"].tolist())
    look, explanation = record[-1], explained(run[2][-1])
    assert look.task == "detection_list"
    for row in range(7):
        assert look.box_classes[row][0] == look.classes[row]
        np.testing.assert_array_equal(look.boxes[row][0], explanation.boxes[row, look.classes[row]])
    assert look.box_classes[7] == ()
    assert look.boxes[7].shape == (0, 4)


def test_the_metrics_of_objects_are_measured_in_the_true_boxes_of_the_explained_class(run):
    look = run[2][-1]
    explanation, samples = explained(look), look.samples.samples
    maps = look.explained[0].heatmaps("max")["saliency"].maps[:, 0]
    shares = []
    for row in range(7):
        mask = torch.zeros(64, 64, dtype=torch.bool)
        objects = samples[row].objects
        for x1, y1, x2, y2 in objects.corners[objects.classes == explanation.classes[row]].long().tolist():
            mask[y1:y2, x1:x2] = True
        if mask.any():
            shares.append(float(maps[row][mask].sum() / maps[row].sum()))
    assert look.scalars["saliency/energy_in_box"] == pytest.approx(sum(shares) / len(shares), abs=1e-4)


def test_boxes_are_drawn_on_the_pictures_with_the_names_of_their_classes(run):
    def colors(pixels):
        return Counter(map(tuple, pixels.flatten(1).T.tolist()))

    green, white = (0, 230, 118), (255, 255, 255)
    strip = colors(filmstrip(load_record(run[0]), "saliency", positions=[0]))
    none = colors(filmstrip(load_record(run[0]), "saliency", positions=[7]))
    assert strip[green] > 200
    assert none[green] == 0
    assert strip[white] > 0
