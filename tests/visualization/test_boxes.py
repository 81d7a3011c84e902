"""Boxes on the cells of a sheet."""

import torch

from lightning_saliency.visualization.boxes import Box, draw_boxes, make_boxes
from lightning_saliency.visualization.captions import Names

WHITE, GREEN = torch.tensor([255, 255, 255]), torch.tensor([0, 230, 118])


def is_color(cell, color):
    return (cell == color).all(-1)


def cell(side=200):
    return torch.full((side, side, 3), 128, dtype=torch.uint8)


def test_a_detected_box_is_a_white_line_and_a_true_one_is_dashed():
    detected = draw_boxes(cell(), [Box((0.2, 0.2, 0.6, 0.8))])
    assert is_color(detected[40, 40:120], WHITE).all()
    assert is_color(detected[40:160, 119], WHITE).all()
    true = is_color(draw_boxes(cell(), [Box((0.2, 0.2, 0.6, 0.8), is_true=True)])[40, 40:120], GREEN)
    assert 0.3 < true.float().mean() < 0.7
    assert (detected[60:140, 60:100] == 128).all()  # the object itself stays as it is


def test_boxes_scale_with_the_cell_and_are_cut_at_its_edge():
    drawn = is_color(draw_boxes(cell(50), [Box((-1, 0.5, 0.5, 3))]), WHITE)
    rows, columns = drawn.nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (25, 49, 0, 24)


def test_words_of_two_boxes_do_not_lie_on_each_other():
    corners = (0.3, 0.3, 0.6, 0.6)
    one = draw_boxes(cell(), [Box(corners, "cat 90%")])
    both = draw_boxes(cell(), [Box(corners, "cat 90%"), Box(corners, "cat", is_true=True)])
    white = is_color(one, WHITE)
    white[60:120, 60:120] = False  # but for the line itself
    assert white.any()
    assert is_color(both, WHITE)[white].all()
    assert is_color(both, GREEN).any()


def test_a_class_without_a_name_is_called_one_and_what_is_no_box_is_left_out():
    corners = [[0, 0, 10, 10], [float("nan")] * 4]
    (box,) = make_boxes(corners, [3, 4], (20, 40), Names(["cat"]), is_true=False, probabilities=[0.5, 0.4])
    assert box == Box((0.0, 0.0, 0.25, 0.5), "class 3 50%")
