"""The pictures of an explanation: its labeled sheet, bare overlays, files, and what a notebook shows."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageShow
from torch import Tensor

from lightning_saliency._checks import refuse
from lightning_saliency._names import to_file_name
from lightning_saliency.attribution import (
    ExplainedSamples,
    Explanation,
    HeatmapStage,
    make_heatmaps,
)
from lightning_saliency.data import SampleBatch, is_photo, to_photo
from lightning_saliency.visualization.cells import under_heatmaps
from lightning_saliency.visualization.encode import to_pil
from lightning_saliency.visualization.images import check_rgb
from lightning_saliency.visualization.method_sheets import draw_sheets
from lightning_saliency.visualization.scaling import own_scale, shown_heatmaps
from lightning_saliency.visualization.style import Style, find_pixel_scale

_SHEET = "sheet.png"


def explanation_picture(explanation: Explanation, style: Style | None = None, title: str = "") -> Image.Image:
    """Draw the labeled sheet of an explanation: of all its methods, or of its only one.

    Args:
        explanation: Of any images, by any methods.
        style: How it looks; the names of the classes are the explanation's where it has none.
        title: Stands on top.

    Example:
        >>> from lightning_saliency import explain
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> explanation_picture(explain(model, torch.randn(2, 3, 32, 32))).mode
        'RGB'
    """
    samples = SampleBatch(explanation.call.to("cpu"), known_truths(explanation), tuple(range(len(explanation))))
    style = with_names(style or Style(), explanation)
    names = style.class_names or ()
    sheets = draw_sheets(
        [ExplainedSamples(samples, explanation, HeatmapStage(explanation))],
        style,
        title=title,
        explained=explanation.settings.target.describe(
            has_labels=explanation.labels is not None,
            task=explanation.task,
            names=names if len(names) == explanation.num_classes else None,
        ),
        dataset=explanation.transform,
        modules=[explanation.settings.forward.model],
    )
    return to_pil(next(iter(sheets.values())))


def explanation_overlay(explanation: Explanation, key: str, style: Style | None = None) -> Tensor:
    """Lay the heatmaps of one method over their images, without words.

    Args:
        explanation: Of images.
        key: Of the method's maps in `explanation.attributions`.
        style: How they look.

    Returns:
        uint8 `(N, 3, H, W)`, on the CPU.

    Raises:
        ValueError: The inputs are volumes or signals, of which there is a labeled sheet alone.
    """
    style = style or Style()
    if explanation.images.dim() != 4:
        refuse(
            "explanation",
            "of images (N, C, H, W) for bare overlays",
            f"shape {tuple(explanation.images.shape)}",
            hint="Its labeled sheet, `explanation.picture()`, shows volumes and signals too.",
        )
    modules = [explanation.settings.forward.model]
    images = find_pixel_scale([explanation.images], style, explanation.transform, modules)(explanation.images)
    return lay_over(images, explanation.attributions[key], style, is_fine=explanation.is_fine(key))


def show_explanation(explanation: Explanation, style: Style | None = None) -> None:
    """Show the labeled sheet of an explanation, in a notebook below its cell, else in the system's viewer.

    Where there is neither, as on a machine that is reached over a network, the sheet is written to a file, and one line
    says where.
    """
    picture = explanation_picture(explanation, style)
    notebook = sys.modules.get("IPython")  # where it runs, it is imported
    if notebook is not None and notebook.get_ipython() is not None:
        notebook.display.display(picture)
    elif not (_has_display() and ImageShow.show(picture)):
        path = Path(tempfile.mkdtemp(prefix="saliency-"), _SHEET)
        picture.save(path)
        print(f"No display here: the sheet is {path}. `explanation.save(folder)` writes it where you want it.")


def _has_display() -> bool:
    """Whether windows can be opened: on Windows and on a Mac always, elsewhere by what names the screen."""
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def save_explanation(explanation: Explanation, folder: str | PathLike[str], style: Style | None = None) -> list[Path]:
    """Write the files of an explanation; see `Explanation.save`."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    files = [path / _SHEET]
    explanation_picture(explanation, style).save(files[0])
    for key, maps in explanation.attributions.items():
        overlays = explanation_overlay(explanation, key, style) if explanation.images.dim() == 4 else None
        for index, raw in enumerate(maps):
            name = to_file_name(f"{index}.{key}")
            if overlays is not None:
                files.append(path / f"{name}.png")
                to_pil(overlays[index]).save(files[-1])
            files.append(path / f"{name}.npy")
            np.save(files[-1], raw[0].cpu().numpy())
    return files


