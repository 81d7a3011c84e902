"""The figures as tables in Markdown, and the page that has them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

Figures = Mapping[str, float]

MARK = "<!-- the one table -->"

TEXTS = {
    "methods": (
        "All methods of a batch",
        """\
Random weights, random images of 224×224. F is one forward under `no_grad`; FB one forward and one backward to
the input, without gradients of parameters; S one training step (forward, backward, SGD with momentum). *CAM
family* is `cam`, `grad_cam`, `grad_cam_plus_plus`, `hires_cam`, `layer_cam` and `xgrad_cam` (without `cam` on
VGG-16, which has no global average pooling); *everything* is these with `saliency` and `input_x_gradient`;
*three* is `grad_cam`, `grad_cam_plus_plus` and `saliency`, the callback's default. The libraries are used as
their documentation uses them, a call a method: *its CAM methods* are `grad_cam`, `grad_cam_plus_plus`,
`hires_cam`, `layer_cam`, `xgrad_cam` for grad-cam, the same without `hires_cam` for torchcam. *captum: its
three* is Grad-CAM, saliency and input × gradient. Where a figure is below one, the pass is faster than the
floor: on a CPU it lays images out channels last, where they are many enough, and takes about eight at a
time, which F and FB do not. The rows *laid out as usual* and *channels last* compare like with like.""",
    ),
    "memory": (
        "Memory",
        """The most that torch holds beyond the model and the images, batch 16.""",
    ),
    "beyond": (
        "What else was tried",
        """
Batch 16, all methods, photographs; the floor, FB, is laid out as usual and takes all images at once. *As it is* is what
the pass does on a CPU: channels last, and about eight of 224×224 at a time, which stay nearer to the caches; fewer
than three of 224×224 at a time, or as many pixels of others, stay as they lie, since weights are laid out anew each
time. *Autocast* is what the pass does in a `bf16-mixed` training, since it runs in
the training's own precision; it is no option. *Pixels off* are those of the heatmaps that are another of the 256
colors than in float64, or nearly: where a ReLU or a maximum is undecided to within rounding, the gradient goes to
either side, and float32 has such pixels however it is laid out.""",
    ),
    "pictures": (
        "Pictures",
        """\
From the maps of 8 photographs of 224×224 by three methods to a TensorBoard event that is written and flushed,
in F of ResNet-18 at batch 8. *One grid* has all 32 cells in one picture, as has *one matplotlib figure*, and as has
what the callback writes by default; *a sheet a method, and that of all*, four pictures, is what it writes with
`Style(cards="all")`. The loops write each overlay by itself, 24 pictures with no words on them.""",
    ),
    "callbacks": (
        "A whole call of the callback",
        """\
16 photographs, three methods, TensorBoard: collecting, explaining, drawing, measuring, recording and writing,
until the event file is flushed, in S of batch 16. *Pasted* is the callback that people paste: Grad-CAM and
Grad-CAM++ of grad-cam, saliency of captum, overlays in a loop. The filmstrips, drawn ever more rarely, are not
in it. The checksums that TensorBoard's writer computes in Python, in a thread of its own, are.""",
    ),
    "growth": (
        "As work grows",
        """ResNet-18. The floor of each row is that of its own batch.""",
    ),
    "imports": (
        "Import",
        """\
`from lightning_saliency import SaliencyCallback`, beside `import pytorch_lightning, torchvision` in the same run;
`import lightning_saliency` by itself loads neither.""",
    ),
    "sizes": (
        "Bytes",
        """What an epoch adds on disk: 8 photographs of 224×224, three methods, 1000 classes. *A PNG each* is the usual
way, an overlay a sample and method through `add_image`.""",
    ),
}


def page(about: Mapping[str, str], found: Mapping[str, Mapping[str, Figures]], command: str) -> str:
    """Return the page."""
    versions = ", ".join(f"{name} {version}" for name, version in about.items())
    parts = [
        "# Performance",
        "All figures of this page come from",
        f"```bash\n{command}\n```",
        wrapped(
            f"with {versions}. The figures of a section come from one run: what is compared ran interleaved, in one "
            "process, each round in another order, and each ratio is one of medians. "
            "Another run gives figures that differ by a few percent."
        ),
    ]
    if {"methods", "callbacks"} <= found.keys():
        parts += ["## In short", MARK, in_short(found)]
    for name, rows in found.items():
        title, text = TEXTS[name]
        parts += [f"## {title}", wrapped(text), *tables(rows)]
    return "\n\n".join(parts) + "\n"


def wrapped(text: str) -> str:
    """Return a paragraph in lines."""
    return fill(" ".join(text.split()), 119, break_on_hyphens=False, break_long_words=False)


def in_short(found: Mapping[str, Mapping[str, Figures]]) -> str:
    """Return the table that matters, a column a model."""
    batch = max(int(row.rpartition(" ")[2]) for row in found["methods"])
    columns = [row for row in found["methods"] if row.endswith(f"batch {batch}")]
    of_pass = {
        "CAM family, in forwards": "CAM family / F",
        "all eight methods, in forwards with a backward": "everything / FB",
        "the same, in training steps": "everything / S",
        "three methods: ours": "three / FB",
        "… torchcam and captum": "torchcam and captum: three / FB",
        "… grad-cam and captum": "grad-cam and captum: three / FB",
    }
    of_call = {
        "a whole call of the callback, in training steps: ours": "ours / S",
        "… ours without numbers and record": "ours, pictures alone / S",
        "… what people paste": "pasted / S",
    }
    models = [row.partition(",")[0] for row in columns]
    lines = [[title, *(written(key, found["methods"][row][key]) for row in columns)] for title, key in of_pass.items()]
    lines += [
        [title, *(written(key, found["callbacks"][model][key]) for model in models)] for title, key in of_call.items()
    ]
    return table([f"batch {batch}, 224×224, CPU", *models], lines)


def tables(rows: Mapping[str, Figures]) -> list[str]:
    """Return a table for the rows that have the same figures; one with the rows as columns where figures are many."""
    keys = list(dict.fromkeys(key for figures in rows.values() for key in figures))
    if len(keys) > 6:
        lines = [[key, *(written(key, figures.get(key)) for figures in rows.values())] for key in keys]
        return [table(["", *rows], lines)]
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for row, figures in rows.items():
        cells = [written(key, figure) for key, figure in figures.items()]
        kinds.setdefault(tuple(figures), []).append([row, *cells])
    return [table(["", *kind], lines) for kind, lines in kinds.items()]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, lines)])


def line(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def written(key: str, figure: float | None) -> str:
    """Return a figure with the digits that mean something."""
    if figure is None:
        return "–"
    if "pixels off" in key:
        return f"{figure:.3f}"
    if key.endswith((" in ms", " in MiB", " in kB")):
        return f"{figure:.0f}"
    return f"{figure:.2f}"
