"""The table of methods, and the choice of some of them with their options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from lightning_saliency.attribution import cam_family, gradient, perturbation, rectified
from lightning_saliency.attribution.method import Method

MethodChoice: TypeAlias = str | Iterable[str] | Mapping[str, Mapping[str, Any] | None]
"""Which methods: a key, several, or by key the options of its function."""

METHODS: dict[str, Method] = {
    **cam_family.ROWS,
    **gradient.ROWS,
    **rectified.ROWS,
    **perturbation.ROWS,
}
"""All methods by their keys. A method of one's own is one more entry."""


def parse_methods(methods: MethodChoice) -> dict[str, dict[str, Any]]:
    """Check the keys of methods and the options of their functions, and drop repeats.

    Args:
        methods: A key, several, or a mapping from keys to options, such as `{"smooth_grad": {"num_samples": 50}}`; None
            and an empty mapping stand for no options.

    Returns:
        By key the options.

    Raises:
        TypeError: It is none of these.
        ValueError: A key is not in the table, there is none, a method has no such option, or it cannot have this value.

    Example:
        >>> parse_methods("grad_cam")
        {'grad_cam': {}}
        >>> parse_methods({"smooth_grad": {"num_samples": 50}, "cam": None})
        {'smooth_grad': {'num_samples': 50}, 'cam': {}}
    """
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Iterable):
        raise TypeError(f"Expected `methods` to be one or more of {', '.join(METHODS)}, got {methods!r}.")
    chosen = dict(methods) if isinstance(methods, Mapping) else dict.fromkeys(methods)
    parsed: dict[str, dict[str, Any]] = {}
    for key, options in chosen.items():
        if key not in METHODS:
            near = get_close_matches(str(key), METHODS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Expected `methods` out of {', '.join(METHODS)}, got {key!r}.{hint}")
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(
                f"Expected the options of {key!r} in `methods` to be a dict, such as "
                f"{{'smooth_grad': {{'num_samples': 50}}}}, got {options!r}."
            )
        parsed[key] = dict(options or {})
        METHODS[key].check_options(key, parsed[key])
    if not parsed:
        raise ValueError(f"Expected `methods` to name at least one of {', '.join(METHODS)}, got none.")
    return parsed
