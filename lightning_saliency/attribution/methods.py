"""The table of methods, and how a row becomes raw attributions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency.attribution.cam import (
    cam,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from lightning_saliency.attribution.gradient import (
    input_x_gradient,
    integrated_gradients,
    reduced,
    saliency,
    smooth_grad,
    smooth_grad_cam_plus_plus,
)
from lightning_saliency.attribution.perturbation import ablation_cam, occlusion, score_cam
from lightning_saliency.attribution.rectified import deconvnet, guided_backprop, guided_grad_cam
from lightning_saliency.evidence import Evidence, Need, Passes

Further: TypeAlias = Literal["rectified", "noisy", "path", "perturbed"]
"""Which passes a method needs beyond the shared one."""

Reduce: TypeAlias = Literal["absolute", "signed", "positive", "sum"]
"""How the channels of a map in input space become one: max |v|, the v with the largest |v|, max ReLU(v), or Σ v."""

MethodOptions: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By a method's key the options of its function."""


@dataclass(frozen=True)
class Method:
    """A row of the method table.

    Attributes:
        function: Evidence -> raw attributions `(N, 1, h, w)`, or with `reduce` signed ones of each channel of the input
            `(N, C, H, W)`. With `further` passes it takes `Passes` as well. Its keyword-only arguments are options.
        title: How a picture names it.
        needs: What it reads of the evidence.
        reduce: How the channels become one map.
        further: Which passes it needs beyond the shared one.
    """

    function: Callable[..., Tensor]
    title: str
    needs: frozenset[Need]
    reduce: Reduce | None = None
    further: Further | None = None

    @property
    def reads_layer(self) -> bool:
        """Whether it reads a target layer."""
        return bool(self.needs - {"input_grads"})

    @property
    def options(self) -> tuple[str, ...]:
        """What can be set."""
        parameters = inspect.signature(self.function).parameters.values()
        own = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        return (*own, *(["reduce"] if self.reduce else []))

    def attribute(
        self, evidence: Evidence, passes: Passes, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The raw attributions `(N, 1, h, w)`, and in input space those of each channel `(N, C, H, W)`; float32."""
        given = dict(options or {})
        reduce = given.pop("reduce", self.reduce)
        raw = self.function(evidence, *([passes] if self.further else []), **given)
        if reduce is None:
            return raw.float(), None
        return reduced(raw, reduce).float(), raw.float()


_A: frozenset[Need] = frozenset({"activations"})
_MAP: frozenset[Need] = frozenset({"activations", "activation_grads"})
_INPUT: frozenset[Need] = frozenset({"input_grads"})
_NONE: frozenset[Need] = frozenset()
METHODS: dict[str, Method] = {
    "cam": Method(cam, "CAM", frozenset({"activations", "class_weights"})),
    "grad_cam": Method(grad_cam, "Grad-CAM", _MAP),
    "grad_cam_plus_plus": Method(grad_cam_plus_plus, "Grad-CAM++", _MAP),
    "smooth_grad_cam_plus_plus": Method(smooth_grad_cam_plus_plus, "Smooth Grad-CAM++", _MAP, further="noisy"),
    "hires_cam": Method(hires_cam, "HiResCAM", _MAP),
    "layer_cam": Method(layer_cam, "LayerCAM", _MAP),
    "xgrad_cam": Method(xgrad_cam, "XGrad-CAM", _MAP),
    "eigen_cam": Method(eigen_cam, "Eigen-CAM", _A),
    "score_cam": Method(score_cam, "Score-CAM", _A, further="perturbed"),
    "ablation_cam": Method(ablation_cam, "Ablation-CAM", _A, further="perturbed"),
    "saliency": Method(saliency, "Saliency", _INPUT, reduce="absolute"),
    "input_x_gradient": Method(input_x_gradient, "Input × gradient", _INPUT, reduce="sum"),
    "smooth_grad": Method(smooth_grad, "SmoothGrad", _NONE, reduce="absolute", further="noisy"),
    "integrated_gradients": Method(integrated_gradients, "Integrated gradients", _NONE, reduce="sum", further="path"),
    "guided_backprop": Method(guided_backprop, "Guided backprop", _NONE, reduce="absolute", further="rectified"),
    "deconvnet": Method(deconvnet, "Deconvnet", _NONE, reduce="absolute", further="rectified"),
    "guided_grad_cam": Method(guided_grad_cam, "Guided Grad-CAM", _MAP, reduce="absolute", further="rectified"),
    "occlusion": Method(occlusion, "Occlusion", _NONE, further="perturbed"),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "reduce": (f"one of {', '.join(get_args(Reduce))}", lambda value: value in get_args(Reduce)),
    "principal": ("True or False", lambda value: isinstance(value, bool)),
    "num_samples": ("a positive int", _is_count),
    "steps": ("a positive int", _is_count),
    "noise": ("a number that is not negative", lambda value: _is_number(value) and value >= 0),
    "seed": ("an int", lambda value: isinstance(value, int)),
    "baseline": ("a number", _is_number),
    "fill": ("a number", _is_number),
    "size": ("a positive int or None", lambda value: value is None or _is_count(value)),
    "stride": ("a positive int or None", lambda value: value is None or _is_count(value)),
}
"""Of each option what it is expected to be."""


def parse_methods(methods: str | Iterable[str]) -> tuple[str, ...]:
    """Check the keys of methods, and drop repeats.

    Raises:
        ValueError: A key is not in the table, or there is none.

    Example:
        >>> parse_methods("grad_cam")
        ('grad_cam',)
    """
    keys = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    for key in keys:
        if key not in METHODS:
            near = get_close_matches(str(key), METHODS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Expected `methods` out of {', '.join(METHODS)}, got {key!r}.{hint}")
    if not keys:
        raise ValueError(f"Expected `methods` to name at least one of {', '.join(METHODS)}, got none.")
    return keys


def parse_options(method_options: MethodOptions | None, methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Check that the options are those of the methods.

    Raises:
        TypeError: It is no dict of dicts.
        ValueError: A method is not among the methods, has no such option, or the option cannot have this value.

    Example:
        >>> parse_options({"smooth_grad": {"num_samples": 50}}, ["smooth_grad"])
        {'smooth_grad': {'num_samples': 50}}
    """
    given = method_options or {}
    if not isinstance(given, Mapping) or not all(isinstance(options, Mapping) for options in given.values()):
        raise TypeError(
            f"Expected `method_options` to be a dict of dicts, such as {{'smooth_grad': {{'num_samples': 50}}}}, got "
            f"{method_options!r}."
        )
    parsed = {key: dict(options) for key, options in given.items()}
    for key, options in parsed.items():
        if key not in set(methods):
            raise ValueError(f"Expected `method_options` for the methods {', '.join(methods)}, got {key!r}.")
        for option, value in options.items():
            allowed = METHODS[key].options
            if option not in allowed:
                raise ValueError(
                    f"Expected the options of {key!r} in `method_options` out of {', '.join(allowed) or 'none'}, "
                    f"got {option!r}."
                )
            expected, fits = _VALUES.get(option, ("", lambda _: True))
            if not fits(value):
                raise ValueError(f"Expected `{option}` of {key!r} to be {expected}, got {value!r}.")
    return parsed
