"""Pictures as the bytes of a file: PNG or JPEG, and animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from lightning_saliency.visualization.images import check_rgb

_PNG: dict[str, Any] = {"compress_level": 1}  # three times as fast as the usual 6, a quarter more bytes
_JPEG: dict[str, Any] = {"quality": 75}
_SMALL = 500_000  # pixels
_MOST_PNG_TO_JPEG = 2.0  # bytes of the one per byte of the other
_BANDS, _BAND_HEIGHT = 4, 8  # the rows on which these bytes are compared; JPEG takes eight together

_SHRINK = 0.8  # of a GIF's side, until its bytes suffice
_LEAST_SIDE = 64
_PALETTE_SIZE = 255
_PALETTE_PIXELS = 400_000


def encode_picture(picture: Tensor) -> tuple[bytes, Literal["PNG", "JPEG"]]:
    """Encode a picture as PNG, which keeps each pixel, where that costs little, else as JPEG.

    It costs little for a picture of less than half a million pixels, and where it takes at most twice the bytes, which
    is estimated from some rows: for small and flat images, and not for photographs.

    Args:
        picture: uint8 `(3, H, W)`.

    Returns:
        The file's bytes, and its format.

    Raises:
        ValueError: It is no such picture.

    Example:
        >>> import torch
        >>> encode_picture(torch.zeros(3, 64, 64, dtype=torch.uint8))[1]
        'PNG'
    """
    check_rgb("picture", picture, ndim=3)
    height, width = picture.shape[1:]
    if height * width < _SMALL:
        return _file_bytes(picture, "PNG", _PNG), "PNG"
    tops = [height * band // _BANDS + height // (2 * _BANDS) for band in range(_BANDS)]
    sample = torch.cat([picture[:, top : top + _BAND_HEIGHT] for top in tops], dim=1)
    if len(_file_bytes(sample, "PNG", _PNG)) <= _MOST_PNG_TO_JPEG * len(_file_bytes(sample, "JPEG", _JPEG)):
        return _file_bytes(picture, "PNG", _PNG), "PNG"
    return _file_bytes(picture, "JPEG", _JPEG), "JPEG"


def encode_gif(
    frames: Sequence[Tensor], *, seconds: float = 0.5, last_seconds: float = 2.0, max_bytes: int = 4_000_000
) -> bytes:
    """Encode pictures as an animated GIF that repeats for ever.

    All frames have one palette, so that what does not change does not flicker. Where it takes too many bytes, the
    frames are made smaller.

    Args:
        frames: uint8 `(3, H, W)`, all of one size.
        seconds: How long each frame is shown.
        last_seconds: How long the last one is shown.
        max_bytes: The most that the file may take; exceeded only by frames that are already down to 64 pixels.

    Returns:
        The file's bytes.

    Raises:
        ValueError: There is no frame, or they are not uint8 of one size.

    Example:
        >>> import torch
        >>> frames = [torch.full((3, 80, 80), value, dtype=torch.uint8) for value in (0, 128, 255)]
        >>> encode_gif(frames)[:6]
        b'GIF89a'
    """
    sizes = {tuple(frame.shape) for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"Expected `frames` to be one or more of one size, got {len(frames)} of {sorted(sizes)}.")
    for frame in frames:
        check_rgb("frames", frame, ndim=3)
    pages = [to_pil(frame) for frame in frames]
    while True:
        encoded = _gif_bytes(pages, seconds, last_seconds)
        width, height = pages[0].size
        if len(encoded) <= max_bytes or max(width, height) <= _LEAST_SIDE:
            return encoded
        size = max(1, round(width * _SHRINK)), max(1, round(height * _SHRINK))
        pages = [page.resize(size, Image.Resampling.LANCZOS) for page in pages]


def to_pil(picture: Tensor) -> Image.Image:
    """Return a picture, uint8 `(3, H, W)`, as an image of Pillow."""
    return Image.fromarray(picture.permute(1, 2, 0).numpy())


def _file_bytes(picture: Tensor, file_format: str, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    to_pil(picture).save(stream, file_format, **options)
    return stream.getvalue()


def _gif_bytes(pages: Sequence[Image.Image], seconds: float, last_seconds: float) -> bytes:
    palette = _palette(pages)
    indexed = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    durations = [round(1000 * seconds)] * (len(pages) - 1) + [round(1000 * last_seconds)]
    stream = io.BytesIO()
    indexed[0].save(
        stream, format="GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
    )
    return stream.getvalue()


def _palette(pages: Sequence[Image.Image]) -> Image.Image:
    """Choose the colors of all frames together, from some of their pixels."""
    step = max(1, round((len(pages) * pages[0].width * pages[0].height / _PALETTE_PIXELS) ** 0.5))
    small_pages = [
        page.resize((max(1, page.width // step), max(1, page.height // step)), Image.Resampling.NEAREST)
        for page in pages
    ]
    mosaic = Image.new("RGB", (small_pages[0].width, small_pages[0].height * len(small_pages)))
    for index, page in enumerate(small_pages):
        mosaic.paste(page, (0, index * page.height))
    return mosaic.quantize(_PALETTE_SIZE, method=Image.Quantize.FASTOCTREE)
