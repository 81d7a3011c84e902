"""How much looking costs, beside the floor and beside the libraries that people use today.

Everything of a table runs in one process, interleaved: each round runs every contender once, and the ratios are those
of the medians. Random weights, random images.

    pip install -e ".[benchmarks]"
    python tests/benchmarks/speed.py                                       # all of it, on the CPU
    python tests/benchmarks/speed.py methods --models resnet18 --batches 8
    python tests/benchmarks/speed.py --device cuda --json figures.json
    python tests/benchmarks/speed.py callbacks --device cuda --json figures.json   # that section anew
    python tests/benchmarks/speed.py --page docs/performance.md

F is one forward under `no_grad`; FB one forward and one backward to the input, without gradients of parameters; S one
training step (forward, backward, SGD with momentum). Ours is given the layer, as the callback is after its first call.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import logging
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import pytorch_lightning as L
import torch
import torch.nn.functional as F
import torchvision
from measuring import in_turn, medians, peak_bytes
from page import page
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import normalize, resize

from lightning_saliency import Forward, SaliencyCallback, Style, explain, load_record
from lightning_saliency.attribution import ExplainedSamples, HeatmapStage
from lightning_saliency.callbacks import Execution
from lightning_saliency.data import SampleBatch
from lightning_saliency.loggers import log_pictures
from lightning_saliency.visualization import draw_sheets, grid, to_pictures

GRADIENT_CAMS = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam")
CAM_FAMILY = ("cam", *GRADIENT_CAMS)
EVERYTHING = (*CAM_FAMILY, "saliency", "input_x_gradient")
THREE = ("grad_cam", "grad_cam_plus_plus", "saliency")
LAYERS = {"resnet18": "layer4", "resnet50": "layer4", "vgg16": "features.29"}

Figures = dict[str, float]


def network(name: str, device: torch.device, classes: int = 1000) -> nn.Module:
    """Return a torchvision model with random weights."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return model.to(device).eval()


def floor(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Callable[[], Any]]:
    """Return one forward, one forward and backward to the input, and one training step, laid out as the images are."""
    trained = network_like(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-9, momentum=0.9)

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def forward_and_backward() -> None:
        leaf = images.detach().clone().requires_grad_()
        scores = model(leaf.clone()).gather(1, labels[:, None]).sum()
        torch.autograd.grad(scores, leaf)

    @torch.enable_grad()
    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(trained(images), labels).backward()
        optimizer.step()

    return {"F": forward, "FB": forward_and_backward, "S": step}


def network_like(model: nn.Module) -> nn.Module:
    """Return a copy in train mode."""
    return copy.deepcopy(model).train()


def ours(
    model: nn.Module, images: Tensor, labels: Tensor, layer: str, methods: Sequence[str], **options: Any
) -> Callable[[], Any]:
    """Return our methods from one pass, the layer given."""
    return lambda: explain(model, images, methods=methods, target=labels, layer=layer, **options)


COLOR = 1 / 256  # of a heatmap: one of the colors that it is shown in
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photographs(count: int) -> tuple[Tensor, Tensor]:
    """Return crops of scikit-learn's two photographs, as ImageNet's models take them, and in [0, 1]."""
    sources = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for number in range(count):
        source = sources[number % len(sources)]
        top, left = (int(torch.randint(0, side - 300, (), generator=generator)) for side in source.shape[1:])
        crops.append(resize(source[:, top : top + 300, left : left + 300], [224, 224]).float() / 255)
    photos = torch.stack(crops)
    return normalize(photos, MEAN, STD), photos


def fitting(methods: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the methods that a model has: VGG-16 has no global average pooling before a linear layer, so no `cam`."""
    return tuple(method for method in methods if method != "cam" or name != "vgg16")


def data(batch: int, device: torch.device, size: int = 224, classes: int = 1000) -> tuple[Tensor, Tensor]:
    """Return random images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator)
    return images.to(device), torch.randint(0, classes, (batch,), generator=generator).to(device)


# --- the tables: each yields rows of figures