def explanation_png(explanation: Explanation) -> bytes:
    """Return the labeled sheet of an explanation as the bytes of a PNG file."""
    stream = io.BytesIO()
    explanation_picture(explanation).save(stream, "PNG")
    return stream.getvalue()


def draw_heatmap(image: Any, heatmap: Any, *, style: Style = Style(), is_fine: bool = False) -> Image.Image:
    """Draw a heatmap over an image, at the size of the image.

    Args:
        image: A path, an image of Pillow, an array `(H, W, C)` of uint8, or a tensor `(3, H, W)` of uint8 or in [0, 1].
        heatmap: A raw map or a heatmap, `(h, w)` or `(1, h, w)`, an array or a tensor; of an attention or of another
            library, too. It is scaled as `style.normalize` says.
        style: The color map, its weight, and the contour.
        is_fine: Whether the map has a value of its own for each pixel, as saliency has: it is scaled at its 99th
            percentile, over the image in dark gray.

    Raises:
        ValueError: The image or the map is of another shape, or cannot be read.

    Example:
        >>> image, attention = np.zeros((60, 80, 3), np.uint8), torch.rand(14, 14)
        >>> draw_heatmap(image, attention).size
        (80, 60)
    """
    pixels = _to_pixels(image)
    raw = torch.as_tensor(heatmap).detach().float().cpu()
    raw = raw[0] if raw.dim() == 3 and raw.shape[0] == 1 else raw
    if raw.dim() != 2 or not raw.numel():
        refuse("heatmap", "one map (h, w) or (1, h, w)", f"shape {tuple(torch.as_tensor(heatmap).shape)}")
    return to_pil(lay_over(pixels, raw[None, None], style, is_fine=is_fine)[0])


def lay_over(images: Tensor, raw: Tensor, style: Style, *, is_fine: bool) -> Tensor:
    """Lay the heatmaps of raw maps over their images, without words.

    Args:
        images: `(N, 3, H, W)`, uint8.
        raw: `(N, 1, h, w)`.
        style: The scale and the colors.
        is_fine: Whether their single pixels are to be seen: scaled at the 99th percentile, over the image in dark gray.

    Returns:
        `(N, 3, H, W)`, uint8.
    """
    heatmaps = make_heatmaps(raw, images.shape[2:], own_scale(style.normalize))
    (maps,) = shown_heatmaps([heatmaps], style.normalize, fine=is_fine)
    return under_heatmaps(images, maps, style.drawing(max(images.shape[2:])).shading, is_fine=is_fine)


def _to_pixels(image: Any) -> Tensor:
    """Return an image as uint8 `(1, 3, H, W)`."""
    if not is_photo(image) and isinstance(image, Tensor) and image.dim() == 3 and image.is_floating_point():
        low, high = (float(bound) for bound in image.aminmax())
        if not (low >= 0 and high <= 1):
            refuse("image", "a tensor (3, H, W) of uint8 or in [0, 1]", f"values from {low:.3g} to {high:.3g}")
        image = (image * 255).round().to(torch.uint8)
    if not is_photo(image):
        refuse("image", "a path, an image of Pillow, an array (H, W, C) or a tensor (3, H, W)", type(image).__name__)
    pixels = torch.from_numpy(np.array(to_photo(image, "image"))).permute(2, 0, 1)[None]
    check_rgb("image", pixels)
    return pixels


def with_names(style: Style, explanation: Explanation) -> Style:
    """Return a style with the names of the classes that the explanation knows, where it has none of its own."""
    return style if style.class_names is not None else replace(style, class_names=explanation.class_names)


def known_truths(explanation: Explanation) -> tuple[int | None, ...]:
    """Return the true class of each image; None where it is not known, or the model has no such class."""
    labels = [-1] * len(explanation) if explanation.labels is None else explanation.labels.tolist()
    return tuple(label if 0 <= label < explanation.num_classes else None for label in labels)
