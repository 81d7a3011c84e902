"""The command line: `explain`, pictures and raw maps of your own images and model; `report`, runs in one HTML file."""

from lightning_saliency.cli.command import main

__all__ = ["main"]
