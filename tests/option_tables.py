"""Writes the tables of docs/options.md from signatures and docstrings: `PYTHONPATH=tests python -m option_tables`."""

import inspect
import re
from pathlib import Path

from docstring_parser import parse

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution, History, Metrics, Samples, Style

PAGE = Path(__file__).parents[1] / "docs/options.md"
GROUPS = (SaliencyCallback, Samples, Style, Metrics, History, Execution)


def options_of(group):
    """The options of a class, each with its default; in the order of its signature."""
    return {name: parameter.default for name, parameter in inspect.signature(group).parameters.items()}


def table(group):
    """One row an option: its name, its default, and what its docstring says of it."""
    described = {entry.arg_name: entry.description for entry in parse(inspect.getdoc(group)).params}
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, default in options_of(group).items():
        meaning = re.sub(r"\s+", " ", described[name]).replace("|", "\\|")
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        rows.append(f"| `{name}` | `{shown}` | {meaning} |")
    return "\n".join(rows)


def mark(group):
    """What stands around a group's table in the page."""
    return f"<!-- options of {group.__name__} -->\n\n", "\n\n<!-- end of options -->"


def written(page):
    """The page with all tables as they should be."""
    for group in GROUPS:
        begin, end = mark(group)
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = before + begin + table(group) + end + after
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
