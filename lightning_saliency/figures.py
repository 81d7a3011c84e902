"""An explanation -> the figure of the tutorials: an image, and beside it each method's panel."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.attribution import METHODS, blank_reasons, to_heatmaps
from lightning_saliency.explain import Explanation
from lightning_saliency.pictures import Names
from lightning_saliency.render import overlay, shown_channels, signed_to_rgb, to_rgb

TUTORIAL_PANELS = {
    4: ("grad_cam", "guided_backprop", "guided_grad_cam"),
    6: ("cam", "grad_cam", "grad_cam_plus_plus", "guided_backprop", "guided_grad_cam"),
}
"""The methods beside the image in the figures of four and of six panels."""

_SIDE, _GAP, _MARGIN = 2.4, 0.1, 0.2  # inches
_LARGE, _SMALL = 11, 9  # points
_INK, _QUIET = "#202124", "#686c72"
_ENLARGED = 224  # pixels that a small image is brought to, so that its heatmap is smooth


def tutorial_figure(
    explanation: Explanation,
    panels: int | str | Sequence[str] = 4,
    *,
    index: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> Figure:
    """Draw the figure of the tutorials: a row for each image, with the image first and then each method's panel.

    Methods in input space (those of `explanation.signed`: guided backprop, Guided Grad-CAM, saliency …) are shown in
    colour, their signed values around mid grey; the others as heatmaps over the image. A map with nothing to show is
    the dimmed image with the reason on it.

    Args:
        explanation: Of these images, with these methods.
        panels: 4: image, Grad-CAM, guided backprop, Guided Grad-CAM; 6: CAM and Grad-CAM++ as well; or the keys of
            methods, in the order of their panels. `TUTORIAL_PANELS[4]` are the methods to explain with. A method that
            read several layers has a panel for each.
        index: Which image, or which ones; all by default.
        mean: What was subtracted from the images, to show them as they were; see `lightning_saliency.render.to_rgb`.
        std: What the images were divided by.
        class_names: For the captions; numbers by default.
        colormap: The name of a matplotlib colour map.
        alpha: The weight of the colour in the overlays, in [0, 1].

    Returns:
        The figure, to `savefig` or to hand to TensorBoard's `add_figure`; pyplot does not know of it.

    Raises:
        ValueError: `panels` is another number or names a method that the explanation lacks; there is no such image; or
            an option does not fit.

    Example:
        >>> import torch
        >>> from lightning_saliency import explain
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=TUTORIAL_PANELS[4])
        >>> figure = tutorial_figure(explanation)
        >>> len(figure.axes)
        8
    """
    keys, rows = _keys(explanation, panels), _rows(index, len(explanation.images))
    images = to_rgb(explanation.images[rows], mean, std)
    columns: list[tuple[Tensor, list[str | None]]] = [(images, [None] * len(rows))]
    columns += [_panel(explanation, key, rows, images, colormap, alpha) for key in keys]
    captions = _captions(explanation, rows, Names(class_names))
    note = shown_channels(explanation.images.shape[1])
    titles = [["Image", note] if note else ["Image"], *map(_title, keys)]
    layer = explanation.layer if any(key in METHODS and METHODS[key].reads_layer for key in keys) else None

    width = 2 * _MARGIN + len(columns) * (_SIDE + _GAP) - _GAP
    side = min(max(_SIDE * images.shape[2] / images.shape[3], 0.5), 2 * _SIDE)  # a panel's height
    head, line = max(map(len, titles)) * _height(_LARGE), _height(_SMALL)
    blocks = [_wrap(caption, _SMALL, width - 2 * _MARGIN) for caption in captions]
    rows_height = sum(side + len(block) * line + 2 * _GAP for block in blocks)
    height = 2 * _MARGIN + head + rows_height - _GAP + (line if layer else 0)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")

    def write(left: float, base: float, text: str, size: int, **style: Any) -> None:
        """A line, its baseline at inches from the top left."""
        figure.text(left / width, 1 - base / height, text, size=size, parse_math=False, **style)

    top = _MARGIN + head
    for column, lines in enumerate(titles):
        for up, text in enumerate(reversed(lines)):
            middle = _MARGIN + column * (_SIDE + _GAP) + _SIDE / 2
            write(middle, top - _GAP - up * _height(_LARGE), text, _LARGE, color=_INK, ha="center")
    for row, block in enumerate(blocks):
        for column, (pictures, reasons) in enumerate(columns):
            left = _MARGIN + column * (_SIDE + _GAP)
            axes = figure.add_axes((left / width, 1 - (top + side) / height, _SIDE / width, side / height))
            axes.set_axis_off()
            axes.imshow(pictures[row].permute(1, 2, 0).numpy())
            reason = reasons[row]
            if reason is not None:
                box = {"facecolor": "#121316", "alpha": 0.8, "edgecolor": "none", "boxstyle": "square,pad=0.5"}
                style: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes, "bbox": box}
                axes.text(0.5, 0.5, reason, color="white", size=_SMALL, **style)
        top += side
        for text in block:
            top += line
            write(_MARGIN, top, text, _SMALL, color=_INK)
        top += 2 * _GAP
    if layer:
        write(_MARGIN, top + line - _GAP, f"layer: {layer}", _SMALL, color=_QUIET)
    return figure


def _keys(explanation: Explanation, panels: int | str | Sequence[str]) -> list[str]:
    """The explanation's maps that are shown: those of the methods, of each layer that was read."""
    if isinstance(panels, int) and panels not in TUTORIAL_PANELS:
        raise ValueError(f"Expected `panels` to be 4, 6 or the keys of methods, got {panels}.")
    asked = TUTORIAL_PANELS[panels] if isinstance(panels, int) else [panels] if isinstance(panels, str) else panels
    keys = []
    for method in asked:
        found = [key for key in explanation.attributions if key == method or key.startswith(f"{method}@")]
        if not found:
            raise ValueError(
                f"Expected `panels` out of the explanation's methods {', '.join(explanation.attributions)}, got "
                f"{method!r}. Explain with `methods={tuple(asked)}`."
            )
        keys += found
    return keys


