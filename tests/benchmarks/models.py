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
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from hugging_face_models import NOT_RUN, hugging_face_models
from model_kinds import Published
from model_page import page
from model_verdict import Record, examine
from other_models import torch_models, torchvision_models, vit_pytorch_models
from timm_models import timm_models

_CONTEXT = multiprocessing.get_context("fork")  # what is imported once serves all


def all_models() -> list[Published]:
    """Return the models of the sweep."""
    libraries = (timm_models, hugging_face_models, torchvision_models, torch_models, vit_pytorch_models)
    return [published for models in libraries for published in models()]


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
