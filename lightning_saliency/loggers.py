"""Pictures, their tags and a step, to any Lightning logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lightning_saliency.render import encode


def log_pictures(logger: Any, pictures: Mapping[str, Tensor | Path], step: int) -> None:
    """Write pictures and animations to a Lightning logger, by what it can do.

    In this order: the experiment's `add_image` (TensorBoard: as the bytes of a PNG or JPEG, see
    `lightning_saliency.render.encode`; animations as they are, which it plays), the logger's `log_image` and
    `log_video` (Weights & Biases), the experiment's `log_image` and `log_artifact` (MLflow), its `log_image` (Comet),
    and for the others (CSV) a PNG file `<tag>/step=<step>.png` in the logger's own `log_dir`; an animation is a file
    already. To be called on one rank only: it never asks the trainer for a folder, which would wait for the other
    ranks.

    Args:
        logger: One of `trainer.loggers`.
        pictures: By tag, as in TensorBoard, `saliency/grad_cam`: uint8 `(3, H, W)`, or the path of an animated GIF.
        step: On the same axis as Lightning's scalars; see `scalar_step`.

    Raises:
        ValueError: The logger can take no pictures and has no folder.
    """
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):
        # all before the first is written: the writer's thread sums bytes up in Python, which would slow this down
        files = {tag: _file(picture) for tag, picture in pictures.items()}
        for tag, picture in pictures.items():
            if not _add_bytes(experiment, tag, *files[tag], step) and isinstance(picture, Tensor):
                experiment.add_image(tag, picture, step)
        return
    for tag, picture in pictures.items():
        if isinstance(picture, Tensor):
            _log_picture(logger, experiment, tag, picture, step)
        else:
            _log_animation(logger, experiment, tag, picture, step)


def _log_picture(logger: Any, experiment: Any, tag: str, picture: Tensor, step: int) -> None:
    if hasattr(logger, "log_image"):
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


def _log_animation(logger: Any, experiment: Any, tag: str, path: Path, step: int) -> None:
    if hasattr(logger, "log_video"):
        logger.log_video(key=tag, videos=[str(path)], step=step)
    elif hasattr(experiment, "log_artifact") and hasattr(logger, "run_id"):
        experiment.log_artifact(logger.run_id, str(path), tag)
    elif hasattr(experiment, "log_image"):
        experiment.log_image(str(path), name=tag, step=step)


def _file(picture: Tensor | Path) -> tuple[bytes, tuple[int, int]]:
    """A file's bytes, and the width and height of what it shows."""
    if isinstance(picture, Tensor):
        return encode(picture)[0], (picture.shape[2], picture.shape[1])
    with Image.open(picture) as image:
        return picture.read_bytes(), image.size


def run_folder(loggers: Sequence[Any]) -> Path | None:
    """The folder of the run: that of TensorBoard's event file, else the first logger's that has one.

    To be called on one rank only, as `log_pictures`.
    """
    own: list[Path] = []
    for logger in loggers:
        folder, saved = getattr(logger, "log_dir", None), getattr(logger, "save_dir", None)
        if isinstance(folder, str | Path) and hasattr(getattr(logger, "experiment", None), "add_image"):
            return Path(folder)
        if isinstance(folder, str | Path):
            own.append(Path(folder))
        elif isinstance(saved, str | Path):
            own.append(Path(saved, str(logger.name), str(logger.version)))
    return own[0] if own else None


def scalar_step(trainer: Any) -> int:
    """The step at which Lightning logs scalars now: batches that stepped, not `global_step` (optimizer steps)."""
    return int(getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step))


def _add_bytes(experiment: Any, tag: str, content: bytes, size: tuple[int, int], step: int) -> bool:
    """Write a file's bytes, which TensorBoard serves as they are; `add_image` would make a PNG of them, slowly.

    Returns:
        Whether this experiment has the writer that takes them.
    """
    find_writer = getattr(experiment, "_get_file_writer", None)
    writer: Any = None if find_writer is None else find_writer()
    if not hasattr(writer, "add_summary"):
        return False
    from tensorboard.compat.proto.summary_pb2 import Summary  # not before it is needed: it takes a while

    picture = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=content)
    writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)
    return True


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy())
