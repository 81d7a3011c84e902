"""The table of all methods, and the parsing of a choice of methods with their options."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from lightning_saliency._checks import refuse, shown, suggest
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


def is_fine(key: str, size: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether maps have a value of their own for each pixel of the images: those of saliency and its relatives.

    Args:
        key: Of a method, also with a layer behind it; one that is not in the table is taken for coarse.
        size: The spatial size of its maps. LRP gives a transformer's patches a value each, which is coarse.
        image_size: That of the images.

    Example:
        >>> is_fine("lrp", (224, 224), (224, 224)), is_fine("lrp", (16, 16), (224, 224))
        (True, False)
        >>> is_fine("grad_cam@layer3", (14, 14), (14, 14))
        False
    """
    method = METHODS.get(key.partition("@")[0])
    return method is not None and method.is_fine and tuple(size) == tuple(image_size)


def find_method(name: str) -> str | None:
    """Return the key of the method that a name means; None where there is none.

    Case and separators do not matter, "++" is "plus plus", and a plural is its singular; each method's `aliases` are
    its names too.

    Args:
        name: As papers and other libraries spell it.

    Example:
        >>> find_method("Grad-CAM++"), find_method("IntegratedGradients"), find_method("ig"), find_method("grad")
        ('grad_cam_plus_plus', 'integrated_gradients', 'integrated_gradients', None)
    """
    if name in METHODS:
        return name
    spelled = _plain_spelling(name)
    names = ((key, (key, *method.aliases)) for key, method in METHODS.items())
    return next((key for key, spellings in names if spelled in map(_plain_spelling, spellings)), None)


def find_map(name: str, maps: Collection[str], argument: str = "method", expected: str = "one of") -> str:
    """Return the key of a map by its method's name, however that is spelled, and the layer behind an `@`.

    Args:
        name: Of a method, or of a method and a layer: `"Grad-CAM"`, `"grad_cam@layer3"`.
        maps: The keys that there are.
        argument: The argument's name in errors.
        expected: What the maps are, as the sentence goes on after "to be".

    Raises:
        ValueError: There is no such map; the message names the nearest and those that there are.

    Example:
        >>> find_map("Grad-CAM", ["saliency", "grad_cam"])
        'grad_cam'
        >>> find_map("salency", ["saliency", "grad_cam"])
        Traceback (most recent call last):
        ValueError: Expected `method` to be one of saliency, grad_cam, got 'salency'. Did you mean 'saliency'?
    """
    if isinstance(name, str):
        method, at, layer = name.partition("@")
        key = f"{find_method(method) or method}{at}{layer}"
        if name in maps or key in maps:
            return name if name in maps else key
    return refuse(argument, f"{expected} {', '.join(maps)}", shown(name), hint=_suggest(name, maps))


def _plain_spelling(name: str) -> str:
    """Return a name in lower case without separators and without the plural's s: `Grad-CAM++` -> `gradcamplusplus`."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus").replace("×", "x")).removesuffix("s")


def _suggest(name: Any, keys: Collection[str]) -> str:
    """Return the question which of the keys is meant; empty where none is near, or the name is that of another one."""
    if not isinstance(name, str) or find_method(name) is not None:
        return ""
    spellings = {_plain_spelling(spelling): key for key in keys for spelling in (key, *_aliases(key))}
    return suggest(_plain_spelling(name), spellings)


def _aliases(key: str) -> tuple[str, ...]:
    return METHODS[key].aliases if key in METHODS else ()


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
            None and an empty mapping stand for no options. Keys may be spelled as `find_method` reads them.

    Returns:
        The options of each method, by its key.

    Raises:
        TypeError: `methods` is none of these.
        ValueError: A key is not in the table, there is no key, a method has no such option, or an option cannot have
            this value.

    Example:
        >>> parse_methods("grad_cam")
        {'grad_cam': {}}
        >>> list(parse_methods(["GradCAM", "Grad-CAM++", "ig"]))
        ['grad_cam', 'grad_cam_plus_plus', 'integrated_gradients']
        >>> parse_methods({"smooth_grad": {"num_samples": 50}, "cam": None})
        {'smooth_grad': {'num_samples': 50}, 'cam': {}}
    """
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Iterable) or getattr(methods, "ndim", 1) == 0:
        raise TypeError(f"Expected `methods` to be one or more of {', '.join(METHODS)}, got {shown(methods)}.")
    chosen = methods.items() if isinstance(methods, Mapping) else [(key, None) for key in methods]
    parsed: dict[str, dict[str, Any]] = {}
    for name, options in chosen:
        key = find_method(name) if isinstance(name, str) else None
        if key is None:
            raise ValueError(
                f"Expected `methods` out of {', '.join(METHODS)}, got {shown(name)}. {_suggest(name, METHODS)}".rstrip()
            )
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(
                f"Expected the options of {key!r} in `methods` to be a dict, such as "
                f"{{'smooth_grad': {{'num_samples': 50}}}}, got {shown(options)}."
            )
        parsed[key] = METHODS[key].parse_options(key, options or {})
    if not parsed:
        raise ValueError(f"Expected `methods` to name at least one of {', '.join(METHODS)}, got none.")
    return parsed
