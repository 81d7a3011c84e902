"""Ways to choose samples out of a stream."""

import math

import pytest

from lightning_saliency.data import CHOOSERS, Candidate, Chooser, Positions


def chosen(chooser: Chooser, stream: list[Candidate]) -> tuple[list[int], int]:
    """The positions that are shown, and how many samples were looked at until the choice was complete."""
    kept: dict[int, Candidate] = {}
    for count, candidate in enumerate(stream):
        if chooser.is_complete(kept):
            return chooser.order(kept), count
        if chooser.wants(candidate, kept):
            kept[candidate.position] = candidate
        for surplus in set(chooser.surplus(kept)):
            del kept[surplus]
    return chooser.order(kept), len(stream)


def stream(labels, losses=None):
    losses = [None] * len(labels) if losses is None else losses
    return [Candidate(*values) for values in zip(range(len(labels)), labels, losses, strict=True)]


def test_the_first_samples_are_those_that_come_first():
    assert chosen(CHOOSERS["first"](4), stream([None] * 10)) == ([0, 1, 2, 3], 4)
    assert chosen(CHOOSERS["first"](40), stream([None] * 10)) == (list(range(10)), 10)


def test_positions_are_shown_in_the_order_in_which_they_are_given():
    assert chosen(Positions(3, (7, 0, 7)), stream([None] * 10)) == ([7, 0, 7], 8)
    assert Positions(2, (1, 12)).order({}) == [1, 12]


def test_classes_are_shown_as_evenly_as_they_come():
    in_order = [0] * 6 + [1] * 3 + [2]
    assert chosen(CHOOSERS["per_class"](5), stream(in_order))[0] == [0, 6, 9, 1, 7]
    assert chosen(CHOOSERS["per_class"](2), stream(in_order)) == ([0, 6], 7)  # two classes for two places: complete
    assert chosen(CHOOSERS["per_class"](3), stream([5, 3, 9, 5, 3, 9])) == ([1, 0, 2], 3)
    assert chosen(CHOOSERS["per_class"](4), stream([1, 1, 1, 1, 1, 1]))[0] == [0, 1, 2, 3]


def test_as_few_samples_are_kept_of_a_class_as_could_ever_be_shown():
    chooser, kept = CHOOSERS["per_class"](3), {}
    for candidate in stream([0] * 50 + [1] * 50):
        if chooser.wants(candidate, kept):
            kept[candidate.position] = candidate
    assert sorted(kept) == [0, 1, 2, 50, 51, 52]


def test_the_hardest_samples_are_those_of_the_largest_loss_in_the_whole_stream():
    losses = [0.1, 3.0, 0.2, 2.0, 0.05, 2.5, 0.0]
    assert chosen(CHOOSERS["hardest"](3), stream([0] * 7, losses)) == ([1, 5, 3], 7)
    assert chosen(CHOOSERS["hardest"](9), stream([0] * 7, losses))[0] == [1, 5, 3, 2, 0, 4, 6]
    assert chosen(CHOOSERS["hardest"](2), stream([0] * 4, [1.0, math.nan, 5.0, None]))[0] == [1, 2]
    assert chosen(CHOOSERS["hardest"](2), stream([0] * 4, [1.0] * 4))[0] == [0, 1]


@pytest.mark.parametrize(("name", "needs"), [("first", False), ("per_class", True), ("hardest", True)])
def test_a_way_says_whether_it_needs_labels(name, needs):
    assert CHOOSERS[name](2).needs_labels is needs
    assert not Positions(1, (3,)).needs_labels
