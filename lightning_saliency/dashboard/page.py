"""One HTML file of the front end and its data, which needs neither a server nor a network."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""The front end's files."""

ENTRY = "report-entry.js"
"""The module that shows the data of a page."""

DATA = "saliency-data"
"""The id of the element that holds the data."""

_IMPORT = re.compile(r'^import (?:\{[\w\s,]+\} from )?"\./([\w.-]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function\b|const\b|let\b|class\b)", re.MULTILINE)
_MODULE_SYNTAX = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<script type="application/json" id="{data_id}">{data}</script>
<script>
{script}
</script>
</body>
</html>
"""

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def make_page(title: str, data: bytes) -> str:
    """Return an HTML page that shows the data with the front end.

    Args:
        title: Of the page.
        data: JSON in ASCII. No text in it can end the element that holds it.
    """
    return _PAGE.format(
        policy=_POLICY,
        title=html.escape(title),
        style=(STATIC / "style.css").read_text(encoding="utf-8"),
        data_id=DATA,
        data=data.decode("ascii").replace("<", "\\u003c"),
        script=bundle(ENTRY),
    )


def bundle(entry: str) -> str:
    """Return the modules that one needs, and itself, as one script.

    They declare what they have at their top level, each under another name, and import it by its name.

    Args:
        entry: The name of the module's file.

    Raises:
        ValueError: A module has another kind of import or export.
    """
    parts = [f'(() => {{\n"use strict";\nglobalThis.SALIENCY_DATA = JSON.parse(document.getElementById("{DATA}")'
             ".textContent);"]  # fmt: skip
    for name in _in_order(entry, []):
        source = _EXPORT.sub("", _IMPORT.sub("", _read(name)))
        left = _MODULE_SYNTAX.search(source)
        if left or "</script" in source.lower():
            raise ValueError(
                f"Expected {name} to export declarations, to import by name, and to hold no end of a script, "
                f"got {left[0] if left else '</script'!r}."
            )
        parts.append(source.strip())
    return "\n\n".join([*parts, "})();"])


def _in_order(name: str, done: list[str]) -> Iterator[str]:
    """Yield a module's name after those of the modules that it imports, each once."""
    if name in done:
        return
    done.append(name)
    for imported in _IMPORT.findall(_read(name)):
        yield from _in_order(imported, done)
    yield name


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
