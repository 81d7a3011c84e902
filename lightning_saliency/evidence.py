"""One pass of the model, from which all plain methods are read; and the trace that finds the target layer.

The only file with hooks, modes, autograd, random states and autocast.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from lightning_saliency.layers import (
    LayerCall,
    TargetLayer,
    find_class_weights,
    is_activation,
    last_convolutional_map,
)
from lightning_saliency.targets import ParsedTarget, check_classes, find_logits, select_scores

Need: TypeAlias = Literal["activations", "activation_grads", "input_grads", "class_weights"]
"""What a method reads."""

ForwardContext: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which the model's forward runs, for instance autocast."""

_FLOAT16_SCALE = 2.0**12
"""Float16 gradients are taken of the score times this, lest they underflow; where that overflows, of the score."""


@dataclass(frozen=True)
class Evidence:
    """What one pass over N images shows; every method is a function of this.

    All tensors are detached; half precision is widened to float32. What no method asked for is None.

    Attributes:
        images: The model's input `(N, C, H, W)`.
        logits: `(N, K)`.
        scores: The explained logit of each image, `(N,)`.
        classes: The explained class of each image, `(N,)`; None where the target is a callable.
        activations: A, the target layer's output `(N, D, h, w)`.
        activation_grads: g = ∂score/∂A, `(N, D, h, w)`.
        input_grads: ∂score/∂input, `(N, C, H, W)`.
        class_weights: The explained score's row of the linear layer after global average pooling, `(N, D)`.
        all_class_weights: Its row of each class, `(K, D)`; for a single logit, those of the classes 0 and 1.
        pooled_activations: The map that the linear layer sees pooled: A, or ReLU(A) (see `find_class_weights`).
    """

    images: Tensor
    logits: Tensor
    scores: Tensor
    classes: Tensor | None = None
    activations: Tensor | None = None
    activation_grads: Tensor | None = None
    input_grads: Tensor | None = None
    class_weights: Tensor | None = None
    all_class_weights: Tensor | None = None
    pooled_activations: Tensor | None = None


def bare_module(model: nn.Module) -> nn.Module:
    """The module inside a compiled one, whose layers have their own names."""
    return getattr(model, "_orig_mod", model)


def as_model_input(model: nn.Module, images: Tensor) -> Tensor:
    """The images on the device and in the precision of the model's first floating-point parameter."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return images.to(parameter)
    return images


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode, without a graph, and leave everything as it was, also after an error.

    Kept are: each module's `training` flag, buffers and attributes (a metric's states, cached features), the random
    states of torch (on the CPU and on the model's devices), Python and NumPy, the grad and inference modes. Compiled
    modules run eagerly, without a recompile.
    `requires_grad`, `.grad` and the parameters are never touched.

    Args:
        model: Any module.
    """
    flags = [(module, module.training) for module in model.modules()]
    cuda = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(cuda)))
        stack.callback(np.random.set_state, numpy_state)
        stack.callback(random.setstate, python_state)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN has no backward through a recurrent layer in eval mode; torch's own kernels have
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(_buffers_kept(model))
        stack.enter_context(_attributes_kept(model))
        # a traced module with a graph for each mode swaps them in `train`
        swapped = [(module, flag) for module, flag in flags if isinstance(module, GraphModule)]
        try:
            for traced, _ in swapped:
                traced.eval()
            for module, _ in flags:
                module.training = False  # not module.eval(): a user may have overridden it
            yield
        finally:
            for traced, flag in swapped:
                traced.train(flag)
            for module, flag in flags:
                module.training = flag


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo what the forward does to buffers: some change in eval mode too (fake quantisation, counters)."""
    registered = [(module._buffers, dict(module._buffers.items())) for module in model.modules()]
    kept = [
        (buffer, buffer.clone(), buffer._version)
        for _, buffers in registered
        for buffer in buffers.values()
        if buffer is not None and not buffer.is_inference()  # an inference tensor cannot be changed in here
    ]
    try:
        yield
    finally:
        for current, buffers in registered:
            for name in [name for name, _ in current.items() if name not in buffers]:
                del current[name]
            for name, buffer in buffers.items():
                current[name] = buffer
        for buffer, copy, version in kept:
            if buffer._version != version or not torch.equal(buffer, copy):  # writing to `.data` leaves the version
                if buffer.shape != copy.shape:  # per-channel observers resize theirs
                    buffer.resize_(copy.shape)
                buffer.copy_(copy)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what the forward assigns to modules: a metric's states, features kept for later, counters."""
    kept = [(vars(module), dict(vars(module))) for module in model.modules() if not isinstance(module, ScriptModule)]
    lists = [(value, list(value)) for _, names in kept for value in names.values() if isinstance(value, list)]
    try:
        for current, names in kept:  # copies to work on: a metric adds to its states in place
            copies = {name: value.detach().clone() for name, value in names.items() if isinstance(value, Tensor)}
            current.update(copies)
        yield
    finally:
        for current, names in kept:
            for name in [name for name in current if name not in names]:
                del current[name]
            current.update(names)
        for value, items in lists:
            value[:] = items


