"""A client trained with `SaliencyCallback()` and without: what came out of it, in numbers and words."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytorch_lightning
import torch
from client_kinds import Case
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency import SaliencyCallback

_SEED = 7


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        case: The client, trained; None where an error came before.
        weights: A hash of its final weights; None where an error ended the training.
        error: The error's type and text, or None.
        words: What the callback said, each once.
        pictures: The tags of the pictures in the event file.
    """

    case: Case | None
    weights: str | None
    error: str | None
    words: tuple[str, ...]
    pictures: tuple[str, ...]


def train(build: Callable[[], Case], folder: Path, *, watched: bool) -> Outcome:
    """Train a client for an epoch, with the callback or without, always from the same random state."""
    case = error = None
    folder.mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _seed()
            case = build()
            _seed()
            _fit(case, folder, [SaliencyCallback()] if watched else [])
        except (Exception, SystemExit) as fault:
            error = f"{type(fault).__name__}: {fault}"
            if os.environ.get("CLIENTS_TRACE"):
                traceback.print_exc()
    gc.collect()
    words = dict.fromkeys(str(warning.message) for warning in caught if "SaliencyCallback" in str(warning.message))
    events = [EventAccumulator(str(file)).Reload().Tags()["images"] for file in folder.rglob("events*")]
    pictures = sorted({tag for tags in events for tag in tags if tag.startswith("saliency/")})
    return Outcome(case, weights_of(case.module) if case and not error else None, error, tuple(words), tuple(pictures))


def weights_of(module: torch.nn.Module) -> str:
    """Return a hash of all parameters and buffers."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            total.update(name.encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _fit(case: Case, folder: Path, callbacks: list[Any]) -> None:
    """Train as the client's own code would, with either name of Lightning."""
    package: Any = pytorch_lightning
    if not isinstance(case.module, package.LightningModule):
        package = lightning.pytorch
    options = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "callbacks": callbacks,
        "logger": package.loggers.TensorBoardLogger(folder, name="", version=""),
        "default_root_dir": folder,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options |= {**case.options, "callbacks": [*case.options.get("callbacks", ()), *callbacks]}
    trainer = (case.trainer or package.Trainer)(**options)
    if case.datamodule is not None:
        trainer.fit(case.module, datamodule=case.datamodule)
    else:
        trainer.fit(case.module, case.train, case.val)


def _seed() -> None:
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)
