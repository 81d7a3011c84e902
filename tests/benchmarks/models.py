"""Whether the layer that is chosen with no settings is right, on the published models of today.

Each model is built with random weights; `find_layers` chooses a layer, `explain` explains two images with its
default methods, and what was chosen is held against numbers that are measured without the library (model_truth.py).

    pip install -e ".[models]"
    PYTHONPATH=tests python tests/benchmarks/models.py                       # all of them, in less than an hour
    PYTHONPATH=tests python tests/benchmarks/models.py --only 'swin*' --json models.jsonl
    PYTHONPATH=tests python tests/benchmarks/models.py --page docs/models.md
    PYTHONPATH=tests python tests/benchmarks/models.py --only 'vit_tiny*' --train   # with a training of one step

Each model has a process of its own, with a limit of time and memory, so that one that fails ends nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import shlex
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import model_training
import torch
from hugging_face_models import NOT_RUN, hugging_face_models
from model_kinds import Published, Size, built, random_images
from model_page import page
from model_truth import grad_cam, has_aspect, measure, misread, shortcoming
from model_watching import Reading
from other_models import torch_models, torchvision_models, vit_pytorch_models
from timm_models import timm_models
from torch import nn

from lightning_saliency import explain
from lightning_saliency.attribution import default_methods
from lightning_saliency.evidence import TargetLayer, find_layers, find_target_layer

Record = dict[str, Any]

_IMAGES = 2
_EXPLAINED = 4
_CONTEXT = multiprocessing.get_context("fork")  # what is imported once serves all


def all_models() -> list[Published]:
    """Return the models of the sweep."""
    libraries = (timm_models, hugging_face_models, torchvision_models, torch_models, vit_pytorch_models)
    return [published for models in libraries for published in models()]


def examine(published: Published, train: bool) -> Record:
    """Build a model, and return what is chosen on it, and whether that is right."""
    try:
        model, size = built(published)
    except Exception as error:  # the model's own, whatever it is
        return {"verdict": "not built", "reason": str(error)[:500]}
    record: Record = {"size": size, "verdict": "right", "has_map": published.has_map}
    for step in (choose, judge, explain_by_default, compare, learn)[: None if train else -1]:
        try:
            record |= step(model, size, record)
        except Exception as error:
            is_reason = isinstance(error, ValueError)
            reason = str(error) if is_reason else f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            return {**record, "verdict": "refused" if is_reason else "error", "reason": f"{step.__name__}: {reason}"}
        if record["verdict"] != "right":
            return record
    return record


def choose(model: nn.Module, size: Size, record: Record) -> Record:
    """Return the layer and the methods that are chosen with no settings."""
    layers = find_layers(model, random_images(_IMAGES, size))
    inputs = [asdict(reading_of(layer)) for layer in layers.attention_inputs]
    found = {"methods": list(default_methods(layers)), "attention_inputs": inputs}
    if layers.target is None:
        verdict = "refused" if record["has_map"] else "right"
        return {**found, "verdict": verdict, "reason": layers.problem}
    layer = layers.target
    module = type(model.get_submodule(layer.name)).__name__
    reading = asdict(reading_of(layer))
    return {**found, "layer": str(layer), "module": module, "reading": reading, "activated": layer.activated}


def reading_of(layer: TargetLayer) -> Reading:
    """Return how a layer is said to be read, in this script's own words."""
    layout = layer.layout
    return Reading(layer.name, layout.axes, layout.prefix, layout.suffix, tuple(layout.element))


def judge(model: nn.Module, size: Size, record: Record) -> Record:
    """Return what is true of the chosen layer, and whether it is right."""
    if "reading" not in record:
        return {}
    reading = Reading(**record["reading"])
    truth = measure(model, reading, size)
    inputs = [Reading(**given) for given in record["attention_inputs"]]
    reason = shortcoming(truth, reading.axes, size) or misread(model, inputs, truth, size)
    verdict = {} if reason is None else {"verdict": "wrong", "reason": reason}
    return {"truth": asdict(truth), "order": str(truth.order), **verdict}


def explain_by_default(model: nn.Module, size: Size, record: Record) -> Record:
    """Return the default methods, and what is wrong with their attributions."""
    explanation = explain(model, random_images(_EXPLAINED, size), methods=record["methods"])
    faults = []
    for method, maps in explanation.attributions.items():
        if maps.dim() != 4 or maps.shape[:2] != (_EXPLAINED, 1) or not has_aspect(maps.shape[2:], size):
            faults.append(f"{method} is {tuple(maps.shape)} for {_EXPLAINED} images of {size[0]}×{size[1]}")
        elif not maps.isfinite().all():
            faults.append(f"{method} is not finite")
        elif (maps.amax((1, 2, 3)) == maps.amin((1, 2, 3))).all():
            faults.append(f"{method} is constant")
    return {"verdict": "wrong", "reason": "; ".join(faults)} if faults else {}


