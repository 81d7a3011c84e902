"""Whether what a client is shown is what its own model says: a verdict by numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_kinds import Case, Client, Oracle
from client_running import Outcome, train
from torch import Tensor

from lightning_saliency import load_record

Record = dict[str, Any]

_SAME = 2e-3
"""The largest difference of two equal probabilities: rounding, and another size of batch."""

_SAME_PIXELS = 0.03

_SAMPLES = 8


def judge(client: Client) -> Record:
    """Train a client without the callback and with it, and return the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        plain = train(client.build, Path(folder) / "plain", watched=False)
        if plain.error is not None:
            return {"verdict": "not run", "reason": plain.error}
        watched = train(client.build, Path(folder) / "watched", watched=True)
        found = {"words": list(watched.words), "pictures": list(watched.pictures)}
        if watched.error is not None:
            return {**found, "verdict": "stopped", "reason": watched.error}
        if watched.weights != plain.weights:
            again = train(client.build, Path(folder) / "again", watched=False)
            if again.weights == plain.weights:
                return {**found, "verdict": "stopped", "reason": "the training has other weights with the callback"}
            found["chance"] = True
        verdict, reason = verdict_on(watched, Path(folder) / "watched")
    return {**found, "verdict": verdict, "reason": reason}


def verdict_on(outcome: Outcome, folder: Path) -> tuple[str, str]:
    """Return the verdict on a training that has ended well, and the reason."""
    told = "said" if outcome.words else "nothing"
    if not outcome.pictures:
        return told, "no picture"
    record = load_record(folder)
    look = record[-1]
    fault = misread(outcome.case, record, look)
    if fault is not None:
        return "wrong", fault
    if len(look.positions) < _SAMPLES:
        return told, f"only {len(look.positions)} of {_SAMPLES} samples are shown"
    blank = [all(reasons[row] for reasons in look.reasons.values()) for row in range(len(look.positions))]
    if all(blank):
        return told, f"all maps are blank: {next(iter(look.reasons.values()))[0]}"
    return "right", "; ".join(shortcomings(outcome.case, record))


def misread(case: Case, record: Any, look: Any) -> str | None:
    """Return in words what is shown that the model does not say; None if all of it is true."""
    oracle = case.oracle
    if oracle.kind != "classes":
        return (
            f"class {look.predictions[0]} with {look.probabilities[0]:.0%} is shown, where the answer is {oracle.kind}"
        )
    rows = list(look.positions)
    if max(rows) >= _SAMPLES:
        return f"sample {max(rows)} is shown"
    probabilities = class_probabilities(oracle, case)[rows]
    expected = probabilities.gather(1, torch.tensor(look.predictions).clamp(max=probabilities.shape[1] - 1)[:, None])
    if max(look.predictions) >= probabilities.shape[1]:
        return f"class {max(look.predictions)} is shown, of {probabilities.shape[1]}"
    if not probabilities.isfinite().all():
        return "the client's own answer is not finite"
    if (expected[:, 0] < probabilities.amax(1) - _SAME).any():
        return f"predicted are {list(look.predictions)}, in truth {probabilities.argmax(1).tolist()}"
    if not (expected[:, 0] - torch.tensor(look.probabilities)).abs().max() <= _SAME:
        return f"probabilities are {rounded(look.probabilities)}, in truth {rounded(expected[:, 0].tolist())}"
    names = record.samples.class_names
    if None not in (names, oracle.names) and names != oracle.names:
        return f"the classes are called {names}, in truth {oracle.names}"
    return mislabeled(oracle, case, record, look)


def shortcomings(case: Case, record: Any) -> list[str]:
    """Return in words what else could be shown."""
    found = ["the data set's names are not shown"] if case.oracle.names and record.samples.class_names is None else []
    if case.oracle.pixels is None:
        return found
    expected = answers(case.oracle.pixels, case).float()
    shown = torch.stack([torch.from_numpy(image) for image in record.samples.images]).float() / 255
    if expected.min() >= 0 and expected.max() <= 1:
        distance = (shown - expected).abs().mean().item()
        return [*found, f"the pixels are off by {distance:.2f}"] if distance > _SAME_PIXELS else found
    closeness = torch.corrcoef(torch.cat([shown.mean(0).flatten(1), expected.mean(0).flatten(1)]))[:3, 3:].diagonal()
    return found if closeness.min() > 0.5 else [*found, "other bands than the sensor's red, green and blue"]


def class_probabilities(oracle: Oracle, case: Case) -> Tensor:
    """Return the probability of each class for the first validation samples `(N, K)`; two classes for one score."""
    scores = answers(oracle.answer, case, with_module=True).float()
    scores = scores.flatten(1) if scores.dim() > 1 else scores[:, None]
    given = oracle.scale if scores.shape[1] > 1 or oracle.scale != "softmax" else "sigmoid"
    probabilities = {"softmax": lambda: scores.softmax(1), "sigmoid": scores.sigmoid, "probabilities": lambda: scores}
    found = probabilities[given]()
    return torch.cat([1 - found, found], 1) if found.shape[1] == 1 else found


def answers(function: Any, case: Case, *, with_module: bool = False) -> Tensor:
    """Return what an oracle's function says of the first validation samples."""
    case.module.eval()
    found = []
    with torch.no_grad():
        for batch in case.val or case.train:
            found.append(function(case.module, batch) if with_module else function(batch))
            if sum(map(len, found)) >= _SAMPLES:
                break
    return torch.cat(found)[:_SAMPLES].detach()


def mislabeled(oracle: Oracle, case: Case, record: Any, look: Any) -> str | None:
    """Return which labels or explained classes are not the true ones, or None."""
    labels: list[list[int]] = [[] for _ in range(_SAMPLES)]
    if oracle.labels is not None:
        true = answers(oracle.labels, case)
        is_many = true.dim() == 2 and true.shape[1] > 1
        labels = [row.nonzero()[:, 0].tolist() if is_many else [int(row)] * bool(row >= 0) for row in true]
    shown = dict(zip(record.samples.positions, record.samples.labels, strict=True))
    for position, explained, predicted in zip(look.positions, look.classes, look.predictions, strict=True):
        true_classes = labels[position]
        if shown[position] not in (true_classes or [None]):
            return f"labels are {list(shown.values())}, in truth {labels}"
        if explained not in (true_classes or [predicted]):
            return f"explained is class {explained}, true {true_classes}, predicted {predicted}"
    return None


def rounded(values: Any) -> list[float]:
    """Return values as they stand in a line."""
    return [round(value, 3) for value in values]
