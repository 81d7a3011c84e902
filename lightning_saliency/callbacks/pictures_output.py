"""The pictures of a look: a sheet for each method, one of all, and the maps of several classes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.visualization import Style, draw_sheets


class PicturesOutput(Output):
    """Draws the samples under their heatmaps.

    Args:
        style: How the pictures look.
        methods: Keys of the methods, for the tags.
    """

    key = "pictures"

    def __init__(self, style: Style, methods: Sequence[str]) -> None:
        self.style = style
        self.methods = tuple(methods)

    def tags(self) -> set[str]:
        """A tag for each method, and one for all."""
        return {*self.methods, *(["overview"] if len(self.methods) > 1 else [])}

    def __call__(self, look: Look) -> Logged:
        """Draw the sheets."""
        sheets = draw_sheets(look.explained, self.style, title=look.title, explained=look.target, dataset=look.dataset)
        return Logged(pictures=sheets)