def compare(model: nn.Module, size: Size, record: Record) -> Record:
    """Return whether Grad-CAM is that of the chosen map, read without the library."""
    if record.get("activated", True):  # or no map
        return {}
    images = random_images(_IMAGES, size)
    layer = find_target_layer(model, images)
    ours = explain(model, images, methods=["grad_cam"], layer=layer).attributions["grad_cam"]
    expected = grad_cam(model, Reading(**record["reading"]), images)
    if ours.shape == expected.shape and (ours - expected).abs().max() <= 1e-2 * expected.abs().max():
        return {}
    return {"verdict": "wrong", "reason": "Grad-CAM is not that of the map as it is said to be read"}


def learn(model: nn.Module, size: Size, _: Record) -> Record:
    """Return what came of a training of one step with the callback."""
    result = model_training.train(model, size)
    faults = [] if result["same_weights"] else ["the callback changed the weights"]
    if not result["pictures"]:
        faults.append("the callback wrote no picture")
    return {"training": result, **({"verdict": "wrong", "reason": "; ".join(faults)} if faults else {})}


def run_apart(published: Published, seconds: float, gigabytes: float, train: bool) -> Record:
    """Examine a model in a process of its own."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, published, gigabytes, train))
    start = time.monotonic()
    process.start()
    sender.close()
    record: Record = {"verdict": "error", "reason": f"no answer after {seconds:.0f} s"}
    if receiver.poll(seconds):
        try:
            record = receiver.recv()
        except EOFError:
            process.join()
            record = {"verdict": "error", "reason": f"its process ended with {process.exitcode}"}
    process.kill()
    process.join()
    about = {"library": published.library, "family": published.family, "model": published.name}
    return {**about, **record, "seconds": round(time.monotonic() - start, 1)}


def _send(sender: Connection, published: Published, gigabytes: float, train: bool) -> None:
    """Examine a model, and send what is found."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.filterwarnings("ignore")  # the libraries' own
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sender.send(examine(published, train))


def main(argv: Sequence[str] | None = None) -> list[Record]:
    """Examine the models, and write what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="of a model's name or family")
    parser.add_argument("--library", nargs="+", help="timm, transformers, torchvision, torch.nn, vit-pytorch")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600, help="the most for a model")
    parser.add_argument("--gigabytes", type=float, default=16, help="the most for a model")
    parser.add_argument("--train", action="store_true", help="also train each for a step, with the callback")
    parser.add_argument("--list", action="store_true", help="print the models, and run none")
    parser.add_argument("--json", type=Path, help="write a line for each model there, beside those of others")
    parser.add_argument("--page", type=Path, help="write the tables there, in Markdown")
    args = parser.parse_args(argv)
    everything = all_models()
    models = [
        published
        for published in everything
        if (args.library is None or published.library in args.library)
        and any(fnmatch(name, pattern) for name in (published.name, published.family) for pattern in args.only)
    ]
    if args.list:
        print(*(f"{published.library}: {published.family}: {published.name}" for published in models), sep="\n")
        return []
    found = earlier(args.json)
    with ThreadPoolExecutor(args.processes) as threads:
        run = partial(run_apart, seconds=args.seconds, gigabytes=args.gigabytes, train=args.train)
        for published, record in zip(models, threads.map(run, models), strict=True):
            found[published.library, published.name] = record
            print(told(record), flush=True)
            if args.json:  # each time: it is a long way
                args.json.write_text("".join(f"{json.dumps(line)}\n" for line in found.values()))
    names = [(published.library, published.name) for published in everything]
    records = [found[name] for name in names if name in found]
    print(", ".join(f"{count} {verdict}" for verdict, count in Counter(r["verdict"] for r in records).most_common()))
    if args.page:
        versions = {
            library: version(library) for library in ("torch", "torchvision", "timm", "transformers", "vit-pytorch")
        }
        flags = ["--train"] if args.train else []
        command = shlex.join(["python", "tests/benchmarks/models.py", *flags, "--page", str(args.page)])
        args.page.write_text(page(records, versions, f"PYTHONPATH=tests {command}", NOT_RUN), encoding="utf-8")
    return records


def earlier(path: Path | None) -> dict[tuple[str, str], Record]:
    """Return what an earlier run has found, by library and model."""
    if path is None or not path.exists():
        return {}
    records = map(json.loads, path.read_text().splitlines())
    return {(record["library"], record["model"]): record for record in records}


def told(record: Record) -> str:
    """Return a line about a model."""
    read = " ".join(str(record.get(key, "")) for key in ("layer", "order"))
    reason = record.get("reason", "").partition("\n")[0][:200]
    return f"{record['verdict']:9} {record['model']}: {read} {reason} ({record['seconds']} s)"


if __name__ == "__main__":
    main()
