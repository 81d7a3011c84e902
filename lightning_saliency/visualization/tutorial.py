"""The figure of the tutorials: each image, and beside it a panel for each method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_saliency.attribution import (
    METHODS,
    Explanation,
    blank_reasons,
    describe_readings,
    find_method,
    make_heatmaps,
)
from lightning_saliency.visualization.captions import (
    join_notes,
    method_title,
    prediction_captions,
    reason_words,
)
from lightning_saliency.visualization.colors import signed_to_rgb
from lightning_saliency.visualization.explained import known_truths, with_names
from lightning_saliency.visualization.scaling import FINE_NOTE, SIGNED_NOTE, own_scale, scale_words, shown_heatmaps
from lightning_saliency.visualization.sheet import grid
from lightning_saliency.visualization.style import Style, find_names, find_pixel_scale
from lightning_saliency.visualization.views import cut_images, make_views

TUTORIAL_PANELS = {
    4: ("grad_cam", "guided_backprop", "guided_grad_cam"),
    6: ("cam", "grad_cam", "grad_cam_plus_plus", "guided_backprop", "guided_grad_cam"),
}
"""The methods beside the image in the figures of four and of six panels."""

_CELL_SIDE = 300


def tutorial_figure(
    explanation: Explanation,
    panels: int | str | Sequence[str] | None = None,
    *,
    index: int | Sequence[int] | None = None,
    style: Style = Style(),
) -> Tensor:
    """Draw the figure of the tutorials: a row for each image, with the image first and then each method's panel.

    Methods in input space (those of `explanation.signed`: guided backprop, Guided Grad-CAM, saliency …) are shown in
    color, their signed values around mid gray; the others, and all of signals, as heatmaps over the image. A map with
    nothing to show is the dimmed image with the reason on it.

    Args:
        explanation: Of these images, with these methods.
        panels: 4: image, Grad-CAM, guided backprop, Guided Grad-CAM; 6: CAM and Grad-CAM++ as well; or the names of
            methods, in the order of their panels; None for all of the explanation. `TUTORIAL_PANELS[4]` are the methods
            to explain with. A method that read several layers has a panel for each.
        index: Which image, or which ones; all by default.
        style: How the figure looks; the names of the classes are the explanation's where it has none.

    Returns:
        uint8 `(3, H, W)`, on the CPU.

    Raises:
        ValueError: `panels` is another number or names a method that the explanation lacks, or there is no such image.

    Example:
        >>> import torch
        >>> from lightning_saliency import explain
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...     torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=TUTORIAL_PANELS[4])
        >>> tutorial_figure(explanation).dtype
        torch.uint8
    """
    keys, rows = _select_keys(explanation, panels), _select_rows(index, len(explanation.images))
    columns, blanks = {}, {}
    for key in keys:
        title = method_title(key)
        columns[title], blanks[title] = _draw_panel(explanation, key, rows, style)
    # where several layers were read, the panels name them
    read = describe_readings(explanation, [key for key in keys if key in METHODS])
    names = find_names(with_names(style, explanation))
    captions = prediction_captions(explanation, known_truths(explanation), names)
    modules = [explanation.settings.forward.model]
    scale = find_pixel_scale([explanation.images[rows]], style, explanation.transform, modules)
    images = scale(explanation.images[rows])
    heatmaps = {title: panel for title, panel in columns.items() if panel.is_floating_point()}
    fine = [title for title in map(method_title, filter(explanation.is_fine, keys)) if title in heatmaps]
    views = make_views(images, list(heatmaps.values()), style.volumes)
    return grid(
        cut_images(images, views),
        {title: cut_images(panel, views) for title, panel in columns.items()},
        captions=[captions[row] for row in rows],
        blanks={title: reason_words(reasons) for title, reasons in blanks.items()},
        note=join_notes(
            read,
            scale.describe_channels(explanation.images),
            len(heatmaps) < len(columns) and SIGNED_NOTE,
            0 < len(fine) < len(heatmaps) and FINE_NOTE,
        ),
        fine=fine,
        scale=scale_words(style.normalize, [title in fine for title in heatmaps]),
        per_row=1,
        drawing=style.drawing(_CELL_SIDE),
    )


def _select_keys(explanation: Explanation, panels: int | str | Sequence[str] | None) -> list[str]:
    """Return the explanation's maps that are shown: those of the methods, of each layer that was read."""
    if panels is None:
        return list(explanation.attributions)
    if isinstance(panels, int) and panels not in TUTORIAL_PANELS:
        raise ValueError(f"Expected `panels` to be 4, 6 or the keys of methods, got {panels}.")
    methods = TUTORIAL_PANELS[panels] if isinstance(panels, int) else [panels] if isinstance(panels, str) else panels
    selected = []
    for method in methods:
        known = find_method(method) or method
        keys = [key for key in explanation.attributions if key in (known, method) or key.startswith(f"{known}@")]
        if not keys:
            raise ValueError(
                f"Expected `panels` out of the explanation's methods {', '.join(explanation.attributions)}, got "
                f"{method!r}. Explain with `methods={tuple(methods)}`."
            )
        selected += keys
    return selected


def _select_rows(index: int | Sequence[int] | None, count: int) -> list[int]:
    rows = list(range(count)) if index is None else [index] if isinstance(index, int) else list(index)
    if not rows or not all(0 <= row < count for row in rows):
        raise ValueError(f"Expected `index` to name images from 0 to {count - 1}, got {index}.")
    return rows


def _draw_panel(
    explanation: Explanation, key: str, rows: list[int], style: Style
) -> tuple[Tensor, Sequence[str | None]]:
    """Return a method's pictures or heatmaps, and why each is blank, or None."""
    if key in explanation.signed and explanation.images.dim() > 3:  # curves are colored by heatmaps alone
        signed = explanation.signed[key][rows]
        return signed_to_rgb(signed), blank_reasons(signed, "minmax")  # negative is no reason in color
    size, own = explanation.images.shape[2:], own_scale(style.normalize)
    heatmaps = make_heatmaps(explanation.attributions[key][rows], size, own)
    return shown_heatmaps([heatmaps], style.normalize, fine=explanation.is_fine(key))[0], heatmaps.reasons
