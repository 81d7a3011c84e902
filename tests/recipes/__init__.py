"""Ways to train, each run with and without the callback; `table.py` has them all."""

from .batches import Sizes, squares
from .recipe import METHODS, STRICT, Careless, Deterministic, Recipe, Witness, fit, run
from .table import GROUPS, RECIPES, parametrized

__all__ = [
    "GROUPS",
    "METHODS",
    "RECIPES",
    "STRICT",
    "Careless",
    "Deterministic",
    "Recipe",
    "Sizes",
    "Witness",
    "fit",
    "parametrized",
    "run",
    "squares",
]
