"""Ways to choose samples out of a stream."""

import math
from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_saliency.data import CHOOSERS, Candidate, Chooser, Positions, Selection


def chosen(chooser: Chooser, stream: list[Candidate]) -> tuple[list[int], int]:
    """The positions that are shown, and how many samples were looked at until the choice was complete."""
    selection = Selection(chooser)
    for count, candidate in enumerate(stream):
        if selection.is_complete:
            return selection.order(), count
        selection.offer(candidate.label, candidate.loss)
    return selection.order(), len(stream)


def stream(labels, losses=None):
    losses = [None] * len(labels) if losses is None else losses
    return [Candidate(*values) for values in zip(range(len(labels)), labels, losses, strict=True)]


def test_the_first_samples_are_those_that_come_first():
    assert chosen(CHOOSERS["first"](4), stream([None] * 10)) == ([0, 1, 2, 3], 4)
    assert chosen(CHOOSERS["first"](40), stream([None] * 10)) == (list(range(10)), 10)


def test_positions_are_shown_in_the_order_in_which_they_are_given():
    assert chosen(Positions(3, (7, 0, 7)), stream([None] * 10)) == ([7, 0, 7], 8)
    assert Positions(2, (1, 12)).order([]) == [1, 12]


def test_classes_are_shown_as_evenly_as_they_come():
    in_order = [0] * 6 + [1] * 3 + [2]
    assert chosen(CHOOSERS["per_class"](5), stream(in_order))[0] == [0, 6, 9, 1, 7]
    assert chosen(CHOOSERS["per_class"](2), stream(in_order)) == ([0, 6], 7)  # two classes for two places: complete
    assert chosen(CHOOSERS["per_class"](3), stream([5, 3, 9, 5, 3, 9])) == ([1, 0, 2], 3)
    assert chosen(CHOOSERS["per_class"](4), stream([1, 1, 1, 1, 1, 1]))[0] == [0, 1, 2, 3]


def test_as_few_samples_are_kept_of_a_class_as_can_still_be_shown():
    selection = Selection(CHOOSERS["per_class"](3))
    kept = []
    for candidate in stream([0] * 50 + [1] * 50):
        selection.offer(candidate.label)
        kept.append(sorted(selection.kept))
    assert kept[49:53] == [[0, 1, 2], [0, 1, 50], [0, 1, 50], [0, 1, 50]]
    assert kept[-1] == [0, 1, 50]


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


def chosen_from_all(name: str, num: int, stream: list[Candidate]) -> list[int]:
    """The choice, by its definition, from a stream that is seen whole."""
    if name in ("first", "spread"):  # labels that are not at hand beforehand are not waited for
        return [candidate.position for candidate in stream[:num]]
    known = [candidate for candidate in stream if candidate.label is not None]
    if name == "hardest":
        losses = {candidate.position: candidate.loss or 0.0 for candidate in known}
        return sorted(losses, key=lambda position: -math.inf if math.isnan(losses[position]) else -losses[position])[
            :num
        ]
    classes = list(dict.fromkeys(candidate.label for candidate in known))[:num]
    ordered = sorted((candidate for candidate in known if candidate.label in classes), key=lambda one: one.label)
    groups = [[one.position for one in group] for _, group in groupby(ordered, key=lambda one: one.label)]
    rounds = [group[index] for index in range(len(known)) for group in groups if index < len(group)]
    return rounds[:num]


LOSSES = st.none() | st.floats(0, 4, width=16) | st.just(math.nan)  # few values: many are equal


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    name=st.sampled_from(sorted(CHOOSERS)),
    num=st.integers(1, 9),
    samples=st.lists(st.tuples(st.none() | st.integers(0, 6), LOSSES), max_size=60),
    sort=st.booleans(),
)
def test_a_stream_seen_piece_by_piece_gives_the_choice_from_the_whole_and_no_more_are_ever_kept(
    name, num, samples, sort
):
    samples = sorted(samples, key=lambda sample: (sample[0] is None, sample[0])) if sort else samples
    selection = Selection(CHOOSERS[name](num))
    for label, loss in samples:
        selection.offer(label, loss)
        assert len(selection.kept) <= num
        assert sorted(selection.order()) == sorted(selection.kept)
    labels, losses = zip(*samples, strict=True) if samples else ((), ())
    if name == "hardest":  # among several NaN, which is the largest of all, there is no order
        losses = [math.inf if loss is not None and math.isnan(loss) else loss for loss in losses]
    assert selection.order() == chosen_from_all(name, num, stream(labels, losses))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(num=st.integers(1, 12), labels=st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_no_class_has_two_more_than_another_that_has_some_left(num, labels):
    selection = Selection(CHOOSERS["per_class"](num))
    for label in labels:
        selection.offer(label)
    shown, there = Counter(labels[position] for position in selection.kept), Counter(labels)
    assert sum(shown.values()) == min(num, len(labels)) or selection.is_complete
    if not selection.is_complete:
        least = min((shown[label] for label in there if shown[label] < there[label]), default=math.inf)
        assert max(shown.values()) <= least + 1
