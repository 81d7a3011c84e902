"""Heatmaps -> pixels: colours and overlays, and the labelled sheets that show them."""

from lightning_saliency.render.pixels import Channels, colorize, overlay, shown_channels, signed_to_rgb, to_rgb
from lightning_saliency.render.sheet import Caption, grid

__all__ = ["Caption", "Channels", "colorize", "grid", "overlay", "shown_channels", "signed_to_rgb", "to_rgb"]
