"""`PicturesOutput`: logs a sheet of all methods, one of each, and the maps of several classes."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency._lightning import rank_zero_info
from lightning_saliency.callbacks.notices import Notices
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.visualization import ALL_METHODS, Style, draw_sheets, pixel_scale_of

_STRETCHED = (
    "Each sample is shown stretched to its own range: the numbers that the model takes are no pixels in [0, 1], and no "
    "normalization that was found makes them so. To see the images as they were, pass what was subtracted from each "
    "channel, and what it was divided by: `style=Style(mean=[...], std=[...])`."
)
"""What is said once where the pictures are not those of the pixels."""


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
        self._notices = Notices()

    def reset(self) -> None:
        """Forget what was said, before another run."""
        self._notices.reset()

    def tags(self) -> set[str]:
        """Return the tag of the sheet of all methods, and those of single ones as far as they are drawn."""
        is_alone = len(self.methods) == 1
        methods = self.methods if is_alone or self.style.cards == "all" else ()
        return {*methods, *([] if is_alone else [ALL_METHODS])}

    def wants(self, look: Look) -> bool:
        """Whether somebody gets the pictures, or errors are to come out before training."""
        is_shown = look.is_logged and bool(look.trainer.loggers)
        return is_shown or look.is_initial or look.is_rehearsal

    def __call__(self, look: Look) -> Logged:
        """Return the sheets of a look."""
        scale = pixel_scale_of(look.explained, self.style, look.dataset, look.modules)
        if scale.is_unknown:
            self._notices.once(_STRETCHED, tell=rank_zero_info)
        sheets = draw_sheets(
            look.explained,
            self.style,
            title=look.title,
            explained=look.target,
            dataset=look.dataset,
            modules=look.modules,
            pixel_scale=scale,
        )
        return Logged(pictures=sheets)
