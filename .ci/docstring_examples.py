"""Show the examples of docstrings as code: mkdocstrings knows the section `Examples:`, ours are called `Example:`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Reads a section `Example:` as one of `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section of one object's docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
