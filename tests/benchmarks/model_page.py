"""The page of the sweep over published models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from page import table, wrapped

Record = Mapping[str, Any]

_TITLES = {
    "timm": "timm",
    "transformers": "Hugging Face transformers",
    "torchvision": "torchvision",
    "torch.nn": "torch.nn",
    "vit-pytorch": "vit-pytorch",
}

_ABOUT = """\
No settings: each model is built with random weights, `find_layers` chooses the layer, and the images are explained by
the callback's default methods. Of timm the smallest member of each family (a module of `timm.models`) is run, and
further ones that have other heads or tokens; of Hugging Face each image classifier, built small, with each of its
implementations of attention; the families of torchvision; transformers of torch.nn and of vit-pytorch. What starts
constant, such as a layer scale of 1e-6 or a head of zeros, is changed at random first, so that every block counts."""

_TRUTH = """\
*Right* is decided by numbers, measured with hooks that share no code with the library. Each of these holds: the layer
runs once; it has one map an image, of the image's aspect; the score has a gradient to at least half of its positions;
the positions in the upper half answer to a change of the image's upper half more than the others do, and so for the
left half (a rank statistic, the area under the ROC curve, of at least 0.6: *soft*; 0.9: *clear*; *exact* where each
answers to its own half alone; *weak* where one of
the two is below 0.6; *mixed* where all positions of a random network answer to both halves alike), and no better if
tokens are shifted by one; the attributions of all default methods are finite, not constant, `(N, 1, h, w)`;
Grad-CAM is that of the map as it is said to be read. And the layer is one of two: the end of the trunk, which is where
no gradient goes to the image if the map is held fixed (or where no module returns a map any more: a network whose early
stages have heads of their own has no better), with at most a tenth of the weights that work on a map behind or beside
it; or the input of the last block: the last attention reads nothing of the image but this map, and no other attention
reads it. And gradient times activation is not nothing there, as it is where a map is read through a norm alone.
*Wrong* is any other layer, *refused* a `ValueError` that says why, *error* any other exception, no answer in
time, or too much memory. A family is right if all of its models are. A few models run in the test command, in
`tests/test_published_models.py`."""


def page(records: Sequence[Record], versions: Mapping[str, str], command: str, left_out: Mapping[str, str]) -> str:
    """Return the page."""
    ran = [record for record in records if record["verdict"] != "not built"]
    parts = [
        "# Which layer is chosen, on the published models",
        "All of this page comes from",
        f"```bash\n{command}\n```",
        wrapped(f"with {', '.join(f'{name} {version}' for name, version in versions.items())}. {_ABOUT}"),
        wrapped(_TRUTH),
        "## In short",
        summary(ran),
        *trainings(ran),
        "## What is not right",
        faults(ran),
    ]
    not_built = [f"- {record['model']}: {first_line(record)}" for record in records if record["verdict"] == "not built"]
    not_run = [f"- {name}: {why}" for name, why in left_out.items()]
    if not_built or not_run:
        parts += ["Not run:", "\n".join([*not_built, *not_run])]
    for library, title in _TITLES.items():
        of_library = [record for record in ran if record["library"] == library]
        if of_library:
            parts += [f"## {title}", listing(of_library)]
    return "\n\n".join(parts) + "\n"


def summary(records: Sequence[Record]) -> str:
    """Return a line for each library: how many families are right, and how many models."""
    lines = []
    libraries = [library for library in _TITLES if any(record["library"] == library for record in records)]
    for title, chosen in [*((_TITLES[name], [name]) for name in libraries), ("all", libraries)]:
        models = [record for record in records if record["library"] in chosen]
        families: dict[tuple[str, str], set[str]] = {}
        for record in models:
            families.setdefault((record["library"], record["family"]), set()).add(record["verdict"])
        right = sum(verdicts == {"right"} for verdicts in families.values())
        counts = Counter(record["verdict"] for record in models)
        share = f"{right} of {len(families)}, {100 * right / max(len(families), 1):.0f} %"
        lines.append([title, share, *(str(counts[verdict]) for verdict in ("right", "wrong", "refused", "error"))])
    return table(["", "families right", "models right", "wrong", "refused", "error"], lines)


def trainings(records: Sequence[Record]) -> list[str]:
    """Return a paragraph on the trainings, if there were any."""
    trained = [record["training"] for record in records if "training" in record]
    if not trained:
        return []
    same = sum(training["same_weights"] for training in trained)
    with_pictures = sum(bool(training["pictures"]) for training in trained)
    silent = sum(not training["said"] for training in trained)
    return [
        wrapped(
            f"{len(trained)} of them were also trained for a step, with `SaliencyCallback()` and without: {same} ended "
            f"with the same weights, bit for bit, {with_pictures} with pictures in the event file, {silent} without a "
            "word of the callback's."
        )
    ]


def faults(records: Sequence[Record]) -> str:
    """Return a line for each model that is not right."""
    lines = [
        f"- {record['library']}, {record['model']}: {record['verdict']}"
        + (f", `{record['layer']}`" if "layer" in record else "")
        + f": {first_line(record)}"
        for record in records
        if record["verdict"] != "right"
    ]
    return "\n".join(lines) or "Nothing."


def first_line(record: Record) -> str:
    """Return the first line of the reason, not too long."""
    line = record["reason"].partition("\n")[0]
    return line if len(line) <= 220 else f"{line[:219]}…"


def listing(records: Sequence[Record]) -> str:
    """Return what was read of each model, a row a model."""
    rows = []
    for record in records:
        height, width = record["size"]
        rows.append([record["model"], f"{height}×{width}", *read(record), record["verdict"]])
    return table(["model", "images", "layer", "map", "order", "beside, behind", "default methods", ""], rows)


def read(record: Record) -> list[str]:
    """Return the layer, its map, its order, what goes beside it and comes behind it, and the methods."""
    methods = ", ".join(record.get("methods", [])) or "–"
    if "truth" not in record:
        return ["–", "–", "–", "–", methods]
    truth, reading = record["truth"], record["reading"]
    grid = "×".join(map(str, truth["grid"]))
    tokens = f" after {reading['prefix']}" if reading["prefix"] else ""
    tokens += f" before {reading['suffix']}" if reading["suffix"] else ""
    layer = f"`{record['layer']}` ({record['module']})"
    shares = f"{100 * truth['beside']:.0f} %, {100 * truth['behind']:.0f} %"
    return [layer, f"{reading['axes']} {grid}{tokens}", record["order"], shares, methods]
