"""Signals as curves over time, colored by their heatmaps."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_saliency.data import averaged, interpolated
from lightning_saliency.visualization.cells import WIDE, Drawing
from lightning_saliency.visualization.colors import colorize
from lightning_saliency.visualization.fonts import get_font
from lightning_saliency.visualization.theme import Color, Theme

_SHARPNESS = 3  # columns that are drawn for one of pixels
_PEN = 0.75  # half of a curve's width, in pixels
_HALO = 4.0  # half of the width of the color along it
_MARGIN = _HALO + 1  # above and below a curve
_LEAST_STRIP, _MOST_STRIP = 26, 96  # the height of a channel, in pixels
_MOST_TICKS = 5


def draw_curves(signal: Tensor, heatmap: Tensor | None, drawing: Drawing, *, is_blank: bool) -> Tensor:
    """Draw the channels of a signal above each other, each as a curve, and below them the points in time.

    Along the curves lies the color of the heatmap at each time, more opaque where that is large.

    Args:
        signal: `(C, T)` uint8, each channel from 0 to 255.
        heatmap: `(1, T)` in [0, 1], or the colors themselves, uint8 `(3, T)`, such as of classes; or None.
        drawing: How; a cell is half as wide again.
        is_blank: Whether the curves are faint, and shown without the heatmap.

    Returns:
        uint8 `(h, w, 3)`.
    """
    count, length = signal.shape
    cell_side, theme = drawing.cell_side, drawing.theme
    width = round(cell_side * WIDE)
    strip = min(_MOST_STRIP, max(_LEAST_STRIP, cell_side // count))
    values = signal.double().numpy() / 255
    halo = _paper((width,), theme)
    if heatmap is not None and heatmap.dtype == torch.uint8:
        halo = heatmap[:, torch.arange(width) * length // width].T.double().numpy()
    elif heatmap is not None and not is_blank:
        fit = interpolated if length < width else averaged
        at_pixels = fit(heatmap[None].float(), (width,)).clamp(0, 1)
        colors = colorize(at_pixels[:, :, None], drawing.shading.colormap)[0, :, 0].T.double().numpy()
        opacity = drawing.shading.opacity(at_pixels[0, 0])
        halo += opacity.double().numpy()[:, None] * (colors - halo)
    ink = theme.blank if is_blank else theme.ink
    strips = [_draw_strip(channel, strip, halo, ink, theme) for channel in values]
    axis = _draw_axis(length, width, max(9, cell_side // 24), theme)
    return torch.from_numpy(np.concatenate([*strips, axis]))


def _paper(size: tuple[int, ...], theme: Theme) -> NDArray[np.float64]:
    return np.broadcast_to(np.array(theme.paper, dtype=np.float64), (*size, 3)).copy()


def _draw_strip(
    values: NDArray[np.float64], height: int, halo: NDArray[np.float64], ink: Color, theme: Theme
) -> NDArray[np.uint8]:
    """Draw one curve of values in [0, 1], `(h, w, 3)`, on a wide one whose columns have the colors of a halo."""
    y = _MARGIN + (1 - values) * (height - 2 * _MARGIN)
    page = _paper((height, len(halo)), theme)
    for color, radius in ((halo, _HALO), (np.array(ink), _PEN)):
        page += _coverage(y, height, len(halo), radius)[:, :, None] * (color - page)
    drawn: NDArray[np.uint8] = np.rint(page).astype(np.uint8)
    return drawn


def _coverage(y: NDArray[np.float64], height: int, width: int, radius: float) -> NDArray[np.float64]:
    """Return how much of each pixel `(h, w)` lies within a radius of the line through the points of a curve.

    Args:
        y: The height of each point, in pixels from above; the points are spread evenly over the width.
        height: h.
        width: w.
        radius: In pixels.
    """
    columns = width * _SHARPNESS
    low, high = _envelope(y, columns)
    reach = math.ceil(radius * _SHARPNESS)
    lows, highs = np.full(columns, np.inf), np.full(columns, -np.inf)
    for shift in range(-reach, reach + 1):
        rise = math.sqrt(max(radius**2 - (shift / _SHARPNESS) ** 2, 0.0))
        source = np.clip(np.arange(columns) + shift, 0, columns - 1)
        lows, highs = np.minimum(lows, low[source] - rise), np.maximum(highs, high[source] + rise)
    top = np.arange(height)[:, None]
    covered = np.clip(np.minimum(highs, top + 1) - np.maximum(lows, top), 0, 1)
    coverage: NDArray[np.float64] = covered.reshape(height, width, _SHARPNESS).mean(2)
    return coverage


def _envelope(y: NDArray[np.float64], columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest height of the line through the points in each column of pixels."""
    edges = np.linspace(0, len(y) - 1, columns + 1)
    at_edges = np.interp(edges, np.arange(len(y)), y)
    low, high = np.minimum(at_edges[:-1], at_edges[1:]), np.maximum(at_edges[:-1], at_edges[1:])
    column = np.clip(np.searchsorted(edges, np.arange(len(y)), side="right") - 1, 0, columns - 1)
    np.minimum.at(low, column, y)
    np.maximum.at(high, column, y)
    return low, high


def _draw_axis(length: int, width: int, font_size: int, theme: Theme) -> NDArray[np.uint8]:
    """Draw the axis of time, `(h, w, 3)`, with a few of its points."""
    font = get_font(font_size)
    tick = max(3, font_size // 3)
    page = Image.new("RGB", (width, tick + font.height + 2), theme.paper)
    draw = ImageDraw.Draw(page)
    draw.line((0, 0, width, 0), fill=theme.faint)
    for time in _ticks(length):
        x = round(time * (width - 1) / max(length - 1, 1))
        draw.line((x, 0, x, tick), fill=theme.faint)
        half = font.getlength(str(time)) / 2
        middle = min(max(x, half + 1), width - half - 1)
        font.write(draw, middle - half, tick + 1 + font.ascent, str(time), theme.faint)
    return np.asarray(page)


def _ticks(length: int) -> list[int]:
    """Return a few round points in time below a length.

    Example:
        >>> _ticks(1000), _ticks(24)
        ([0, 200, 400, 600, 800], [0, 5, 10, 15, 20])
    """
    power = 10 ** max(math.floor(math.log10(max(length, 1))) - 1, 0)
    step = next(step * power for step in (1, 2, 5, 10, 20, 50, 100) if (length - 1) // (step * power) < _MOST_TICKS)
    return list(range(0, length, step))
