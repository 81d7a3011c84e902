"""`PicturesOutput`: logs a sheet of all methods, one of each, and the maps of several classes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.visualization import ALL_METHODS, Style, draw_sheets


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
        """Return the tag of the sheet of all methods, and those of single ones as far as they are drawn."""
        is_alone = len(self.methods) == 1
        methods = self.methods if is_alone or self.style.cards == "all" else ()
        return {*methods, *([] if is_alone else [ALL_METHODS])}

    def wants(self, look: Look) -> bool:
        """Whether somebody gets the pictures, or errors are to come out before training."""
        is_shown = look.is_logged and bool(look.trainer.loggers)
        return is_shown or look.is_untrained or look.is_rehearsal

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
