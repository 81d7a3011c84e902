"""What a client's own model answers, and whether a run's record says the same of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from client_kinds import Case, Oracle
from torch import Tensor

SAMPLES = 8

_SAME = 2e-3
"""The largest difference of two equal probabilities: rounding, and another size of batch."""

_SAME_SHARE = 2e-2
"""That of two equal fractions of a mask, whose pixels flip one by one."""

_SAME_PIXELS = 0.03


def misread(case: Case, record: Any) -> str | None:
    """Return in words what the last look of a record says that the model does not; None if all of it is true."""
    look, oracle = record[-1], case.oracle
    if max(look.positions) >= SAMPLES:
        return f"sample {max(look.positions)} is shown"
    if look.task not in _tasks(oracle, case):
        return f"{_claim(look)} is shown, where the model answers with {oracle.kind}"
    names = record.samples.class_names
    if None not in (names, oracle.names) and names != oracle.names:
        return f"the classes are called {names}, in truth {oracle.names}"
    labels = dict(zip(record.samples.positions, record.samples.labels, strict=True))
    faults = [next(_CHECKS[oracle.kind](ordered, look, labels), None) for ordered in _orders(case)]
    return None if None in faults else faults[0]


def shortcomings(case: Case, record: Any) -> list[str]:
    """Return in words what else could be shown."""
    found = ["without the names of the classes"] if case.oracle.names and record.samples.class_names is None else []
    if case.oracle.pixels is None:
        return found
    return found + min((_faults_of_pixels(ordered, record) for ordered in _orders(case)), key=len)


def _faults_of_pixels(case: Case, record: Any) -> list[str]:
    assert case.oracle.pixels is not None
    expected = answers(case.oracle.pixels, case).float()
    shown = torch.stack([torch.from_numpy(image) for image in record.samples.images]).float() / 255
    if expected.min() >= 0 and expected.max() <= 1:
        distance = (shown - expected).abs().mean().item()
        return [f"the pixels are off by {distance:.2f}"] if distance > _SAME_PIXELS else []
    closeness = torch.corrcoef(torch.cat([shown.mean(0).flatten(1), expected.mean(0).flatten(1)]))[:3, 3:].diagonal()
    return [] if closeness.min() > 0.5 else ["other bands than the sensor's red, green and blue"]


def _orders(case: Case) -> list[Case]:
    """Return a case with its validation samples in each order in which they may be shown.

    Their own, or where the data set has a class for each, spread: the first of each class, then the second of each.
    """
    labels = answers(case.oracle.labels or _second, case)
    if labels.dim() != 1 or labels.is_floating_point():
        return [case]
    classes = labels.tolist()
    turns = [classes[:row].count(label) if label >= 0 else len(classes) for row, label in enumerate(classes)]
    spread = sorted(range(len(classes)), key=lambda row: (turns[row], max(classes[row], 0)))
    return [case, replace(case, shown=spread)]


def _second(batch: Any) -> Tensor:
    """Return what usually holds the labels of a batch; if that is no class for each sample, something of two axes."""
    second = batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None
    return second if isinstance(second, Tensor) else torch.zeros(1, 1)


def answers(function: Callable[..., Tensor], case: Case, *with_module: Any) -> Tensor:
    """Return what an oracle's function says of the first validation samples, in the order in which they are shown."""
    case.module.eval()
    found: list[Tensor] = []
    with torch.no_grad():
        for batch in case.val or case.train:
            found.append(function(*with_module, batch))
            if sum(map(len, found)) >= SAMPLES:
                break
    rows = torch.cat(found)[:SAMPLES].detach()
    return rows if case.shown is None else rows[list(case.shown)]


def class_probabilities(oracle: Oracle, case: Case) -> Tensor:
    """Return the probability of each class for the first validation samples `(N, K)`; two classes for one score."""
    scores = _answer(case)
    scores = scores.flatten(1) if scores.dim() > 1 else scores[:, None]
    scale = oracle.scale if scores.shape[1] > 1 or oracle.scale != "softmax" else "sigmoid"
    probabilities = {"softmax": lambda: scores.softmax(1), "sigmoid": scores.sigmoid, "probabilities": lambda: scores}
    found = probabilities[scale]()
    return torch.cat([1 - found, found], 1) if found.shape[1] == 1 else found