def find_target_layer(
    model: nn.Module,
    images: Tensor,
    *,
    size: tuple[int, int] | None = None,
    can_be_cut: bool = False,
    output_fn: Callable[[Any], Tensor] | None = None,
    forward_context: ForwardContext = nullcontext,
) -> TargetLayer:
    """Find the layer that the papers would choose, from a run of the first image.

    See `last_convolutional_map` for the rule. It leaves the model as it was.

    Args:
        model: Any model of images that returns logits.
        images: `(N, C, H, W)`.
        size: (h, w) that the map is to have, for an earlier layer than the last; None for any.
        can_be_cut: Only a map that everything passes through on its way to the logits.
        output_fn: Takes the logits out of what the model returns.
        forward_context: Makes the context for the forward, for instance autocast.

    Returns:
        The layer, which `explain` takes as `layer`.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_target_layer(model, torch.randn(1, 3, 8, 8)).name
        '1'
    """
    model = bare_module(model)
    with undisturbed(model):
        trace = _Trace()
        image = as_model_input(model, images[:1]).detach().clone().requires_grad_()
        with ExitStack() as stack:
            for name, module in model.named_modules():
                stack.callback(module.register_forward_hook(trace.hook(name)).remove)
            stack.enter_context(_graph_everywhere(model))
            stack.enter_context(forward_context())
            stack.enter_context(trace)
            source = image.clone()
            logits = find_logits(model(source), 1, output_fn)
        return last_convolutional_map(trace.calls, logits, size, source.grad_fn if can_be_cut else None)


def collect(
    model: nn.Module,
    images: Tensor,
    *,
    target: ParsedTarget,
    needs: Set[Need],
    layer: TargetLayer | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    forward_context: ForwardContext = nullcontext,
) -> Evidence:
    """Run the model once, forward and, if a method needs a gradient, backward; to be called inside `undisturbed`.

    No gradient of a parameter is computed. If the input's gradient is not needed, the graph starts at the target layer:
    what comes before it runs without one.

    Args:
        model: Any module that returns logits.
        images: `(N, C, H, W)`.
        target: What `parse_target` returned for these images.
        needs: What the methods read.
        layer: The target layer; not needed for the input's gradient alone.
        output_fn: Takes the logits out of what the model returns.
        forward_context: Makes the context for the forward, for instance autocast.

    Raises:
        ValueError: The layer does not run exactly once or returns no feature map, a target class does not exist, or the
            score does not depend on what is asked for.
    """
    wants_input, wants_map = "input_grads" in needs, "activation_grads" in needs
    if isinstance(target, Tensor):
        target = target.clone()  # autograd saves it: refused if it was made in inference mode
    # A model may run a part of itself under `no_grad` (a frozen backbone, say). Then the graph that starts where it is
    # cheapest does not reach the score, and the second try builds one everywhere.
    for everywhere in (False, True) if wants_input or wants_map else (False,):
        leaf = images.detach().clone().requires_grad_(wants_input)
        tap = _Tap(layer, starts_graph=wants_map and not wants_input) if layer is not None else None
        with ExitStack() as stack:
            stack.enter_context(_graph_everywhere(model) if everywhere else torch.set_grad_enabled(wants_input))
            stack.enter_context(forward_context())
            stack.enter_context(tap or nullcontext())
            logits = find_logits(model(leaf.clone() if wants_input else leaf), len(images), output_fn)
        activations = tap.read() if tap else None
        check_classes(target, logits)
        with torch.set_grad_enabled(wants_input or wants_map):
            scores, classes = select_scores(_widen(logits), target)
        wanted = [
            *([activations] if wants_map and activations is not None else []),
            *([leaf] if wants_input else []),
        ]
        gradients = _gradients(scores, wanted, logits.dtype)
        if gradients is not None:
            break
    else:
        source = f"the output of the layer {layer.name!r}" if layer and wants_map else "the input"
        raise ValueError(
            f"The explained score does not depend on {source} through operations that have a gradient. A `detach()`, "
            "inference mode or activation checkpointing with `use_reentrant=True` inside the model cuts the graph: "
            "use `use_reentrant=False`, or choose a later `layer`."
        )
    class_weights = all_weights = pooled = None
    if "class_weights" in needs and activations is not None:
        weight, pooled = find_class_weights(model, activations.detach(), logits.detach())
        all_weights = torch.cat([-weight, weight]) if len(weight) == 1 else weight
        class_weights = all_weights[classes] if classes is not None else _mixture(logits, target) @ weight
    return Evidence(
        images=_widen(images.detach()),
        logits=_widen(logits.detach()),
        scores=scores.detach(),
        classes=classes,
        activations=None if activations is None else _widen(activations.detach()),
        activation_grads=gradients.pop(0) if wants_map else None,
        input_grads=gradients.pop(0) if wants_input else None,
        class_weights=class_weights,
        all_class_weights=all_weights,
        pooled_activations=pooled,
    )


