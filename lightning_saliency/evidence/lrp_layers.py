"""The rules of layer-wise relevance propagation for norms, activations and convolutions, in the calls of a backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Arguments: TypeAlias = dict[str, Any]
"""The arguments of a call, by the names of its schema."""

Rule: TypeAlias = Callable[[Arguments], Tensor | None]
"""Returns g̃ at the input of an operation, from the call of its backward; None for the gradient."""


class LayerRules(TorchDispatchMode):
    """Replaces what a backward computes for norms, activations and convolutions; see `lrp_rules`.

    Their rules need tensors of the forward, which the backward's calls have as arguments. A hook could not take them
    from the graph: those that activation checkpointing recomputes can be read once only.

    Args:
        gamma: The γ of convolutions.
    """

    supports_higher_order_operators = True  # which are passed on: without this torch refuses them inside a mode

    def __init__(self, gamma: float) -> None:
        cast(Any, super()).__init__()
        self._rules: dict[str, Rule] = {**_RULES, "convolution_backward": partial(_convolution, gamma)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = self._rules.get(getattr(func, "overloadpacket", func).__name__)
        gradient = None if rule is None else rule(_by_name(func, args, kwargs))
        if gradient is None:
            return func(*args, **kwargs)
        gradient = gradient.to(args[0].dtype)  # statistics and weights may be wider
        others = len(func._schema.returns) - 1  # the gradients of parameters, which nobody asks for
        return (gradient, *[None] * others) if others else gradient


def _by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    return dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs


def _convolution(gamma: float, call: Arguments) -> Tensor | None:
    """Return g̃ at the input of a convolution by the γ-rule; its bias takes no part.

    With the terms z_ij = w_ij x_i of z_j = Σ_i z_ij, and c_ij = 1 + γ where z_ij has the sign of z_j, else 1, it is
    R_i = Σ_j R_j c_ij z_ij / Σ_k c_kj z_kj. The denominator has the sign of z_j and is no smaller, whatever the signs
    of inputs and weights: it is (1 + γ/2) z_j + γ/2 sign(z_j) Σ_i |z_ij|.
    """
    if gamma == 0 or call["output_mask"][1]:  # a kernel that depends on the image, too
        return None
    g: Tensor = call["grad_output"]
    x: Tensor = call["input"]
    weight: Tensor = call["weight"]
    geometry = [call[name] for name in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]
    z = torch.ops.aten.convolution(x, weight, None, *geometry)
    magnitude = torch.ops.aten.convolution(x.abs(), weight.abs(), None, *geometry)
    denominator = (1 + gamma / 2) * z.abs() + gamma / 2 * magnitude  # without the sign
    share = torch.where(denominator == 0, 0.0, g / denominator)

    def backward(g: Tensor, weight: Tensor) -> Tensor:
        gradients: list[Tensor] = torch.ops.aten.convolution_backward(
            g, x, weight, None, *geometry, [True, False, False]
        )
        return gradients[0]

    every, favored = backward(share * z.abs(), weight), backward(share * z, weight.abs())
    return (1 + gamma / 2) * every + gamma / 2 * x.sign() * favored


def _layer_norm(call: Arguments) -> Tensor:
    g = _times(call["grad_out"], call["weight"])
    centered = g - g.mean(tuple(range(-len(call["normalized_shape"]), 0)), keepdim=True)
    rstd: Tensor = call["rstd"]
    return centered * rstd


def _rms_norm(call: Arguments) -> Tensor:
    rstd: Tensor = call["rstd"]
    return _times(call["grad_out"], call["weight"]) * rstd


def _group_norm(call: Arguments) -> Tensor:
    rstd: Tensor = call["rstd"]  # (N, groups)
    g = _times(call["grad_out"], call["weight"], channel=1)
    groups = g.reshape(*rstd.shape, -1)
    centered = groups - groups.mean(2, keepdim=True)
    return (centered * rstd[:, :, None]).reshape(g.shape)


def _batch_norm(call: Arguments) -> Tensor:
    if call["train"]:  # in eval, too, without running statistics; instance norm is computed with this
        return _own_statistics(call, call["grad_out"], call["save_invstd"])
    # the gradient; that of torch 2.14 is wrong on a CPU where g is channels-last and the input is not
    scaled = _times(call["grad_out"], call["weight"], channel=1)
    return _times(scaled, (call["running_var"] + call["eps"]).rsqrt(), channel=1)


def _cudnn_batch_norm(call: Arguments) -> Tensor:
    return _own_statistics(call, call["grad_output"], call["save_var"])  # in truth 1/σ


def _own_statistics(call: Arguments, g: Tensor, rstd: Tensor) -> Tensor:
    g = _times(g, call["weight"], channel=1)
    centered = g - g.mean([0, *range(2, g.dim())], keepdim=True)
    return _times(centered, rstd, channel=1)


def _times(tensor: Tensor, factor: Tensor | None, channel: int | None = None) -> Tensor:
    """Return the tensor times a factor of its last dimensions, or of the dimension of channels."""
    if factor is None:
        return tensor
    return tensor * (factor if channel is None else factor.reshape(-1, *[1] * (tensor.dim() - channel - 1)))


def _glu(call: Arguments) -> Tensor:
    """Return g̃ at the input of a gated linear unit: its sigmoid is constant."""
    g, (_, gate) = call["grad_output"], call["self"].chunk(2, call["dim"])
    return torch.cat([g * gate.sigmoid(), torch.zeros_like(g)], call["dim"])


def _activation(function: Callable[[Tensor, Arguments], Tensor], call: Arguments) -> Tensor:
    x = _without_zeros(call["self"])
    gradient: Tensor = call["grad_output"] * (function(x, call) / x)
    return gradient


def _tanh(call: Arguments) -> Tensor:
    y = _without_zeros(call["output"])
    gradient: Tensor = call["grad_output"] * (y / _below_one(y).atanh())
    return gradient


def _elu(call: Arguments) -> Tensor:
    """Return g̃ at the input of ELU, SELU or CELU, of which those in place have kept the output alone."""
    above, below, rate = call["scale"], call["alpha"] * call["scale"], call["input_scale"]
    kept = _without_zeros(call["self_or_result"])
    if call["is_result"]:
        slope = torch.where(kept > 0, above, kept * rate / torch.log1p(_below_one(kept / below)))
    else:
        slope = torch.where(kept > 0, above, torch.expm1(kept * rate) * below / kept)
    gradient: Tensor = call["grad_output"] * slope
    return gradient


def _without_zeros(x: Tensor) -> Tensor:
    """Return the tensor with a tiny number for 0, where f(x) / x is f′(0), for a kink from below as for ReLU."""
    return torch.where(x == 0, -(torch.finfo(x.dtype).tiny ** 0.5), x)


def _below_one(x: Tensor) -> Tensor:
    """Return the tensor with what was rounded to 1 or −1, where an inverse is infinite, just below."""
    largest = 1 - torch.finfo(x.dtype).eps
    return x.clamp(-largest, largest)


_RULES: dict[str, Rule] = {
    "native_layer_norm_backward": _layer_norm,
    "_fused_rms_norm_backward": _rms_norm,
    "native_group_norm_backward": _group_norm,
    "native_batch_norm_backward": _batch_norm,
    "cudnn_batch_norm_backward": _cudnn_batch_norm,
    "glu_backward": _glu,
    "gelu_backward": partial(_activation, lambda x, call: F.gelu(x, approximate=call.get("approximate", "none"))),
    "silu_backward": partial(_activation, lambda x, call: F.silu(x)),
    "mish_backward": partial(_activation, lambda x, call: F.mish(x)),
    "hardswish_backward": partial(_activation, lambda x, call: F.hardswish(x)),
    "hardtanh_backward": partial(_activation, lambda x, call: x.clamp(call["min_val"], call["max_val"])),
    "softshrink_backward": partial(_activation, lambda x, call: F.softshrink(x, call["lambd"])),
    "elu_backward": _elu,
    "tanh_backward": _tanh,
}
"""By the name of an operation's backward; see `lrp_rules`.

Activations that are linear on each side of 0 need no rule: their f(x) / x is their slope.
"""