def _answer(case: Case) -> Tensor:
    assert case.oracle.answer is not None
    return answers(case.oracle.answer, case, case.module).float()


def _labels(case: Case) -> Tensor | None:
    return None if case.oracle.labels is None else answers(case.oracle.labels, case)


def _tasks(oracle: Oracle, case: Case) -> tuple[str, ...]:
    """Return the tasks that a record may have of a client."""
    if oracle.answer is None:
        return ()
    if oracle.kind == "classes":
        labels = _labels(case)
        is_many = labels is not None and labels.dim() == 2 and labels.shape[1] > 1
        return ("multilabel",) if is_many else ("multiclass",)
    if oracle.kind == "ranks":
        return ("ordinal",)
    if oracle.kind == "boxes":
        return "detection", "detection_softmax", "detection_list"
    tasks = {"values": "regression", "images": "regression", "masks": "segmentation"}
    if oracle.kind == "masks" and oracle.scale == "sigmoid" and _answer(case).shape[1] > 1:
        return ("multilabel_segmentation",)
    return (tasks.get(oracle.kind, oracle.kind),)


def _claim(look: Any) -> str:
    """Return in words what a look says of the first sample."""
    probability = look.probabilities[0]
    value = look.predictions[0]
    return f"{look.task} {value}" if probability is None else f"{look.task} {value} with {probability:.0%}"


