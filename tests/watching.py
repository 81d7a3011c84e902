"""What lets a test see into passes: containers that a model's shadow shares with it, and whether memory is shared.

A pass runs a copy of the model, whose lists and dicts are its own: what a hook of the copy appends to a plain list, or
a module counts in a plain dict, is gone with the copy.
"""

import torch


def is_shared(tensor):
    """Whether the tensor's memory may be another one's too, until one of the two is written."""
    return torch._C._is_cow_tensor(tensor)


class _Shared:
    def __deepcopy__(self, memo):
        return self


class SharedList(_Shared, list):
    """A list that is its own copy."""


class SharedDict(_Shared, dict):
    """A dict that is its own copy."""


class SharedSet(_Shared, set):
    """A set that is its own copy."""
