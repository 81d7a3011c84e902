"""`announcement`: in a line, what a callback shows and where it is seen."""

from __future__ import annotations

import os
import shlex
from typing import Any

from lightning_saliency.attribution import describe_readings
from lightning_saliency.callbacks.outputs import Look
from lightning_saliency.loggers import run_folder


def announcement(who: str, look: Look) -> str:
    """Return what is shown: how many samples, by which methods, read at which layer; where, and how to see it.

    Args:
        who: The callback's name.
        look: Its first look.
    """
    count = len(look.samples)
    shown = f"{who} shows {count} sample{'' if count == 1 else 's'}"
    if look.explained:
        explanation = look.explained[0].explanation
        keys = list(explanation.attributions)
        reading = describe_readings(explanation, keys)
        shown += f" by {', '.join(keys)}" + (f", {reading}" if reading else "")
    folder = run_folder(look.trainer.loggers, look.trainer.default_root_dir)
    return f"{shown}. They are kept in {folder}{_how_to_see(look.trainer.loggers)}."


def _how_to_see(loggers: Any) -> str:
    """Return the command that shows the pictures, where a logger writes event files."""
    for logger in loggers:
        folder = getattr(logger, "root_dir", None) or getattr(logger, "save_dir", None)
        if folder and hasattr(getattr(logger, "experiment", None), "add_image"):
            place = folder if "://" in folder else os.path.relpath(folder)
            return f"; see them by `tensorboard --logdir {shlex.quote(place)} --samples_per_plugin images=500`"
    return ""
