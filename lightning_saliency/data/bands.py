"""Which of a multispectral image's bands are red, green and blue, where a data set says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_saliency.data.datasets import read, walk_datasets

_ALL_BANDS = ("bands", "all_bands", "all_band_names", "band_names")
"""What data sets call the names of an image's bands, in their order; the first are those of the images at hand."""


class Bands(NamedTuple):
    """Three bands of an image.

    Attributes:
        positions: Their positions among the channels, from 0.
        names: Their names; none where the data set gives positions.
    """

    positions: tuple[int, ...]
    names: tuple[str, ...] = ()


def find_rgb_bands(*owners: Any, num_channels: int) -> Bands | None:
    """Return the bands that a data set shows as red, green and blue: its `rgb_bands`, as those of torchgeo have them.

    Args:
        owners: Data sets, also wrapped ones, and data modules, in the order in which they are searched.
        num_channels: The channels of the images; bands that do not fit are passed over. Channels after the bands, such
            as a vegetation index, do no harm.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset = SimpleNamespace(rgb_bands=("B04", "B03", "B02"), bands=("B02", "B03", "B04", "B08"))
        >>> find_rgb_bands(dataset, num_channels=4)
        Bands(positions=(2, 1, 0), names=('B04', 'B03', 'B02'))
    """
    for owner in owners:
        for dataset in walk_datasets(owner):
            found = _bands_of(dataset, num_channels)
            if found is not None:
                return found
    return None


def _bands_of(dataset: Any, num_channels: int) -> Bands | None:
    chosen = _entries(dataset, "rgb_bands")
    if len(chosen) != 3:
        return None
    if all(type(band) is int and 0 <= band < num_channels for band in chosen):
        return Bands(chosen)
    for name in _ALL_BANDS:
        bands = _entries(dataset, name)
        if len(bands) <= num_channels and all(isinstance(band, str) and band in bands for band in chosen):
            return Bands(tuple(bands.index(band) for band in chosen), tuple(map(str, chosen)))
    return None


def _entries(dataset: Any, name: str) -> tuple[Any, ...]:
    """Return the entries of a sequence; none where there is no such attribute."""

    def entries(value: Any) -> tuple[Any, ...] | None:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None

    return read(dataset, name, entries) or ()
