"""`TokenGrid`: which tokens of a sequence are the image's patches."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenGrid:
    """Which tokens of a sequence are the image's patches.

    Attributes:
        prefix: The number of tokens before the patches: class, distillation and register tokens.
        suffix: The number of tokens after them.
        grid: (h, w): the patches, row by row.
    """

    prefix: int
    suffix: int
    grid: tuple[int, int]

    def __len__(self) -> int:
        return self.prefix + math.prod(self.grid) + self.suffix

    @property
    def patches(self) -> slice:
        """The positions of the patches in the sequence."""
        return slice(self.prefix, len(self) - self.suffix)
