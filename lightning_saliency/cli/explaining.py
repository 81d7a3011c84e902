"""The work of the command line `explain`: from files of images to files of pictures and raw maps."""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lightning_saliency._names import printable
from lightning_saliency.attribution import parse_methods
from lightning_saliency.cli.image_files import find_images, output_names
from lightning_saliency.cli.preprocessing import DEFAULT_SIZE, make_transform
from lightning_saliency.cli.writing import ImageWriter, NamedPhoto, reason_of
from lightning_saliency.data import NoImageError, read_image
from lightning_saliency.models.errors import WrongArgumentError, user_code
from lightning_saliency.models.sources import load_model

_MOST_NAMED = 5
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def explain_images(options: argparse.Namespace) -> int:
    """Explain images as the arguments of a command line say.

    Returns:
        The exit status: 0, or 1 if files were skipped.

    Raises:
        WrongArgumentError: An argument does not fit, or the output cannot be written.
    """
    try:
        methods = parse_methods(options.methods)
    except ValueError as error:
        raise WrongArgumentError(f"--methods: {error}") from error
    found = find_images(options.images)
    for folder, reason in found.unreadable.items():
        _say_skipped(folder, reason)
    _say_others(found.others)
    named_classes = _class_names(options.class_names) if options.class_names else None
    loaded = load_model(
        options.model, options.weights, options.num_classes, size=options.size, unsafe=options.unsafe_weights
    )
    transform = make_transform(loaded, options.size, options.mean, options.std)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise WrongArgumentError(
            f"Expected --output to be a folder, got {options.output}: {reason_of(error)}."
        ) from error
    with user_code(f"--model to be moved to --device {options.device}"):
        model = loaded.model.to(options.device)

    writer = ImageWriter(model, list(methods), options, transform, named_classes, loaded.class_names)
    files, skipped = list(zip(found.paths, output_names(found.paths), strict=True)), 0
    with tqdm(total=len(files), unit="image", disable=None) as bar:
        for start in range(0, len(files), options.batch_size):
            batch = files[start : start + options.batch_size]
            read = [_read(path, name, options.size) for path, name in batch]
            photos = [photo for photo in read if photo is not None]
            skipped += len(batch) - len(photos)
            bar.update(len(batch) - len(photos))
            for line in writer.write(photos) if photos else ():
                tqdm.write(line, file=sys.stderr)
                bar.update()
    _print(f"Explained {len(files) - skipped} of {len(files)} images: {printable(str(options.output))}")
    return 1 if skipped or found.unreadable else 0


def _read(path: Path, name: str, size: int | None) -> NamedPhoto | None:
    """Return the photo of a file; None for one that is no image, which is said in one line."""
    try:
        photo = read_image(path, size or DEFAULT_SIZE)
    except NoImageError as error:
        _say_skipped(path, str(error))
        return None
    if photo.is_first_frame:
        tqdm.write(f"Of {printable(str(path))} the first frame is explained.", file=sys.stderr)
    return NamedPhoto(name, path.name, photo.image)


def _say_others(paths: Sequence[Path]) -> None:
    """Name the files of folders that are of no type of images."""
    if paths:
        named = ", ".join(printable(str(path)) for path in paths[:_MOST_NAMED])
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        tqdm.write(f"Not of a type of images: {named}{more}", file=sys.stderr)


def _say_skipped(path: Path, reason: str) -> None:
    tqdm.write(f"Skipped {printable(str(path))}: {printable(reason)}", file=sys.stderr)


def _print(text: str) -> None:
    """Print a line in whatever encoding the output has, or raise an error where it takes none."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more at its end
        raise WrongArgumentError(f"Expected the standard output to take text, got {reason_of(error)}.") from error


def _class_names(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8, or in what its byte order mark says."""
    try:
        if not path.is_file():  # a pipe would never end
            raise OSError("it is no file")
        content = path.read_bytes()
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding).rstrip()
    except (OSError, ValueError) as error:
        raise WrongArgumentError(
            f"Expected --class-names to be a text file in UTF-8, got {path}: {reason_of(error)}."
        ) from error
    if not text:
        raise WrongArgumentError(f"Expected --class-names to name the classes, one a line, got none in {path}.")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
