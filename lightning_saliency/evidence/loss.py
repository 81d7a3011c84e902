"""Placeholder until the branch with the reading of the loss is merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LossUse: TypeAlias = Literal["softmax", "sigmoid", "distance", "similarity", "unknown"]


@dataclass(frozen=True)
class LossTerm:
    """What the loss does with a tensor."""

    shape: tuple[int, ...]
    use: LossUse
