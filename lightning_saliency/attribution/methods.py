"""The table of all methods, and the parsing of a choice of methods with their options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from lightning_saliency._checks import shown
from lightning_saliency.attribution import attention, cam_family, gradient, perturbation, rectified, relevance
from lightning_saliency.attribution.method import Method
from lightning_saliency.evidence import Layers

MethodChoice: TypeAlias = str | Iterable[str] | Mapping[str, Mapping[str, Any] | None]
"""A choice of methods: a key, several keys, or a mapping from keys to the options of their functions."""

METHODS: dict[str, Method] = {
    **cam_family.ROWS,
    **attention.ROWS,
    **gradient.ROWS,
    **relevance.ROWS,
    **rectified.ROWS,
    **perturbation.ROWS,
}
"""All methods by their keys. To add a method of your own, add an entry."""

DEFAULT_METHODS = ("attention_relevance", "summed_hires_cam", "hires_cam", "grad_cam", "grad_cam_plus_plus", "saliency")
"""The methods of which `default_methods` chooses."""


def default_methods(layers: Layers) -> tuple[str, ...]:
    """Return the methods that suit a model best, where the user names none.

    A convolutional network: `grad_cam`, `grad_cam_plus_plus`, `saliency`. A transformer: `attention_relevance`,
    `grad_cam`, `saliency`; with attention within windows or in a pyramid, `summed_hires_cam` in place of the first.
    Another model with maps: `grad_cam`, `saliency`. A model without any: `saliency`. Grad-CAM++ assumes maps that are
    not negative, which tokens are. A detector without attention: `hires_cam`, `saliency`. The score of a box has its
    gradient where the box is; Grad-CAM's mean over all positions would show other objects that look alike, or are
    larger (Zhao and Chan 2023, ODAM).

    Args:
        layers: What a run of the model has shown.

    Example:
        >>> default_methods(Layers())
        ('saliency',)
    """
    if layers.target is None:
        return ("saliency",)
    if layers.has_boxes:
        return ("hires_cam", "saliency")
    if layers.is_convolutional:
        return ("grad_cam", "grad_cam_plus_plus", "saliency")
    of_attention = (
        ["attention_relevance"] if layers.attentions else ["summed_hires_cam"] if layers.attention_inputs else []
    )
    return (*of_attention, "grad_cam", "saliency")


def parse_methods(methods: MethodChoice) -> dict[str, dict[str, Any]]:
    """Check the keys of methods and the options of their functions, and drop repeats.

    Args:
        methods: A key, several keys, or a mapping from keys to options, such as `{"smooth_grad": {"num_samples": 50}}`;
            None and an empty mapping stand for no options.

    Returns:
        The options of each method, by its key.

    Raises:
        TypeError: `methods` is none of these.
        ValueError: A key is not in the table, there is no key, a method has no such option, or an option cannot have
            this value.

    Example:
        >>> parse_methods("grad_cam")
        {'grad_cam': {}}
        >>> parse_methods({"smooth_grad": {"num_samples": 50}, "cam": None})
        {'smooth_grad': {'num_samples': 50}, 'cam': {}}
    """
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Iterable) or getattr(methods, "ndim", 1) == 0:
        raise TypeError(f"Expected `methods` to be one or more of {', '.join(METHODS)}, got {shown(methods)}.")
    chosen = methods.items() if isinstance(methods, Mapping) else [(key, None) for key in methods]
    parsed: dict[str, dict[str, Any]] = {}
    for key, options in chosen:
        if not isinstance(key, str) or key not in METHODS:
            matches = get_close_matches(shown(key).strip("'"), METHODS, n=1)
            hint = f" Did you mean {matches[0]!r}?" if matches else ""
            raise ValueError(f"Expected `methods` out of {', '.join(METHODS)}, got {shown(key)}.{hint}")
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(
                f"Expected the options of {key!r} in `methods` to be a dict, such as "
                f"{{'smooth_grad': {{'num_samples': 50}}}}, got {shown(options)}."
            )
        parsed[str(key)] = METHODS[key].parse_options(key, options or {})
    if not parsed:
        raise ValueError(f"Expected `methods` to name at least one of {', '.join(METHODS)}, got none.")
    return parsed
