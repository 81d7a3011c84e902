"""`Theme`: the colors of paper and ink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Color: TypeAlias = tuple[int, int, int]
ThemeName: TypeAlias = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """The colors of a sheet's paper and words.

    Green and red are Okabe and Ito's bluish green and vermilion, which the color-blind tell apart, as dark or as light
    as reads well on the paper; the marks ✓ and ✗ say the same without any color.

    Attributes:
        paper: The background.
        frame: The thin line around a cell.
        ink: Words, and curves.
        faint: Words of less weight.
        blank: Curves that show no heatmap.
        right: What is said of a right prediction.
        wrong: What is said of a wrong one.
    """

    paper: Color
    frame: Color
    ink: Color
    faint: Color
    blank: Color
    right: Color
    wrong: Color

    def mark(self, correct: bool | None) -> tuple[str, Color]:
        """Return the mark and the color of what is said of a prediction."""
        return ("", self.ink) if correct is None else ("✓ ", self.right) if correct else ("✗ ", self.wrong)


THEMES: dict[ThemeName, Theme] = {
    "light": Theme(
        (255, 255, 255), (218, 218, 218), (32, 33, 36), (104, 108, 114), (168, 170, 174), (0, 114, 84), (184, 66, 0)
    ),
    "dark": Theme(
        (24, 25, 28), (62, 64, 70), (232, 234, 237), (160, 164, 171), (98, 101, 107), (64, 200, 156), (255, 138, 76)
    ),
}
"""The themes by name."""
