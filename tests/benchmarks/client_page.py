"""The page of the clients."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from page import table, wrapped

Record = Mapping[str, Any]

VERDICTS = ("right", "said", "wrong", "nothing", "stopped")

_ABOUT = """\
Published forms of training code, as a new user has them: a tiny data set, random weights, one epoch on the CPU, and
`SaliencyCallback()` with no settings. Where a library has LightningModules or an engine, they are the library's own;
the others are written in the form that the source publishes. Each is trained twice from the same random state, with the
callback and without."""

_VERDICTS = """\
The verdict is decided by numbers. *Right*: there are pictures of all eight samples, and what the run's record says of
each, its predicted class and its probability, the explained class and the label, or the value, is what the client's own
model answers to its own validation batch, by its author's reading of it; the final weights are those of the training
without the callback, bit for bit. *Said*: there is no picture, or only of some samples, and a warning says why.
*Wrong*: something is shown that the model does not say, such as a class where it answers with an embedding. *Nothing*:
no picture, and not a word. *Stopped*: an error ended the training, or it has other weights."""


def page(records: Sequence[Record], versions: Mapping[str, str], command: str, left_out: Mapping[str, str]) -> str:
    """Return the page."""
    ran = [record for record in records if record["verdict"] != "not run"]
    not_run = [
        f"- {record['source']}: {record['client']}: {record['reason']}" for record in records if record not in ran
    ]
    not_run += [f"- {name}: {why}" for name, why in left_out.items()]
    mute = [record["verdict"] for record in ran if record["best"] == "said"]
    told = mute.count("said")
    parts = [
        "# What people's training code shows, with no settings",
        "All of this page comes from",
        f"```bash\n{command}\n```",
        wrapped(f"with {', '.join(f'{name} {version}' for name, version in versions.items())}. {_ABOUT}"),
        wrapped(_VERDICTS),
        table(["clients", *VERDICTS], [counts(ran)]),
        wrapped(
            f"{len(mute)} of the clients answer with nothing that has a class or a value (embeddings, pictures, no "
            f"images), or have no validation: said is the best there is, and {told} of these are."
        ),
        listing(ran),
    ]
    return "\n\n".join([*parts, *(["Not run:", "\n".join(not_run)] if not_run else [])]) + "\n"


def counts(records: Sequence[Record]) -> list[str]:
    """Return how many clients there are, and how many of each verdict."""
    verdicts = Counter(record["verdict"] for record in records)
    return [str(len(records)), *(str(verdicts[verdict]) for verdict in VERDICTS)]


def listing(records: Sequence[Record]) -> str:
    """Return a row a client."""
    rows = []
    for record in records:
        words = "; ".join(filter(None, [record["reason"], *map(gist, record.get("words", ()))]))
        cells = [
            record["source"],
            f"{record['client']}: {record['form']}",
            f"**{record['verdict']}**",
            shortened(words),
        ]
        rows.append([cell.replace("|", "\\|") for cell in cells])
    return table(["source", "client", "", "what is wrong, and what is said"], rows)


def gist(words: str) -> str:
    """Return what a warning says, without what all of them say."""
    words = re.sub(r"^.*?`Execution\(on_error='raise'\)` stops instead\.\s*", "", " ".join(words.split()))
    return words.removeprefix("SaliencyCallback: ").removeprefix("SaliencyCallback ")


def shortened(words: str, length: int = 260) -> str:
    """Return a text in one line, not too long."""
    words = " ".join(words.split())
    return words if len(words) <= length else f"{words[: length - 1]}…"
