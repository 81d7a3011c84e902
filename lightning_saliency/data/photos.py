"""Photographs: image files, images of Pillow and arrays of pixels, read as upright RGB, or refused with the reason."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_saliency._checks import describe_error, refuse, shown
from lightning_saliency.data.trees import describe

_STARTS_PROGRAMS = {"EPS", "WMF"}
"""Formats that Pillow leaves to programs that it starts, or to Windows."""

_STUBS = {"BUFR", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "XVTHUMB"}
"""Formats that Pillow identifies, and reads with further code alone, or that hold something else than a photograph."""

_MOST_PIXELS = 2 * 89_478_485
"""Of a photo after it is resized: from as many Pillow takes a file for a decompression bomb."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NoImageError(ValueError):
    """A file that is no image, or one that cannot be read; the message says why."""


class Photo(NamedTuple):
    """An RGB image with 8 bits per channel, and whether it is the first frame of several."""

    image: Image.Image
    is_first_frame: bool


def is_photo(value: Any) -> bool:
    """Whether a value is a photograph: a path, an image of Pillow, an array of NumPy, or a tensor of 8-bit pixels.

    Example:
        >>> is_photo("cat.jpg"), is_photo(np.zeros((8, 8, 3), np.uint8)), is_photo(torch.zeros(3, 8, 8))
        (True, True, False)
    """
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8 and value.dim() == 3
    return isinstance(value, str | os.PathLike | Image.Image | np.ndarray)


def to_photo(value: Any, name: str = "images") -> Image.Image:
    """Return a photograph as an upright RGB image of Pillow.

    Args:
        value: A path, an image of Pillow, an array `(H, W, C)` or `(H, W)` uint8, or a tensor `(C, H, W)` uint8.
        name: What the caller calls it.

    Raises:
        ValueError: The file cannot be read, or the array is of another kind.

    Example:
        >>> to_photo(np.zeros((8, 6, 3), np.uint8)).size
        (6, 8)
    """
    if isinstance(value, str | os.PathLike):
        try:
            return read_image(value).image
        except NoImageError as error:
            refuse(name, "a file with an image", f"{os.fspath(value)}: {error}")
    if isinstance(value, Image.Image):
        return _to_rgb(ImageOps.exif_transpose(value), 1)
    array = value.permute(1, 2, 0).cpu().numpy() if isinstance(value, Tensor) else value
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        refuse(
            name,
            "an array (H, W, C) of uint8 with 1, 3 or 4 channels",
            f"{array.shape} {array.dtype}",
            hint="Pass numbers that are normalized already as a tensor (N, C, H, W): `torch.from_numpy(array)`.",
        )
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array).convert("RGB")


def transformed(photos: Sequence[Any], transform: Callable[..., Any] | None, name: str = "images") -> Tensor:
    """Return photographs as the model takes them, `(N, C, H, W)`.

    Args:
        photos: See `to_photo`.
        transform: What turns an RGB image of Pillow into a tensor `(C, H, W)`: that of the validation.
        name: What the caller calls the photographs.

    Raises:
        ValueError: There is no transform, it raises or returns something else, or its results are of several sizes.
    """
    if transform is None:
        to_photo(photos[0], name)  # of numbers that are no photograph no transform is missing
        refuse(
            "transform",
            f"a function from an image to a tensor (C, H, W) where `{name}` are photographs",
            "none",
            hint="Pass the one of your validation, `transform=...`, or the weights that the model was made with, "
            "`weights=ResNet50_Weights.DEFAULT`.",
        )
    tensors = []
    for photo in photos:
        image = to_photo(photo, name)
        try:
            tensor = transform(image)
        except Exception as error:  # the user's own function
            raise ValueError(
                f"Expected `transform` to take an RGB image of Pillow, got {describe_error(error)}."
            ) from error
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() != 3:
            refuse("transform", "a function that returns a floating-point tensor (C, H, W)", describe(tensor))
        tensors.append(tensor)
    sizes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(sizes) > 1:
        refuse("transform", "one that makes all images of one size", shown(sizes), hint="Explain them one by one.")
    return torch.stack(tensors)


def read_image(path: str | os.PathLike[str], size: int = 1) -> Photo:
    """Read a photo as RGB, upright, with 8 bits per channel; of an animation the first frame.

    Transparency is dropped, as by torchvision's data sets, by which models are trained.

    Args:
        path: The file, whose format is recognized by its content.
        size: What its shorter side will be resized to.

    Raises:
        NoImageError: The file cannot be read so.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:  # a pipe without a writer would never open
            raise NoImageError(f"it is {_KINDS.get(kind, 'no file')}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is large, or damaged but readable
            with Image.open(path, formats=_formats()) as photo:
                is_animated = bool(getattr(photo, "is_animated", False))
                return Photo(_to_rgb(ImageOps.exif_transpose(photo), size), is_animated)
    except Exception as error:  # a decoder may raise anything for a damaged file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        printable = "".join(letter if letter.isprintable() else " " for letter in reason)
        raise NoImageError(" ".join(printable.split()) or type(error).__name__) from error


def _to_rgb(photo: Image.Image, size: int) -> Image.Image:
    short, long = sorted(photo.size)
    if size * size * long > short * _MOST_PIXELS:
        raise NoImageError(f"it is too long for its width, {photo.width}×{photo.height}")
    if photo.mode == "F":
        raise NoImageError("its pixels are floating-point numbers, whose range is not known")
    if photo.mode.startswith("I"):  # 16 bits per pixel, which `convert` would clip at 255
        values = np.asarray(photo, dtype=np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise NoImageError("its pixels have 32 bits, whose range is not known")
        photo = Image.fromarray((values / 257).round().astype(np.uint8))
    return photo.convert("RGB")


@cache
def image_extensions() -> frozenset[str]:
    """Return the endings of the names of files that are read, such as `.jpg`: of all types that Pillow reads by itself.

    Example:
        >>> {".jpg", ".jfif", ".webp", ".tga"} <= image_extensions(), ".eps" in image_extensions()
        (True, False)
    """
    formats = _formats()
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in formats)


@cache
def _formats() -> list[str]:
    """Return the formats that this Pillow reads by itself."""
    Image.init()
    return sorted(Image.OPEN.keys() - _STARTS_PROGRAMS - _STUBS)
