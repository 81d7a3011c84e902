"""A client's verdict, by numbers: from its trainings with the callback and without."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from client_kinds import Case, Client
from client_running import Outcome, train
from client_truth import SAMPLES, misread, shortcomings

from lightning_saliency import load_record

Record = dict[str, Any]


def judge(client: Client) -> Record:
    """Train a client without the callback and with it, and return the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        plain = train(client.build, Path(folder) / "plain", watched=False)
        if plain.error is not None:
            return {"verdict": "not run", "reason": plain.error}
        watched = train(client.build, Path(folder) / "watched", watched=True)
        found: Record = {"words": list(watched.words), "pictures": list(watched.pictures), "best": best(plain.case)}
        if watched.error is not None:
            return {**found, "verdict": "stopped", "reason": watched.error}
        if watched.weights != plain.weights:
            again = train(client.build, Path(folder) / "again", watched=False)
            if again.weights == plain.weights:
                return {**found, "verdict": "stopped", "reason": "the training has other weights with the callback"}
            found["is_random"] = True  # it never ends with the same weights, so nothing can be said of them
        verdict, reason = verdict_on(watched, Path(folder) / "watched")
    return {**found, "verdict": verdict, "reason": reason}


def best(case: Case | None) -> str:
    """Return the best verdict that a client can have: said, where it answers with nothing that can be explained."""
    is_mute = case is None or case.val is None or case.oracle.kind == "none"
    return "said" if is_mute else "right"


def verdict_on(outcome: Outcome, folder: Path) -> tuple[str, str]:
    """Return the verdict on a training that has ended well, and the reason."""
    told = "said" if outcome.words else "nothing"
    if not outcome.pictures:
        return told, ""
    assert outcome.case is not None
    record = load_record(folder)
    look = record[-1]
    if look.task == "embedding" and outcome.case.oracle.kind != "embedding":  # not false, and not what is asked for
        return told, f"an embedding is shown as such, where the model answers with {outcome.case.oracle.kind}"
    fault = misread(outcome.case, record)
    if fault is not None:
        return "wrong", fault
    if len(look.positions) < SAMPLES:
        return told, f"only {len(look.positions)} of {SAMPLES} samples are shown"
    # a detector that finds nothing has nothing to show, and it is true that it says so
    blank = [
        look.predictions[row] != () and all(reasons[row] for reasons in look.reasons.values())
        for row in range(len(look.positions))
    ]
    if any(blank) and all(blank[row] or look.predictions[row] == () for row in range(len(blank))):
        return told, f"all maps are blank: {next(iter(look.reasons.values()))[0]}"
    return "right", "; ".join(shortcomings(outcome.case, record))
