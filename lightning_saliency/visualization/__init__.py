"""Heatmaps as pictures: colors and overlays, labeled sheets, the tutorials' figure, filmstrips and animations."""

from lightning_saliency.visualization.captions import Caption, Names, class_model_caption, fooling_caption, method_title
from lightning_saliency.visualization.cells import Drawing
from lightning_saliency.visualization.colors import Shading, colorize, overlay, signed_to_rgb
from lightning_saliency.visualization.encode import encode_gif, encode_picture, to_pil
from lightning_saliency.visualization.explained import (
    draw_heatmap,
    explanation_overlay,
    explanation_picture,
    explanation_png,
    lay_over,
    save_explanation,
    show_explanation,
)
from lightning_saliency.visualization.film import animation, filmstrip
from lightning_saliency.visualization.images import Channels, shown_channels, to_curves, to_rgb
from lightning_saliency.visualization.method_sheets import ALL_METHODS, draw_sheets
from lightning_saliency.visualization.sheet import fit_images, grid, tiles
from lightning_saliency.visualization.style import PixelScale, Style, find_names, find_pixel_scale, to_pictures
from lightning_saliency.visualization.theme import THEMES, Theme
from lightning_saliency.visualization.tutorial import TUTORIAL_PANELS, tutorial_figure
from lightning_saliency.visualization.views import Cut, View, Volumes, cut_images, make_views

__all__ = [
    "ALL_METHODS",
    "THEMES",
    "TUTORIAL_PANELS",
    "Caption",
    "Channels",
    "Cut",
    "Drawing",
    "Names",
    "PixelScale",
    "Shading",
    "Style",
    "Theme",
    "View",
    "Volumes",
    "animation",
    "class_model_caption",
    "colorize",
    "cut_images",
    "draw_heatmap",
    "draw_sheets",
    "encode_gif",
    "encode_picture",
    "explanation_overlay",
    "explanation_picture",
    "explanation_png",
    "filmstrip",
    "find_names",
    "find_pixel_scale",
    "fit_images",
    "fooling_caption",
    "grid",
    "lay_over",
    "make_views",
    "method_title",
    "overlay",
    "save_explanation",
    "show_explanation",
    "shown_channels",
    "signed_to_rgb",
    "tiles",
    "to_curves",
    "to_pictures",
    "to_pil",
    "to_rgb",
    "tutorial_figure",
]