def _rows(index: int | Sequence[int] | None, count: int) -> list[int]:
    rows = list(range(count)) if index is None else [index] if isinstance(index, int) else list(index)
    if not rows or not all(0 <= row < count for row in rows):
        raise ValueError(f"Expected `index` to name images from 0 to {count - 1}, got {index}.")
    return rows


def _panel(
    explanation: Explanation, key: str, rows: list[int], images: Tensor, colormap: str, alpha: float
) -> tuple[Tensor, list[str | None]]:
    """A method's pictures `(n, 3, h, w)`, and for each the reason why it is blank, or None."""
    if key in explanation.signed:
        signed = explanation.signed[key][rows]
        pictures, reasons = signed_to_rgb(signed), blank_reasons(signed, "minmax")  # negative is no reason in colour
    else:
        factor = max(1, _ENLARGED // max(images.shape[2:]))
        images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        raw = explanation.attributions[key][rows]
        pictures = overlay(images, to_heatmaps(raw, images.shape[2:]).cpu(), colormap, alpha)
        reasons = blank_reasons(raw)
    for row, reason in enumerate(reasons):
        if reason is not None:
            pictures[row] = images[row] // 2
    return pictures, reasons


def _captions(explanation: Explanation, rows: list[int], names: Names) -> list[str]:
    probabilities, predictions = explanation.probabilities, explanation.predictions.tolist()

    def named(row: int, found: int) -> str:
        name = names[found] if len(names[found]) <= 40 else names[found][:39].rstrip() + "…"
        return f"{name} {probabilities[row, found]:.0%}"

    captions = []
    for row in rows:
        explained = "chosen target"
        if explanation.classes is not None:
            found = int(explanation.classes[row])
            explained = "predicted class" if found == predictions[row] else named(row, found)
        captions.append(f"predicted {named(row, predictions[row])} · explained: {explained}")
    return captions


def _title(key: str) -> list[str]:
    """A method's title, and below it its layer where there are several: `grad_cam@layer3`."""
    method, _, layer = key.partition("@")
    return [METHODS[method].title, *_wrap(layer, _LARGE, _SIDE)]


def _wrap(text: str, size: int, width: float) -> list[str]:
    """At most two lines that are no wider than so many inches; 0.6 em is a wide guess of the mean letter."""
    return textwrap.wrap(text, int(width / (0.6 * size / 72)), max_lines=2, placeholder=" …")


def _height(size: int) -> float:
    return 1.4 * size / 72
