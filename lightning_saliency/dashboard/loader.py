"""What TensorBoard loads at its start: small, so that the start takes no longer and nothing here can stop it."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins.base_plugin import TBLoader


class SaliencyLoader(TBLoader):
    """Loads the Saliency tab; an error in it costs the tab alone."""

    def load(self, context: Any) -> Any:
        """Return the plugin.

        Args:
            context: TensorBoard's `TBContext`.
        """
        from lightning_saliency.dashboard.tab import SaliencyTab  # what fails here does not stop TensorBoard

        return SaliencyTab(context)