def methods(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """The methods, in F and in FB; each library's in units of the same floor."""
    import peers

    for name in args.models:
        for batch in args.batches:
            model = network(name, args.device)
            images, labels = data(batch, args.device)
            layer = LAYERS[name]
            look = partial(ours, model, images, labels, layer)
            libraries = {
                "grad-cam": peers.grad_cam_library(model, images, labels, layer),
                "torchcam": peers.torchcam_library(model, images, labels, layer),
                "captum": peers.captum_library(model, images, labels, layer),
            }
            contenders = floor(model, images, labels)
            laid_out = floor(model, images.contiguous(memory_format=torch.channels_last), labels)
            contenders |= {f"{key}, channels last": laid_out[key] for key in ("F", "FB")}
            family, everything = look(fitting(CAM_FAMILY, name)), look(fitting(EVERYTHING, name))
            if name != "vgg16":
                contenders["cam"] = look(("cam",))
            contenders["CAM family"] = family
            contenders["CAM family, laid out as usual"] = usual_layout(family)
            contenders["everything"] = everything
            contenders["everything, laid out as usual, all at once"] = all_at_once(usual_layout(everything))
            contenders["three"] = look(THREE)
            saliency = libraries["captum"]["saliency"]
            for library in ("grad-cam", "torchcam"):
                calls = libraries[library]
                contenders[f"{library}: its CAM methods"] = in_turn(*calls.values())
                contenders[f"{library} and captum: three"] = in_turn(
                    calls["grad_cam"], calls["grad_cam_plus_plus"], saliency
                )
            contenders["captum: its three"] = in_turn(*libraries["captum"].values())
            found = medians(contenders, args.rounds, args.device)
            row = {"F in ms": 1000 * found["F"], "FB / F": found["FB"] / found["F"], "S / F": found["S"] / found["F"]}
            of_forward = ("F, channels last", "cam", "CAM family", "CAM family, laid out as usual")
            row |= {f"{key} / F": found[key] / found["F"] for key in of_forward if key in found}
            others = [key for key in found if key not in ("F", "FB", "S", *of_forward)]
            row |= {f"{key} / FB": found[key] / found["FB"] for key in others}
            row["everything / S"] = found["everything"] / found["S"]
            yield f"{name}, batch {batch}", row


def usual_layout(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same, without the layout that is faster on a CPU."""
    return without(run, f"{Forward.__module__}._CHANNELS_LAST_PIXELS")


def all_at_once(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same, without the chunks that are faster on a CPU."""
    return without(run, f"{explain.__module__}._CACHED_PIXELS")


def without(run: Callable[[], Any], limit: str) -> Callable[[], Any]:
    """Return the same with a limit out of reach."""
    module, _, name = limit.rpartition(".")

    def call() -> Any:
        with patch.object(importlib.import_module(module), name, 10**12):
            return run()

    return call


def memory(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """The peak that torch holds beyond model and images, batch 16."""
    for name in args.models:
        model = network(name, args.device)
        images, labels = data(16, args.device)
        look = partial(ours, model, images, labels, LAYERS[name])
        runs = floor(model, images, labels)
        runs |= {
            "CAM family": look(fitting(CAM_FAMILY, name)),
            "everything": look(fitting(EVERYTHING, name)),
            "everything in chunks of 4": look(fitting(EVERYTHING, name), chunk_size=4),
        }
        held = {key: peak_bytes(run, args.device) for key, run in runs.items()}
        yield (
            name,
            {
                "F in MiB": held["F"] / 2**20,
                "FB in MiB": held["FB"] / 2**20,
                "S in MiB": held["S"] / 2**20,
                "CAM family / F": held["CAM family"] / held["F"],
                "everything / FB": held["everything"] / held["FB"],
                "everything in chunks of 4 / FB": held["everything in chunks of 4"] / held["FB"],
            },
        )


def beyond(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """What else was tried, batch 16, all methods: time, memory, and how far heatmaps are from those in float64."""
    for name in args.models:
        model = network(name, args.device)
        images, labels = photographs(16)[0].to(args.device), torch.arange(16, device=args.device)
        options = {"methods": fitting(EVERYTHING, name), "target": labels, "layer": LAYERS[name]}
        look = partial(explain, model, images, **options)
        autocast = partial(torch.autocast, args.device.type, torch.bfloat16)
        tries: dict[str, Callable[[], Any]] = {
            "as usual: all at once": all_at_once(usual_layout(look)),
            "channels last": all_at_once(look),
            "channels last, in chunks of 8: as it is": look,
            "channels last, in chunks of 4": partial(look, chunk_size=4),
            "as usual, in chunks of 1": partial(look, chunk_size=1),
            "as it is, autocast to bfloat16": partial(explain, Forward(model, context=autocast), images, **options),
        }
        floors = {"FB": floor(model, images, labels)["FB"]}
        found = medians(floors | tries, args.rounds, args.device)
        exact = look_exactly(model, images, fitting(EVERYTHING, name), labels, LAYERS[name])
        held = peak_bytes(floors["FB"], args.device)
        for key, run in tries.items():
            heatmaps = run().heatmaps()
            off = {method: (maps - exact[method]).abs() > COLOR for method, maps in heatmaps.items()}
            yield (
                f"{name}, {key}",
                {
                    "time / FB": found[key] / found["FB"],
                    "memory / FB": peak_bytes(run, args.device) / held,
                    "CAMs' pixels off in %": 100
                    * float(torch.stack([off[cam] for cam in GRADIENT_CAMS]).float().mean()),
                    "saliency's pixels off in %": 100 * float(off["saliency"].float().mean()),
                },
            )


def look_exactly(
    model: nn.Module, images: Tensor, methods: Sequence[str], labels: Tensor, layer: str
) -> dict[str, Tensor]:
    """Return the heatmaps in float64."""
    exact = copy.deepcopy(model).double()
    return explain(exact, images.double(), methods=methods, target=labels, layer=layer, chunk_size=4).heatmaps()


def pictures(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """From the maps of 8 photographs by three methods to a written and flushed TensorBoard event, in F of resnet18."""
    import peers

    model = network("resnet18", args.device)
    images, photos = photographs(8)
    labels = torch.arange(8)
    explanation = explain(model, images.to(args.device), methods=THREE, layer="layer4")
    style = Style(mean=MEAN, std=STD, cards="all")
    samples = SampleBatch(explanation.call.to("cpu"), truths=tuple(labels.tolist()), positions=tuple(range(8)))
    shown = [photo.permute(1, 2, 0).numpy() for photo in photos]
    heatmaps = {key: maps[:, 0].cpu().numpy() for key, maps in explanation.heatmaps().items()}
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        writer: SummaryWriter = logger.experiment

        def sheets() -> None:
            # heatmaps of its own each time, since these are made once for a look
            looked = ExplainedSamples(samples, explanation, HeatmapStage(explanation))
            drawn = draw_sheets([looked], style, title="epoch 1", explained="true class")
            log_pictures(logger, drawn, 0)
            writer.flush()

        def one_grid() -> None:
            drawn = grid(to_pictures(images, style), explanation.heatmaps(), title="epoch 1")
            log_pictures(logger, {"grid": drawn}, 0)
            writer.flush()

        def in_a_loop(overlays: Callable[..., list[Any]]) -> Callable[[], None]:
            def run() -> None:
                for key, maps in heatmaps.items():
                    for at, picture in enumerate(overlays(shown, maps)):
                        writer.add_image(f"{key}/{at}", picture, 0, dataformats="HWC")
                writer.flush()

            return run

        def figures() -> None:
            for key, maps in heatmaps.items():
                for at, figure in enumerate(peers.captum_figures(shown, maps)):
                    writer.add_figure(f"{key}/{at}", figure, 0)
            writer.flush()

        def one_figure() -> None:
            figure, axes = plt.subplots(len(shown), 1 + len(heatmaps), figsize=(6.4, 12.8), layout="constrained")
            for row, picture in enumerate(shown):
                for column, maps in enumerate([None, *heatmaps.values()]):
                    axes[row, column].imshow(picture)
                    axes[row, column].axis("off")
                    if maps is not None:
                        axes[row, column].imshow(maps[row], cmap="turbo", alpha=0.5)
            writer.add_figure("figure", figure, 0)  # which closes it
            writer.flush()

        contenders = {
            "F": floor(model, images.to(args.device), labels.to(args.device))["F"],
            "one grid": one_grid,
            "a sheet a method, and that of all": sheets,
            "one matplotlib figure": one_figure,
            "grad-cam's overlays in a loop": in_a_loop(peers.overlays),
            "torchcam's overlays in a loop": in_a_loop(peers.torchcam_overlays),
            "captum's figures in a loop": figures,
        }
        found = medians(contenders, args.rounds, args.device)
    yield "8 photographs, three methods", {f"{key} / F": found[key] / found["F"] for key in contenders if key != "F"}


class Classifier(L.LightningModule):
    """A network, and how it is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """See the batch."""
        self(batch[0])

    def configure_optimizers(self) -> Any:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), lr=1e-9)


class Times(L.Callback):
    """Calls other callbacks by turns at the end of a validation, and a training step between them."""

    def __init__(self, rivals: dict[str, L.Callback], step: Callable[[], Any], args: argparse.Namespace) -> None:
        self.rivals, self.step, self.args = rivals, step, args
        self.taken: Figures = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the times."""
        if trainer.sanity_checking:
            return
        flush = trainer.logger.experiment.flush
        runs = {
            key: in_turn(partial(rival.on_validation_epoch_end, trainer, pl_module), flush)
            for key, rival in self.rivals.items()
        }
        self.taken = medians({"S": self.step, **runs}, self.args.rounds, self.args.device)


def callbacks(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """A whole call, 16 photographs and three methods, in S of 16 images; the callback that people paste beside it."""
    for name in args.models:
        taken = times_of_callbacks(name, args)
        yield (
            name,
            {
                **{f"{key} / S": value / taken["S"] for key, value in taken.items() if key != "S"},
                "pasted / ours": taken["pasted"] / taken["ours"],
                "pasted / ours, pictures alone": taken["pasted"] / taken["ours, pictures alone"],
            },
        )


def times_of_callbacks(name: str, args: argparse.Namespace) -> Figures:
    """Return the median of each callback's call, in seconds, and that of a training step."""
    import peers

    images, photos = photographs(16)
    labels = torch.arange(16)
    shown = [photo.permute(1, 2, 0).numpy() for photo in photos]
    model = network(name, args.device)
    step = floor(model, images.to(args.device), labels.to(args.device))["S"]
    ours_of = partial(
        SaliencyCallback,
        THREE,
        layer=f"model.{LAYERS[name]}",
        samples=16,
        style=Style(mean=MEAN, std=STD),
        execution=Execution(on_error="raise"),
    )
    rivals: dict[str, L.Callback] = {  # each with a name of its own, since they share the trainer
        "ours": ours_of(name="ours"),
        "ours, pictures alone": ours_of(name="pictures", history=False, metrics=False),
        "pasted": peers.PastedCallback(images.to(args.device), labels.to(args.device), shown, LAYERS[name]),
    }
    times = Times(rivals, step, args)
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(TensorDataset(images, labels), batch_size=16)
        trainer = L.Trainer(
            max_epochs=1,
            limit_train_batches=1,
            logger=TensorBoardLogger(folder),
            callbacks=[*rivals.values(), times],
            accelerator="gpu" if args.device.type == "cuda" else "cpu",
            devices=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(model), loader, loader)
    return times.taken


def growth(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """How the cost grows, resnet18: with the batch, the image's side, the methods, the classes."""
    model = network("resnet18", args.device)

    def against_floor(model: nn.Module, images: Tensor, labels: Tensor, methods: Sequence[str]) -> Figures:
        contenders = floor(model, images, labels)
        contenders.pop("S")
        contenders["CAM family"] = ours(model, images, labels, "layer4", CAM_FAMILY)
        contenders["methods"] = ours(model, images, labels, "layer4", methods)
        found = medians(contenders, args.rounds, args.device)
        return {
            "F in ms": 1000 * found["F"],
            "CAM family / F": found["CAM family"] / found["F"],
            "everything / FB": found["methods"] / found["FB"],
        }

    for batch in (1, 2, 4, 8, 16, 32, 64):
        yield f"batch {batch}", against_floor(model, *data(batch, args.device), EVERYTHING)
    for size in (64, 128, 224, 384, 512):
        yield f"{size}×{size}, batch 8", against_floor(model, *data(8, args.device, size), EVERYTHING)
    for classes in (10, 1000, 20_000):
        wide = network("resnet18", args.device, classes)
        yield f"{classes} classes, batch 8", against_floor(wide, *data(8, args.device, 224, classes), EVERYTHING)
    images, labels = data(8, args.device)
    every = ("saliency", *CAM_FAMILY, "input_x_gradient")
    counts = {f"{count} methods": ours(model, images, labels, "layer4", every[:count]) for count in range(1, 9)}
    found = medians({"FB": floor(model, images, labels)["FB"], **counts}, args.rounds, args.device)
    for count, taken in found.items():
        if count != "FB":
            yield count, {"everything / FB": taken / found["FB"]}


IMPORTS = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def imports(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """The time to import, in that of `import pytorch_lightning, torchvision`."""

    def seconds(statement: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS.format(statement)], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    statements = ("import pytorch_lightning, torchvision", "from lightning_saliency import SaliencyCallback")
    rounds = [[seconds(statement) for statement in statements] for _ in range(args.rounds)]
    without_us, with_us = (statistics.median(times) for times in zip(*rounds, strict=True))
    yield "import", {"in seconds": without_us, "SaliencyCallback / both": with_us / without_us}


def sizes(args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """What an epoch adds on disk, 8 photographs, three methods; beside a PNG for each overlay."""
    import peers

    images, photos = photographs(8)
    labels = torch.arange(8)
    module = Classifier(network("resnet18", torch.device("cpu")))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        held: dict[int, tuple[int, int]] = {}

        class Weighs(L.Callback):
            """Notes the files' sizes after each epoch."""

            def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
                trainer.logger.experiment.flush()
                folder = Path(trainer.logger.log_dir)
                events, record = (
                    sum(path.stat().st_size for path in files)
                    for files in (folder.glob("events.*"), folder.glob("*.record/*.npz"))
                )
                held[trainer.current_epoch] = events, record

        callback = SaliencyCallback(THREE, style=Style(mean=MEAN, std=STD), execution=Execution(on_error="raise"))
        trainer = L.Trainer(
            max_epochs=args.epochs,
            limit_train_batches=1,
            logger=TensorBoardLogger(folder),
            callbacks=[callback, Weighs()],
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, loader)
        first, last = held[0], held[args.epochs - 1]
        assert len(load_record(trainer.logger.log_dir)) == args.epochs + 1
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        shown = [photo.permute(1, 2, 0).numpy() for photo in photos]
        for key, heatmaps in peers.pasted_maps(module.model.eval(), images, labels, "layer4").items():
            for at, picture in enumerate(peers.overlays(shown, heatmaps)):
                writer.add_image(f"{key}/{at}", picture, 0, dataformats="HWC")
        writer.close()
        pasted = sum(path.stat().st_size for path in Path(folder).iterdir())
    events, record = ((last[at] - first[at]) / (args.epochs - 1) for at in (0, 1))
    yield (
        f"an epoch, of {args.epochs}",
        {
            "events in kB": events / 1000,
            "record in kB": record / 1000,
            "a PNG each in kB": pasted / 1000,
            "events and record / a PNG each": (events + record) / pasted,
        },
    )


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[tuple[str, Figures]]]] = {
    section.__name__: section for section in (methods, memory, beyond, pictures, callbacks, growth, imports, sizes)
}


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Figures]]:
    """Run the sections, print their tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10, help="of the section `sizes`")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, help="write the figures there, beside those of other sections")
    parser.add_argument("--page", type=Path, help="write the tables there, in Markdown")
    args = parser.parse_args(argv)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # the libraries' own

    libraries = ("torch", "torchvision", "pytorch-lightning", "captum", "grad-cam", "torchcam")
    about = {library: version(library) for library in libraries}
    about |= {
        "device": device_name(args.device),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    found = earlier(args.json, about) if args.json else {}
    for name in args.sections or SECTIONS:
        print(f"\n## {name}: {SECTIONS[name].__doc__}\n", flush=True)
        found[name] = {}
        for row, figures in SECTIONS[name](args):
            found[name][row] = figures
            print(f"- {row}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()), flush=True)
            if args.json:  # each time: it is a long way
                args.json.write_text(json.dumps({"about": about, "figures": found}, indent=1) + "\n")
    if args.page:
        given = list(sys.argv[1:] if argv is None else argv)
        if "--json" in given:  # where these go is nobody's concern
            del given[given.index("--json") : given.index("--json") + 2]
        if found.keys() == SECTIONS.keys():  # without naming any, all of them are run
            given = [word for word in given if word not in SECTIONS]
            found = {name: found[name] for name in SECTIONS}
        command = shlex.join(["python", "tests/benchmarks/speed.py", *given])
        args.page.write_text(page(about, found, command), encoding="utf-8")
    return found


def earlier(path: Path, about: dict[str, str]) -> dict[str, dict[str, Figures]]:
    """Return the figures of sections that were run before, on the same machine with the same versions."""
    if not path.exists():
        return {}
    known = json.loads(path.read_text())
    if known["about"] != about:
        raise ValueError(f"{path} holds figures of {known['about']}, this is {about}: name another file.")
    figures: dict[str, dict[str, Figures]] = known["figures"]
    return figures


def device_name(device: torch.device) -> str:
    """Return what it runs on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


if __name__ == "__main__":
    main()
