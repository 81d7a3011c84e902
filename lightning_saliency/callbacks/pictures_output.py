"""`PicturesOutput`: logs a sheet for each method, one of all methods, and the maps of several classes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.visualization import Style, draw_sheets


class PicturesOutput(Output):
    """Draws sheets of the samples with their heatmaps.

    Args:
        style: How the pictures look.
        methods: Keys of the methods, for the tags.
    """

    key = "pictures"

    def __init__(self, style: Style, methods: Sequence[str]) -> None:
        self.style = style
        self.methods = tuple(methods)

    def tags(self) -> set[str]:
        """Return a tag for each method, and one for the sheet of all methods."""
        return {*self.methods, *(["overview"] if len(self.methods) > 1 else [])}

    def wants(self, look: Look) -> bool:
        """Whether somebody gets the pictures, or errors are to come out before training."""
        return look.is_logged or look.is_untrained or look.is_rehearsal

    def __call__(self, look: Look) -> Logged:
        """Return the sheets of a look."""
        sheets = draw_sheets(
            look.explained,
            self.style,
            title=look.title,
            explained=look.target,
            dataset=look.dataset,
            modules=look.modules,
        )
        return Logged(pictures=sheets)
