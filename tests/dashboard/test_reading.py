"""What a person reads: captions, the value under the pointer, boxes, and which samples are shown."""

import re

import numpy as np
import pytest
import torch
from dashboard.records import KINDS, NAMES

from lightning_saliency import load_record


def captions(tab):
    return tab.find(".sheet .caption").all_inner_texts()


def test_captions_say_what_is_predicted_and_whether_that_is_right(board, kinds, open_frame):
    record = load_record(kinds / "plain")
    for index, at in enumerate(("initial", "0-25", "2-75"), 0):
        look = record[[0, 1, 3][index]]
        tab = open_frame(board, run="plain", at=at).until_drawn()
        said = captions(tab)
        assert len(said) == 6
        for position, text in enumerate(said):
            predicted, label = look.predictions[position], record.samples.labels[position]
            assert NAMES[predicted] in text
            assert f"{look.probabilities[position]:.0%}" in text
            assert NAMES[label] in text
            assert ("✓" in text) == (predicted == label)
            assert ("✗" in text) == (predicted != label)


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_pointer_reads_the_value_the_pixel_and_the_class(board, kinds, open_frame, ratio):
    record = load_record(kinds / "plain")
    raw = record[3].attributions["grad_cam"][1]
    values = torch.nn.functional.interpolate(
        torch.from_numpy(raw.copy())[None, None], (32, 32), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    tab = open_frame(board, run="plain", at="2-75", cell=96, options={"device_scale_factor": ratio})
    tab.until_drawn("epoch 2")
    cell = tab.cell(1, "grad_cam")
    place = cell.bounding_box()
    for x, y in ((0, 0), (31, 31), (14, 20)):
        cell.hover(position={"x": (x + 0.5) * place["width"] / 32, "y": (y + 0.5) * place["height"] / 32})
        said = tab.find(".reading .readout").inner_text()
        assert f"x {x}, y {y}" in said
        assert "Grad-CAM" in said
        assert "class dog" in said
        value = float(re.search(r"value (\S+)", said).group(1))
        np.testing.assert_allclose(value, values[y, x], rtol=2e-3, atol=1e-6)


def test_the_slice_of_an_enlarged_volume_is_chosen(board, kinds, open_frame):
    record = load_record(kinds / "volumes")
    depth, rows, columns = record.samples.images[0].shape[1:]
    raw = record[-1].attributions["grad_cam"][0]
    tab = open_frame(board, run="volumes", large="0 0 grad_cam").until_drawn()
    dialog = tab.frame.get_by_role("dialog")
    largest = int((np.unravel_index(raw.argmax(), raw.shape)[0] + 0.5) * depth / len(raw) - 0.5 + 0.5)
    assert f"slice {largest + 1} of {depth}" in dialog.inner_text()
    tab.role("slider", "Slice").focus()
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("ArrowRight")
    tab.until_drawn()
    assert f"slice 2 of {depth}" in dialog.inner_text()
    tab.until_address(slice="1")
    place = dialog.locator(".figure").bounding_box()
    dialog.locator(".figure").hover(position={"x": 5.5 * place["width"] / columns, "y": 9.5 * place["height"] / rows})
    said = dialog.locator(".readout").inner_text()
    assert "x 5, y 9, slice 2" in said
    plane = torch.from_numpy(raw[int(1.5 * len(raw) / depth)].copy())
    shown = torch.nn.functional.interpolate(plane[None, None], (rows, columns), mode="bilinear")[0, 0]
    assert float(re.search(r"value (\S+)", said).group(1)) == pytest.approx(float(shown[9, 5]), rel=1e-2, abs=1e-5)
    dialog.get_by_role("button", name="Where it is largest").click()
    tab.until_drawn()
    assert f"slice {largest + 1} of {depth}" in dialog.inner_text()


def test_samples_are_chosen_by_what_is_wrong_what_changed_by_class_and_by_text(board, kinds, open_frame):
    record = load_record(kinds / "long")
    labels = np.array(record.samples.labels)
    predictions = np.array([look.predictions for look in (record.about(index) for index in range(len(record)))])
    right = predictions == labels
    tab = open_frame(board, run="long", at="20-525", options={"height": 2400}).until_drawn("epoch 20")

    def positions():
        return [int(number) for number in tab.find(".sheet .caption .number").all_inner_texts()]

    assert positions() == list(range(16))
    tab.choose("Show", "wrong")
    assert positions() == list(np.flatnonzero(~right[21]))
    tab.choose("Show", "changed")
    assert positions() == list(np.flatnonzero(right.any(0) & ~right.all(0)))
    tab.choose("Show", "all")
    tab.choose("Class", "2")
    assert positions() == list(np.flatnonzero((labels == 2) | (predictions[21] == 2)))
    tab.choose("Class", "")
    tab.frame.get_by_role("searchbox").fill("FISH")
    tab.until_drawn()
    tab.until(
        "(count) => document.querySelectorAll('.sheet .caption').length === count",
        int(((labels == 3) | (predictions[21] == 3)).sum()),
    )
    assert positions() == list(np.flatnonzero((labels == 3) | (predictions[21] == 3)))
    tab.frame.get_by_role("searchbox").fill("no such word")
    tab.find(".notice").get_by_text("No sample").wait_for()


def test_methods_are_chosen(board, open_frame):
    tab = open_frame(board, run="four_methods").until_drawn()
    assert tab.cell(0, "layer_cam").count() == 1
    tab.role("button", "LayerCAM").click()
    tab.until_drawn()
    tab.cell(0, "layer_cam").wait_for(state="detached")
    assert tab.cell(0, "grad_cam_plus_plus").count() == 1


def test_boxes_stand_where_the_objects_are(board, kinds, open_frame):
    record = load_record(kinds / "boxes")
    tab = open_frame(board, run="boxes", at="0-25", cell=96).until_drawn("epoch 0")
    for position in range(2):
        cell = tab.cell(position, "grad_cam")
        place, size = cell.bounding_box(), record.samples.sizes[position]
        look = record[1]
        for kind, corners in (("true", record.samples.boxes[position][0]), ("detected", look.boxes[position][0])):
            boxes = cell.locator(f".box.{kind}")
            is_explained = look.classes[position] in look.box_classes[position]
            assert boxes.count() == (1 if kind == "true" or is_explained else 0)
            if boxes.count():
                box = boxes.bounding_box()
                scale = place["width"] / size[1]
                seen = [box["x"] - place["x"], box["y"] - place["y"], box["width"], box["height"]]
                x1, y1, x2, y2 = corners * scale
                np.testing.assert_allclose(seen, [x1, y1, x2 - x1, y2 - y1], atol=1.5)


@pytest.mark.parametrize("kind", [*KINDS, "twice#saliency-2"])
def test_each_kind_of_record_shows_something(board, open_frame, kind):
    """No blank page, no error: cells, or a line of words that says why there are none."""
    tab = open_frame(board, run=kind)
    if kind == "damaged":
        tab.expects_refusals = True
    tab.until("() => document.querySelector('.cell, .notice p') !== null")
    if kind != "no_looks":
        tab.until_drawn()
        tab.page.keyboard.press("Home")
        tab.until_drawn()
        assert tab.find(".cell").count() > 0
    assert "undefined" not in tab.find("main").inner_text()
    assert "NaN" not in tab.find("main").inner_text()
