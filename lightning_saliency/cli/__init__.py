"""The command line `explain`: pictures and raw attributions of your own images and model, written to a folder."""

from lightning_saliency.cli.command import main

__all__ = ["main"]
