"""A picture, a tag and a step, to any Lightning logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor


def log_picture(logger: Any, tag: str, picture: Tensor, step: int) -> None:
    """Write a picture to a Lightning logger, by what it can do.

    In this order: the experiment's `add_image` (TensorBoard), the logger's `log_image` (Weights & Biases), the
    experiment's `log_image` (MLflow, Comet), and for the others (CSV) a PNG file `<tag>/step=<step>.png` in the
    logger's own `log_dir`. To be called on one rank only: it never asks the trainer for a folder, which would wait for
    the other ranks.

    Args:
        logger: One of `trainer.loggers`.
        tag: As in TensorBoard, `saliency/grad_cam`.
        picture: uint8 `(3, H, W)`.
        step: On the same axis as Lightning's scalars; see `scalar_step`.

    Raises:
        ValueError: The logger can take no pictures and has no folder.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):
        experiment.add_image(tag, picture, step)
    elif hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[_image(picture)], step=step)
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):
        experiment.log_image(logger.run_id, picture.permute(1, 2, 0).numpy(), key=tag, step=step)
    elif hasattr(experiment, "log_image"):
        experiment.log_image(_image(picture), name=tag, step=step)
    else:
        folder = logger.log_dir or logger.save_dir
        if not folder:
            raise ValueError(
                f"{type(logger).__name__} takes no pictures and has no `log_dir` to write PNG files to. "
                "Add a TensorBoardLogger to the Trainer's `logger` list."
            )
        path = Path(folder, tag, f"step={step:07d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        _image(picture).save(path)


def scalar_step(trainer: Any) -> int:
    """The step at which Lightning logs scalars now: batches that stepped, not `global_step` (optimizer steps)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
