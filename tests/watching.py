"""Containers that a model's shadow shares with the model, so that a test sees what a pass puts into them.

A pass runs a copy of the model, whose lists and dicts are its own: what a hook of the copy appends to a plain list, or
a module counts in a plain dict, is gone with the copy.
"""


class _Shared:
    def __deepcopy__(self, memo):
        return self


class SharedList(_Shared, list):
    """A list that is its own copy."""


class SharedDict(_Shared, dict):
    """A dict that is its own copy."""


class SharedSet(_Shared, set):
    """A set that is its own copy."""