class _Trace(TorchFunctionMode):
    """Records the calls of all modules, and which outputs an activation function was applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and name:
                self.calls.append(LayerCall(name, module, output, output.grad_fn))

        return record

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if is_activation(func) and args:
            for call in self.calls:
                call.activated |= call.output is args[0]
        return func(*args, **(kwargs or {}))


class _Tap(TorchFunctionMode):
    """Reads the target layer's map as the forward runs.

    The model goes on with a copy, so that what it does to the map in place later does not change what is read.
    """

    def __init__(self, layer: TargetLayer, *, starts_graph: bool) -> None:
        super().__init__()
        self.layer = layer
        self.starts_graph = starts_graph
        self.calls = 0
        self.map: Tensor | None = None
        self.passed_on: Tensor | None = None

    def __enter__(self) -> _Tap:
        # removed when the forward ends: activation checkpointing runs the layer once more in backward
        self.handle = self.layer.module.register_forward_hook(self._hook)
        if self.layer.activated:
            super().__enter__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()
        if self.layer.activated:
            super().__exit__(*error)  # type: ignore[no-untyped-call]

    def read(self) -> Tensor:
        """The map, once the forward has ended."""
        if self.map is None or self.calls != 1:
            raise ValueError(
                f"Expected the target layer {self.layer.name!r} to run once in a forward, it ran {self.calls} times. "
                "Choose a `layer` that runs once: for a shared activation, the layer before it or the block around it."
            )
        return self.map

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        self.calls += 1
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"Expected the target layer {self.layer.name!r} to return a feature map (N, D, h, w), got {shape}."
            )
        if self.starts_graph:
            output = output.detach().requires_grad_()
            torch.set_grad_enabled(True)  # from here on; ends with the context around the forward
        return self._keep(output)

    def _keep(self, output: Tensor) -> Tensor:
        self.map = output
        self.passed_on = output.clone()
        return self.passed_on

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.passed_on is not None and is_activation(func) and args and args[0] is self.passed_on:
            result = self._keep(result)
            self.passed_on = None  # one activation, the first
        return result


@contextmanager
def _graph_everywhere(model: nn.Module) -> Iterator[None]:
    """Build a graph in every module, also in those that the model runs under `no_grad`."""

    def enable(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)

    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(enable).remove)
        yield


def _gradients(scores: Tensor, wanted: list[Tensor], dtype: torch.dtype) -> list[Tensor] | None:
    """∂score/∂tensor for each wanted tensor, or None where a score does not depend on one of them."""
    if not wanted:
        return []
    if not scores.requires_grad or not all(tensor.requires_grad for tensor in wanted):
        return None

    def backward(scale: float, *, again: bool = False) -> list[Tensor] | None:
        weights = torch.full_like(scores, scale)
        found = torch.autograd.grad(scores, wanted, weights, retain_graph=again, allow_unused=True)
        gradients = [_widen(gradient) / scale for gradient in found if gradient is not None]
        return gradients if len(gradients) == len(wanted) else None

    if torch.float16 not in (dtype, *(tensor.dtype for tensor in wanted)):
        return backward(1.0)
    scaled = backward(_FLOAT16_SCALE, again=True)
    if scaled is None or all(_finite(gradient).all() for gradient in scaled):
        return scaled
    plain = backward(1.0) or scaled
    # image by image: one that overflows does not take the scale from the others
    return [large.where(_finite(large), small) for large, small in zip(scaled, plain, strict=True)]


def _mixture(logits: Tensor, target: ParsedTarget) -> Tensor:
    """∂score/∂logits `(N, K)`, on the logits alone: which mix of the linear layer's rows the score is."""
    with torch.enable_grad():
        leaf = _widen(logits.detach()).requires_grad_()
        return torch.autograd.grad(select_scores(leaf, target)[0].sum(), leaf)[0]


def _finite(maps: Tensor) -> Tensor:
    """Which images' maps are finite throughout: `(N, C, h, w)` -> `(N, 1, 1, 1)`."""
    return maps.isfinite().all(3, keepdim=True).all(2, keepdim=True).all(1, keepdim=True)


def _widen(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
