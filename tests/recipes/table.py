"""All recipes by group, and the page of the documentation that lists them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import (
    batches,
    flags,
    forwards,
    held,
    hooks,
    models,
    optimization,
    own_options,
    python_state,
    side_effects,
    transformers,
)
from .recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "untouched.md"
MARK = "<!-- the recipes: `PYTHONPATH=tests python -m recipes` writes them -->\n"


@dataclass(frozen=True)
class Group:
    title: str
    text: str
    recipes: list[Recipe]


GROUPS = [
    Group("Training as usual", "", flags.USUAL),
    Group("The Trainer's flags", "", flags.FLAGS),
    Group("Precision", "", flags.PRECISIONS),
    Group("Callbacks and tuners of Lightning's", "", flags.CALLBACKS),
    Group("Data and batches", "", batches.ROWS),
    Group("Optimization", "", optimization.ROWS),
    Group("Parts of models", "", models.ROWS),
    Group("Transformers", "", transformers.ROWS),
    Group("Steps and forwards", "", forwards.ROWS),
    Group(
        "State in Python objects",
        "Each forward renews what the module keeps, and every later step depends on it.",
        python_state.ROWS,
    ),
    Group("Hooks that keep something", "", hooks.ROWS),
    Group("A forward that changes the module", "", side_effects.ROWS),
    Group(
        "What cannot be copied, and what refers elsewhere",
        "Most have it beside a dict in which forward counts, and on which training depends.",
        held.ROWS,
    ),
    Group("Options of this package's callbacks", "The module is one that logs, counts and keeps.", own_options.ROWS),
]
RECIPES = [recipe for group in GROUPS for recipe in group.recipes]


def parametrized(recipes: Sequence[Recipe]) -> Any:
    """Return the decorator that runs a test for each recipe, with its marks."""
    return pytest.mark.parametrize(
        "recipe",
        [
            pytest.param(recipe, id=recipe.name, marks=[pytest.mark.nightly, *[pytest.mark.daily] * recipe.daily])
            for recipe in recipes
        ],
    )


def table(group: Group) -> str:
    rows = [
        f"| {recipe.name} | {'yes' if recipe.daily else ''} | {'yes' if recipe.careless else ''} |"
        for recipe in group.recipes
    ]
    text = f"{group.text}\n\n" if group.text else ""
    head = "| recipe | in the test command | a careless forward would change it |\n|---|---|---|\n"
    return f"### {group.title}\n\n{text}{head}" + "\n".join(rows) + "\n"


def all_tables() -> str:
    """Return the tables of all groups, as they stand in the page."""
    count = f"{len(RECIPES)} recipes; {sum(recipe.daily for recipe in RECIPES)} of them run in the test command.\n"
    return "\n".join([count, *map(table, GROUPS)])


def write_page() -> None:
    """Write the tables into the page, between its marks."""
    before, _, after = PAGE.read_text().split(MARK)
    PAGE.write_text(f"{before}{MARK}\n{all_tables()}\n{MARK}{after}")
