"""How the pictures look, and what a data set adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency._checks import (
    OptionError,
    check_choice,
    check_count,
    check_each,
    check_flag,
    check_number,
    check_options,
    optional,
    refuse,
    shown,
)
from lightning_saliency._names import one_line
from lightning_saliency.attribution import ExplainedSamples, Normalize
from lightning_saliency.data import (
    PIXELS,
    Normalization,
    common_normalization,
    find_class_names,
    find_normalizations,
    find_own_normalization,
    find_rgb_bands,
    names_by_label,
    to_unit_range,
)
from lightning_saliency.visualization.captions import Names
from lightning_saliency.visualization.cells import Drawing
from lightning_saliency.visualization.colors import Shading, check_alpha, check_colormap
from lightning_saliency.visualization.images import Channels, shown_channels, to_curves, to_rgb
from lightning_saliency.visualization.theme import THEMES, ThemeName
from lightning_saliency.visualization.views import Volumes

ChannelChoice: TypeAlias = Literal["first", "mean", "rgb"] | Sequence[int]
"""Which channels of multispectral images are shown; see `Style`."""

Cards: TypeAlias = Literal["few", "all"]
"""How many pictures of a look there are; see `Style`."""

_LEAST_CELL = 32

_STRETCHED = "each image stretched to its own range"
"""What a picture says where the numbers of an image are not drawn as the shades that they were."""

_NONE_FITS = f"{_STRETCHED}, as no normalization fits"
"""What it says where they are no pixels in [0, 1]."""


@dataclass(frozen=True)
class Style:
    """How the pictures look; checked when it is made.

    Args:
        mean: What was subtracted from the images, one number per channel or one for all, on the scale of pixels in
            [0, 1] or in [0, 255]; None to look for it in the data set, the modules and the numbers of the images, and
            else to stretch each image to its own range.
        std: What the images were divided by, likewise.
        class_names: Names of the classes; None to look for them in the data set and the modules, and else to show
            their numbers.
        colormap: Any matplotlib color map. Default: `plasma`, which rises evenly in brightness.
        alpha: Weight of the color in the overlay, in [0, 1]; where it fades, that of the largest value.
        fade: Whether the color fades out toward 0, so that what is not attended stays the photograph.
        contour: A number in (0, 1): a line is drawn around what is above this part of the scale; None for no line.
        cards: How many pictures of a look there are. `few`: the sheet of all methods, and the filmstrip and the
            animation of the first method. `all`: a sheet, a filmstrip and an animation of each method, too.
        theme: `light` or `dark` paper.
        cell: The larger side of the sheets' cells, in pixels; None for what suits the number of samples and their size.
        normalize: How raw maps become colors: `max` (negative values cut, each map divided by its maximum), `minmax`
            (each map from its minimum to its maximum), `shared` (one scale for all samples: a weak map looks weak).
        channels: What to show of images with more than three channels: the `first` three, the `mean`, `rgb` (the bands
            that the data set has as `rgb_bands`, as those of torchgeo do), or positions from 0 for red, green and blue:
            `[3, 2, 1]`, or one for gray. Of volumes the first one, of signals the first eight. Default: `rgb` where the
            data set has these, else `first`.
        volumes: How volumes `(N, C, D, H, W)` are shown: `slices`, three that cross where the map is largest; `frames`,
            a few one after another, as of a video; `auto`: frames where there are three channels, else slices.
        top_k: Of how many classes of each sample, the most probable ones, CAM is shown side by side; 1 for no such
            picture. Default: 1, and 3 for `CAMCallback`.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit.

    Example:
        >>> Style(mean=[0.5], std=[0.25], colormap="viridis").mean
        (0.5,)
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    class_names: Sequence[str] | None = None
    colormap: str = "plasma"
    alpha: float = 0.85
    fade: bool = True
    contour: float | None = None
    cards: Cards = "few"
    theme: ThemeName = "light"
    cell: int | None = None
    normalize: Normalize = "max"
    channels: ChannelChoice | None = None
    volumes: Volumes = "auto"
    top_k: int | None = None

    def __post_init__(self) -> None:
        check_options(
            self,
            "style.",
            {
                "mean": optional(_check_numbers),
                "std": optional(partial(_check_numbers, interval="(0, inf)")),
                "class_names": optional(partial(check_each, check=_check_class_name, of="names")),
                "colormap": check_colormap,
                "alpha": check_alpha,
                "fade": check_flag,
                "contour": optional(partial(check_number, interval="(0, 1)")),
                "cards": partial(check_choice, allowed=get_args(Cards)),
                "theme": partial(check_choice, allowed=tuple(THEMES)),
                "cell": optional(partial(check_count, least=_LEAST_CELL)),
                "normalize": partial(check_choice, allowed=get_args(Normalize)),
                "channels": optional(_check_channels),
                "volumes": partial(check_choice, allowed=get_args(Volumes)),
                "top_k": optional(check_count),
            },
        )
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"Expected `style.mean` and `style.std` both or neither, got {self.mean} and {self.std}.")
        lengths = {len(numbers) for numbers in (self.mean, self.std) if isinstance(numbers, tuple)} - {1}
        if len(lengths) > 1:
            raise ValueError(
                f"Expected `style.mean` and `style.std` to be of one length, got {self.mean} and {self.std}."
            )

    def drawing(self, cell_side: int) -> Drawing:
        """Return how cells are drawn, of this size where the style does not set it."""
        shading = Shading(self.colormap, self.alpha, self.fade, self.contour)
        return Drawing(self.cell or cell_side, shading, THEMES[self.theme])


