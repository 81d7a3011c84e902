"""What `SaliencyCallback()` shows on published training code, with no settings.

Each client is a LightningModule with its data in the form in which a library, a tutorial or a template publishes it. It
is trained for an epoch with the callback and without, and what is shown is held against what its own model answers
(client_verdict.py).

    pip install -e ".[clients]"
    PYTHONPATH=tests python tests/benchmarks/clients.py                    # all of them, in about fifteen minutes
    PYTHONPATH=tests python tests/benchmarks/clients.py --only 'torchgeo*' --json clients.jsonl
    PYTHONPATH=tests python tests/benchmarks/clients.py --page docs/clients.md

Each client has a process of its own, with a limit of time and memory, so that one that fails ends nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from client_kinds import Client
from client_page import page
from client_verdict import judge

Record = dict[str, Any]

_MODULES = {
    "client_lightning": (),
    "client_templates": (),
    "client_tutorials": (),
    "client_unsupervised": (),
    "client_torchvision": ("torchvision",),
    "client_transformers": ("transformers",),
    "client_timm": ("timm",),
    "client_torchgeo": ("torchgeo",),
    "client_lightly": ("lightly",),
    "client_anomalib": ("anomalib",),
    "client_monai": ("monai",),
    "client_kornia": ("kornia",),
    "client_inputs": (),
    "client_outputs": (),
}
"""The modules that define clients, each with the libraries that it needs."""

_CONTEXT = multiprocessing.get_context("fork")  # what is imported once serves all


def load_clients() -> tuple[list[Client], dict[str, str]]:
    """Return the clients, and by library why its clients are not run."""
    clients: list[Client] = []
    left_out: dict[str, str] = {}
    for name, libraries in _MODULES.items():
        try:
            module = import_module(name)
        except ImportError as error:
            left_out[", ".join(libraries) or name] = f"cannot be imported: {error}"
            continue
        clients += defined_in(module)
        left_out |= getattr(module, "NOT_RUN", {})
    return clients, left_out


def defined_in(module: ModuleType) -> list[Client]:
    """Return the clients of a module: those that it defines one by one, and those that a function lists."""
    lists = [function for name, function in vars(module).items() if name.endswith("_clients")]
    return [
        *(value for value in vars(module).values() if isinstance(value, Client)),
        *(client for function in lists if function.__module__ == module.__name__ for client in function()),
    ]


def run_apart(client: Client, seconds: float, gigabytes: float) -> Record:
    """Judge a client in a process of its own."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, client, gigabytes))
    start = time.monotonic()
    process.start()
    sender.close()
    record: Record = {"verdict": "not run", "reason": f"no answer after {seconds:.0f} s"}
    if receiver.poll(seconds):
        try:
            record = receiver.recv()
        except EOFError:
            process.join()
            record = {"verdict": "not run", "reason": f"its process ended with {process.exitcode}"}
    process.kill()
    process.join()
    about = {"source": client.source, "client": client.name, "form": client.form}
    return {**about, **record, "seconds": round(time.monotonic() - start, 1)}


def _send(sender: Connection, client: Client, gigabytes: float) -> None:
    """Judge a client, and send what is found."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.filterwarnings("ignore")  # the libraries' own
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    sender.send(judge(client))


def main(argv: Sequence[str] | None = None) -> list[Record]:
    """Judge the clients, and write what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="of a client's name or source")
    parser.add_argument("--seconds", type=float, default=300, help="the most for a client")
    parser.add_argument("--gigabytes", type=float, default=16, help="the most for a client")
    parser.add_argument("--list", action="store_true", help="print the clients, and run none")
    parser.add_argument("--json", type=Path, help="write a line for each client there, beside those of others")
    parser.add_argument("--page", type=Path, help="write the table there, in Markdown")
    args = parser.parse_args(argv)
    everything, left_out = load_clients()
    clients = [
        client
        for client in everything
        if any(fnmatch(name, pattern) for name in (client.name, client.source) for pattern in args.only)
    ]
    if args.list:
        print(*(f"{client.source}: {client.name}: {client.form}" for client in clients), sep="\n")
        return []
    found = earlier(args.json)
    for client in clients:
        record = run_apart(client, args.seconds, args.gigabytes)
        found[client.source, client.name] = record
        print(told(record), flush=True)
        if args.json:  # each time: it is a long way
            args.json.write_text("".join(f"{json.dumps(line)}\n" for line in found.values()))
    names = [(client.source, client.name) for client in everything]
    records = [found[name] for name in names if name in found]
    print(", ".join(f"{count} {verdict}" for verdict, count in Counter(r["verdict"] for r in records).most_common()))
    if args.page:
        libraries = ["torch", "torchvision", "pytorch-lightning", *(name for of in _MODULES.values() for name in of)]
        versions = {library: version(library) for library in dict.fromkeys(libraries)}
        command = shlex.join(["python", "tests/benchmarks/clients.py", "--page", str(args.page)])
        args.page.write_text(page(records, versions, f"PYTHONPATH=tests {command}", left_out), encoding="utf-8")
    return records


def earlier(path: Path | None) -> dict[tuple[str, str], Record]:
    """Return what an earlier run has found, by source and client."""
    if path is None or not path.exists():
        return {}
    records = map(json.loads, path.read_text().splitlines())
    return {(record["source"], record["client"]): record for record in records}


def told(record: Record) -> str:
    """Return a line about a client."""
    words = " ".join([record["reason"], *record.get("words", ())])[:200]
    return f"{record['verdict']:8} {record['source']}: {record['client']}: {words} ({record['seconds']} s)"


if __name__ == "__main__":
    main()
