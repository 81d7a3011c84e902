"""Pictures -> an animated GIF."""

import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from lightning_saliency.render.pixels import check_images

_SHRINK = 0.8  # of the side, until the bytes suffice
_LEAST_SIDE = 64
_COLOURS = 255


def gif(frames: Sequence[Tensor], *, seconds: float = 0.5, rest: float = 2.0, max_bytes: int = 4_000_000) -> bytes:
    """Make an animated GIF that plays for ever.

    All frames have one palette, so that what stands still does not flicker. Where it takes too many bytes, the frames
    are made smaller.

    Args:
        frames: uint8 `(3, H, W)`, all of one size.
        seconds: How long each stands.
        rest: How long the last one stands.
        max_bytes: The most that it may take; exceeded only by frames that are already down to 64 pixels.

    Returns:
        The file's bytes.

    Raises:
        ValueError: There is no frame, or they are not uint8 of one size.

    Example:
        >>> import torch
        >>> frames = [torch.full((3, 80, 80), value, dtype=torch.uint8) for value in (0, 128, 255)]
        >>> gif(frames)[:6]
        b'GIF89a'
    """
    sizes = {tuple(frame.shape) for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"Expected `frames` to be one or more of one size, got {len(frames)} of {sorted(sizes)}.")
    for frame in frames:
        check_images(frame[None])
    pages = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    while True:
        encoded = _encoded(pages, seconds, rest)
        width, height = pages[0].size
        if len(encoded) <= max_bytes or max(width, height) <= _LEAST_SIDE:
            return encoded
        size = max(1, round(width * _SHRINK)), max(1, round(height * _SHRINK))
        pages = [page.resize(size, Image.Resampling.LANCZOS) for page in pages]


def _encoded(pages: Sequence[Image.Image], seconds: float, rest: float) -> bytes:
    palette = _palette(pages)
    indexed = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    durations = [round(1000 * seconds)] * (len(pages) - 1) + [round(1000 * rest)]
    stream = io.BytesIO()
    indexed[0].save(
        stream, format="GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
    )
    return stream.getvalue()


def _palette(pages: Sequence[Image.Image]) -> Image.Image:
    """The colours of all frames together, from a part of their pixels."""
    step = max(1, round((len(pages) * pages[0].width * pages[0].height / 400_000) ** 0.5))
    parts = [
        page.resize((max(1, page.width // step), max(1, page.height // step)), Image.Resampling.NEAREST)
        for page in pages
    ]
    mosaic = Image.new("RGB", (parts[0].width, parts[0].height * len(parts)))
    for at, part in enumerate(parts):
        mosaic.paste(part, (0, at * part.height))
    return mosaic.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE)