@dataclass(frozen=True)
class PixelScale:
    """How the numbers of a model's input become the colors of a picture, found by `find_pixel_scale`.

    Args:
        normalization: What is undone; None where each image is stretched to its own range.
        channels: Which channels are shown.
        band_names: The names of these, where the data set has them.
        note: What a picture says of it; empty where there is nothing to say.
        is_unknown: Whether images are stretched that are no pixels as they are.
    """

    normalization: Normalization | None
    channels: Channels
    band_names: tuple[str, ...] = ()
    note: str = ""
    is_unknown: bool = False

    def describe_channels(self, images: Tensor) -> str:
        """Return in a few words which channels of images `(N, C, …)` are shown; empty where it is all of them."""
        if self.band_names:
            return f"bands {', '.join(self.band_names)}"
        return shown_channels(images.shape[1], self.channels, images.dim() - 2)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images `(N, C, H, W)` as pictures, uint8 `(N, 3, H, W)`, on the CPU; and signals as curves."""
        if images.dim() == 3:
            return to_curves(images, self.channels)
        if images.dtype == torch.uint8:  # pixels already, which the model converts itself
            return to_rgb(images / 255, 0.0, 1.0, self.channels)
        mean, std = (None, None) if self.normalization is None else self.normalization
        return to_rgb(images, mean, std, self.channels)


def find_pixel_scale(
    images: Sequence[Tensor],
    style: Style,
    dataset: Any = None,
    modules: Sequence[Any] = (),
    in_step: Sequence[Normalization | None] = (),
) -> PixelScale:
    """Find how model inputs become colors: the style says it, else what the step has done, else the data set.

    A normalization that is found counts only if the images are pixels with it undone, between black and white. If none
    of the data set's does, those in the modules are tried, unless the images are such pixels as they are: then the
    model may normalize them itself. If none does, what the numbers of the images themselves prove counts; see
    `lightning_saliency.data.find_own_normalization`. Else each image is stretched to its own range, and a note says so.

    Args:
        images: Batches `(N, C, H, W)`, as the model takes them.
        style: How the pictures look.
        dataset: Where to look for the normalization.
        modules: The data module and the module of the training, where it may be too.
        in_step: What the step has done to each sample, as far as it is known.

    Example:
        >>> from types import SimpleNamespace
        >>> from torchvision.transforms import v2
        >>> dataset = SimpleNamespace(transform=v2.Normalize([0.5], [0.25]))
        >>> find_pixel_scale([(torch.rand(2, 3, 8, 8) - 0.5) / 0.25], Style(), dataset).normalization
        Normalization(mean=[0.5], std=[0.25])
    """
    channels, names = _find_channels(images[0], style, dataset, modules)
    if style.mean is not None and style.std is not None:
        numbers = [[value] if isinstance(value, int | float) else list(value) for value in (style.mean, style.std)]
        return PixelScale(to_unit_range(*numbers), channels, names)
    inputs = [batch for batch in images if batch.dtype != torch.uint8 and batch.dim() > 3]
    own = common_normalization(in_step)
    candidates = [*([] if own is None else [own]), *find_normalizations(dataset)]
    are_pixels = PIXELS.fits(inputs)
    if not are_pixels and not any(normalization.fits(inputs) for normalization in candidates):
        candidates = [*candidates, *find_normalizations(*modules)]
    fitting = next((normalization for normalization in candidates if normalization.fits(inputs)), None)
    fitting = find_own_normalization(inputs) if fitting is None else fitting
    note = "" if fitting is not None or not inputs else _STRETCHED if are_pixels else _NONE_FITS
    return PixelScale(fitting, channels, names, note, is_unknown=fitting is None and not are_pixels)


def _find_channels(
    images: Tensor, style: Style, dataset: Any, modules: Sequence[Any]
) -> tuple[Channels, tuple[str, ...]]:
    """Return which channels of images are shown, and their names, where the data set's red, green and blue are.

    Raises:
        OptionError: The style wants the data set's, and there are none that fit.
    """
    if style.channels is not None and style.channels != "rgb":
        return style.channels, ()
    num_channels = images.shape[1]
    if style.channels is None and (num_channels <= 3 or images.dim() != 4):
        return "first", ()
    found = find_rgb_bands(dataset, *modules, num_channels=num_channels)
    if found is None and style.channels == "rgb":
        raise OptionError(
            f"Expected a data set with `rgb_bands` and `bands` that fit the images' {num_channels} channels, as "
            "`style.channels` is 'rgb', found none. Pass their positions: `Style(channels=[3, 2, 1])`.",
            "style.channels",
        )
    return ("first", ()) if found is None else found


def to_pictures(images: Tensor, style: Style, dataset: Any = None, modules: Sequence[Any] = ()) -> Tensor:
    """Turn model inputs back into pictures, as `find_pixel_scale` finds for these images.

    Args:
        images: `(N, C, H, W)`, as the model takes them; or volumes `(N, C, D, H, W)`, or signals `(N, C, T)`.
        style: How they look.
        dataset: Where to look for the normalization.
        modules: Where it may be too.

    Returns:
        uint8 `(N, 3, H, W)`, on the CPU; see `to_rgb` for volumes, and `to_curves` for signals.
    """
    return find_pixel_scale([images], style, dataset, modules)(images)


def find_sample_names(
    looked: Sequence[ExplainedSamples], style: Style, dataset: Any = None, modules: Sequence[Any] = ()
) -> Names:
    """Return the names of the classes of explained samples; see `find_names`.

    A detector that lists its detections does not tell how many classes there are: names that are found count only where
    it is certain which label has which; see `lightning_saliency.data.names_by_label`.
    """
    explanation = looked[0].explanation
    if style.class_names or explanation.task.has_all_classes:
        return find_names(style, dataset, modules, explanation.num_classes)
    names = find_class_names(dataset, *modules)
    known = [classes for group in looked if (classes := group.samples.true_classes) is not None]
    labels = {index for classes in known for index in classes.flatten().tolist() if index >= 0}
    fitting = None if names is None else names_by_label(names, labels)
    return Names(None if fitting is None else tuple(map(one_line, fitting)))


def find_names(style: Style, dataset: Any = None, modules: Sequence[Any] = (), num_classes: int | None = None) -> Names:
    """Return the names of the classes: the style's, else the data set's or the modules'; each as one line.

    Args:
        style: What the user has set.
        dataset: Where to look for the names.
        modules: The data module and the module of the training, where to look next.
        num_classes: The number of logits, which names that are found must fit; None where it is not known.
    """
    names = style.class_names or find_class_names(dataset, *modules, num_classes=num_classes)
    return Names(None if names is None else tuple(map(one_line, names)))


def _check_channels(name: str, value: Any) -> str | tuple[int, ...]:
    """Return the name of a choice of channels, or their positions as a tuple."""
    if isinstance(value, str):
        return check_choice(name, value, ("first", "mean", "rgb"))
    return check_each(name, value, partial(check_count, least=0), of="positions of channels from 0")


def _check_numbers(name: str, value: Any, interval: str = "(-inf, inf)") -> float | tuple[float, ...]:
    """Return one number, or one per channel as a tuple."""
    values = value.tolist() if hasattr(value, "tolist") else value
    check = partial(check_number, interval=interval)
    return (
        check_each(name, values, check, of="numbers, one per channel")
        if isinstance(values, list | tuple)
        else check(name, values)
    )


def _check_class_name(name: str, value: Any) -> str:
    """Return a class's name as one line; a number is a name too."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        refuse(name, "a name", shown(value), error=TypeError)
    return one_line(str(value))
