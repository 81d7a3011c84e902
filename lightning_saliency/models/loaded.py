"""`LoadedModel`: a model by name, with what belongs to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

Preprocessing: TypeAlias = Callable[..., Any]
"""From an RGB image of Pillow to a tensor `(C, h, w)`."""


@dataclass(frozen=True)
class LoadedModel:
    """A model by name, with what belongs to it.

    Attributes:
        model: The model.
        make_transform: Returns its own transform, for a size, a mean and a standard deviation in place of its own; None
            where it has none.
        class_names: What its classes are called, where it says so.
        size: The side of the images that it takes, where it says so and has no transform.
    """

    model: nn.Module
    make_transform: Callable[[int | None, Sequence[float] | None, Sequence[float] | None], Preprocessing] | None = None
    class_names: tuple[str, ...] | None = None
    size: int | None = None


def say_untrained() -> None:
    """Say on the standard error that the network has random weights."""
    print("Without --weights the network is untrained, and its maps show nothing learned.", file=sys.stderr)