def _check_classes(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    probabilities = class_probabilities(case.oracle, case)
    is_many = _tasks(case.oracle, case) == ("multilabel",)
    true = _true_classes(case, is_many)
    for position, predicted, confidence, explained in _rows(look):
        row = probabilities[position]
        if is_many:
            clear = (row - 0.5).abs() > _SAME
            is_same = torch.tensor([index in predicted for index in range(len(row))]) == (row > 0.5)
            yield from _unless(bool(is_same[clear].all()), "predicted", predicted, (row > 0.5).nonzero()[:, 0].tolist())
        else:
            is_largest = predicted < len(row) and row[predicted] >= row.max() - _SAME
            yield from _unless(bool(is_largest), "predicted", predicted, int(row.argmax()))
        is_close = abs(confidence - row.max().item()) <= _SAME
        yield from _unless(is_close, "the probability", round(confidence, 3), round(row.max().item(), 3))
        expected = tuple(true[position]) if is_many else (true[position] or [None])[0]
        yield from _unless(labels[position] == expected, "the label", labels[position], expected)
        is_explained = explained in true[position] or (not true[position] and row[explained] >= row.max() - _SAME)
        yield from _unless(is_explained, "the explained class", explained, true[position] or int(row.argmax()))


def _check_ranks(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    above, true = _answer(case).sigmoid(), _labels(case)
    for position, predicted, confidence, explained in _rows(look):
        row = above[position]
        yield from _unless(predicted == int((row > 0.5).sum()), "predicted", predicted, int((row > 0.5).sum()))
        edges = [1.0, *row.tolist(), 0.0]
        if edges == sorted(edges, reverse=True):  # else its author could not name a probability either
            expected = edges[predicted] - edges[predicted + 1]
            yield from _unless(abs(confidence - expected) <= _SAME, "the probability", confidence, expected)
        if true is not None:
            rank = int(true[position])
            yield from _unless(labels[position] == rank, "the label", labels[position], rank)
            yield from _unless(explained == rank, "the explained class", explained, rank)


def _true_classes(case: Case, is_many: bool) -> list[list[int]]:
    """Return the true classes of each sample, none where they are not known."""
    true = _labels(case)
    if true is None:
        return [[]] * SAMPLES
    return [row.nonzero()[:, 0].tolist() if is_many else [int(row)] * bool(row >= 0) for row in true]


def _check_values(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    values = _answer(case)
    values = values.flatten(2).mean(2) if values.dim() > 2 else values.reshape(len(values), -1)
    true = _labels(case)
    true = true if true is None or case.oracle.kind == "images" else true.float().reshape(len(true), -1)
    margin = 0.01 * float(values.abs().max())
    for position, predicted, confidence, explained in _rows(look):
        expected = values[position]
        is_close = len(predicted) == len(expected) and bool((torch.tensor(predicted) - expected).abs().max() <= margin)
        yield from _unless(is_close, "the values", predicted, tuple(expected.tolist()))
        yield from _unless(confidence is None, "the probability", confidence, None)
        yield from _unless(explained in range(len(expected)), "the explained value", explained, len(expected))
        if true is not None and case.oracle.kind == "values":
            given, target = labels[position], tuple(true[position].tolist())
            is_given = given is not None and torch.allclose(torch.tensor(given), torch.tensor(target), rtol=1e-3)
            yield from _unless(is_given, "the target", given, target)


def _check_masks(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    maps = _answer(case).flatten(2)
    count = maps.shape[1]
    own = maps > 0 if case.oracle.scale == "sigmoid" or count == 1 else _one_of(maps.argmax(1), count)
    shares = own.float().mean(2)
    true = _labels(case)
    for position, predicted, confidence, explained in _rows(look):
        row = shares[position] if count > 1 else torch.stack([1 - shares[position, 0], shares[position, 0]])
        expected = 1 if count == 1 else int(row.argmax())
        is_largest = predicted == expected or (count > 1 and row[predicted] >= row.max() - _SAME_SHARE)
        yield from _unless(is_largest, "predicted", predicted, expected)
        is_close = abs(confidence - row[predicted].item()) <= _SAME_SHARE
        yield from _unless(is_close, "the fraction of pixels", confidence, row[predicted].item())
        if true is not None and case.oracle.scale != "sigmoid":
            pixels = _one_of(true[position].reshape(1, -1), len(row)).sum(2)[0]
            most = 1 if count == 1 else int(pixels.argmax())
            yield from _unless(labels[position] == most, "the label", labels[position], most)
            yield from _unless(explained == most, "the explained class", explained, most)


def _check_embedding(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    expected = _answer(case)
    shown = torch.from_numpy(look.logits)
    yield from _unless(shown.shape[1:] == expected.shape[1:], "the size", shown.shape[1:], expected.shape[1:])
    for row, (position, predicted, confidence, explained) in enumerate(_rows(look)):
        said = (predicted, confidence, explained, labels[position])
        yield from _unless(said == (None,) * 4, "of the embedding", said, "nothing")
        distance = (shown[row] - expected[position]).norm() / expected[position].norm()
        yield from _unless(bool(distance < _SAME_PIXELS), "the distance of the embedding", float(distance), 0)


def _one_of(classes: Tensor, count: int) -> Tensor:
    """Return for each class its pixels, `(N, K, P)`."""
    return torch.stack([classes == index for index in range(count)], 1)


def _check_boxes(case: Case, look: Any, labels: dict[int, Any]) -> Iterator[str]:
    best = _answer(case)
    for position, predicted, confidence, _ in _rows(look):
        label, score = best[position].tolist()
        if label < 0:  # no box at all
            yield from _unless((predicted, confidence) == ((), None), "predicted", (predicted, confidence), "nothing")
            continue
        yield from _unless(predicted in (int(label), (int(label),)), "predicted", predicted, int(label))
        yield from _unless(abs(confidence - score) <= _SAME, "the score", confidence, score)


_CHECKS: dict[str, Callable[[Case, Any, dict[int, Any]], Iterator[str]]] = {
    "classes": _check_classes,
    "ranks": _check_ranks,
    "values": _check_values,
    "images": _check_values,
    "masks": _check_masks,
    "boxes": _check_boxes,
    "embedding": _check_embedding,
}


def _rows(look: Any) -> Iterator[tuple[int, Any, Any, Any]]:
    """Yield of each sample its position, what is predicted, how probable that is, and which class is explained."""
    yield from zip(look.positions, look.predictions, look.probabilities, look.classes, strict=True)


def _unless(is_true: bool, what: str, shown: Any, expected: Any) -> Iterator[str]:
    if not is_true:
        yield f"{what} is {shown}, in truth {expected}"
