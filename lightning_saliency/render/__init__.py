"""Heatmaps -> pixels: colours and overlays, the labelled sheets that show them, and films of these."""

from lightning_saliency.render.encode import encode
from lightning_saliency.render.gif import gif
from lightning_saliency.render.layout import Caption
from lightning_saliency.render.pixels import Channels, colorize, overlay, shown_channels, signed_to_rgb, to_rgb
from lightning_saliency.render.sheet import CELL_SIDE, fitted, grid, tiles

__all__ = [
    "CELL_SIDE",
    "Caption",
    "Channels",
    "colorize",
    "encode",
    "fitted",
    "gif",
    "grid",
    "overlay",
    "shown_channels",
    "signed_to_rgb",
    "tiles",
    "to_rgb",
]
