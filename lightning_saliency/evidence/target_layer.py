"""The target layer, whose activations are read: by name, by module, or chosen from the trace of a run."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import OptionError
from lightning_saliency.data import Call
from lightning_saliency.evidence.forward import Forward, as_forward
from lightning_saliency.evidence.isolation import graph_everywhere

_ACTIVATIONS = frozenset(
    name + suffix
    for name in (
        "relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardtanh",
    )
    for suffix in ("", "_")
)  # fmt: skip
"""Names of activation functions. Not sigmoid, tanh, softplus: in `x * sigmoid(x)` they are part of one."""

_ACTIVATED = ":activated"
"""The ending of a layer's name that means: read it after the activation function that follows it."""


@dataclass(frozen=True)
class TargetLayer:
    """The layer whose activations are read.

    Attributes:
        name: Its dotted name in the model.
        activated: Read the map after the activation function that the model applies to the layer's output outside any
            module of its own (`F.relu(self.conv(x))`), in place or not. An automatically chosen layer is read so; one
            that the user names is read as returned, unless the name ends in `:activated`.
    """

    name: str
    activated: bool = False

    def __str__(self) -> str:
        return f"{self.name}{_ACTIVATED}" if self.activated else self.name


@dataclass
class LayerCall:
    """One call of one module in a traced forward.

    Attributes:
        name: The module's dotted name.
        module: The module.
        output: What it returned.
        node: The autograd node of the output; None where it has no graph.
        activated: Whether an activation function was applied to this output outside any module.
    """

    name: str
    module: nn.Module
    output: Tensor
    node: Any
    activated: bool = False


def is_activation(function: Callable[..., Any]) -> bool:
    """Whether a torch function is an activation function."""
    return getattr(function, "__name__", "") in _ACTIVATIONS


class Trace(TorchFunctionMode):
    """Records the calls of all modules, and which outputs an activation function was applied to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []

    def hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Return the forward hook that records the calls of the module of this name."""

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


def name_layer(model: nn.Module, layer: str | nn.Module, *, argument: str = "layer") -> TargetLayer:
    """Return the target layer for a dotted name or for a module of the model.

    Args:
        model: The model that holds it.
        layer: A name as in `model.named_modules()`, with `:activated` behind it to read the layer after the activation
            function that the model applies to its output; or one of the modules.
        argument: The argument's name in errors.

    Raises:
        ValueError: The model has no such layer; the message lists the nearest names.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> name_layer(model, model[1])
        TargetLayer(name='1', activated=False)
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return TargetLayer(name)
        raise OptionError(
            f"Expected `{argument}` to be a module of the model, got a {type(layer).__name__} that "
            f"{type(model).__name__} does not hold. Take it from this very model, for instance by its name in "
            "`model.named_modules()`.",
            argument,
        )
    if not isinstance(layer, str):
        raise TypeError(f"Expected `{argument}` to be a dotted name, a module or None, got {type(layer).__name__}.")
    activated = layer.endswith(_ACTIVATED)
    layer = layer.removesuffix(_ACTIVATED)
    if layer not in modules or not layer:
        names = [name for name in modules if name]
        nearest = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
        raise OptionError(
            f"Expected `{argument}` to name a module of {type(model).__name__}, got {layer!r}. "
            f"Nearest: {', '.join(nearest)}.",
            argument,
        )
    return TargetLayer(layer, activated)


def find_target_layer(
    model: nn.Module | Forward,
    images: Tensor | Call,
    *,
    size: tuple[int, int] | None = None,
    can_be_cut: bool = False,
) -> TargetLayer:
    """Choose the target layer as the papers do, the last convolutional map, by a run of the first image.

    See `last_convolutional_map` for the rule. It leaves the model as it was.

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.
        size: (h, w) of the map, to choose an earlier layer than the last; None for any size.
        can_be_cut: Whether to choose only a map through which every path from the images to the logits goes.

    Returns:
        The target layer, which `explain` takes as `layer`.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_target_layer(model, torch.randn(1, 3, 8, 8)).name
        '1'
    """
    forward = as_forward(model)
    call = (forward.on_device(images) if isinstance(images, Call) else forward.call_of(images))[:1]
    converted = forward.floating_point_images(call).detach()
    with forward.undisturbed() as isolated:
        trace = Trace()
        leaf = converted.clone().requires_grad_()
        for name, module in isolated.model.named_modules():
            if not isinstance(module, ScriptModule):  # which has no hooks
                module.register_forward_hook(trace.hook(name))
        with graph_everywhere(isolated.model), trace:
            image = leaf.clone()
            logits = isolated(call, image)
        return last_convolutional_map(trace.calls, logits, size, image.grad_fn if can_be_cut else None)


def last_convolutional_map(
    calls: Sequence[LayerCall], logits: Tensor, size: tuple[int, int] | None = None, source: Any = None
) -> TargetLayer:
    """Choose the target layer as the papers do, from the trace of one forward with a graph.

    It is the last convolutional map that the logits depend on, after its own norm and activation and before any
    pooling: Grad-CAM's "last convolutional layer" (Selvaraju 2017, section 3). Passed over are pooled or merely resized
    maps, maps of one pixel, maps of class scores (as many channels as classes, nothing learned between them and the
    logits), and the patch embedding of a transformer (the only convolution, which cuts the image into patches). Where a
    container returns the same tensor as a layer in it, the container's name is used: a ResNet's is `layer4`.

    Args:
        calls: The calls of all modules, in the order in which they ended.
        logits: `(N, K)`, with their graph.
        size: (h, w) of the map; None for any size.
        source: The autograd node of the images, if every path from them to the logits must go through the map, so that
            the model can be cut there; None for any map.

    Raises:
        ValueError: There is no such map.
    """
    used = _ancestors([logits.grad_fn])
    unlearned = _ancestors([logits.grad_fn], stop=_is_learned)
    sizes = {call.node: tuple(call.output.shape[2:]) for call in calls}
    counts = Counter(call.name for call in calls)

    def is_candidate(call: LayerCall) -> bool:
        if call.output.dim() != 4 or call.output.shape[2:].numel() < 2 or call.node not in used:
            return False
        if _is_patch_embedding(call) or (size is not None and tuple(call.output.shape[2:]) != size):
            return False
        if source is not None and source in _ancestors([logits.grad_fn], stop=lambda node: node is call.node):
            return False
        is_class_scores = call.output.shape[1] == logits.shape[1] and call.node in unlearned
        return not is_class_scores and _is_convolutional(call.node, tuple(call.output.shape[2:]), sizes)

    has_score_maps = any(call.output.dim() == 4 and call.node in unlearned for call in calls)
    for node in reversed(list(dict.fromkeys(call.node for call in calls))):
        same_map = [call for call in calls if call.node is node]
        named = [call for call in same_map if counts[call.name] == 1]
        if not named or not is_candidate(named[0]):
            continue
        innermost = same_map[0].name
        containers = [call for call in named if innermost == call.name or innermost.startswith(f"{call.name}.")]
        chosen = (containers or named)[-1]
        return TargetLayer(chosen.name, chosen.activated)
    if size is not None:
        map_sizes = sorted({tuple(call.output.shape[2:]) for call in calls if call.output.dim() == 4}, reverse=True)
        raise ValueError(
            f"Expected the model to have a convolutional map of {size[0]}×{size[1]} at this image size where it can be "
            f"cut; its maps are {', '.join(f'{height}×{width}' for height, width in map_sizes) or 'none'}."
        )
    why = "only maps of class scores" if has_score_maps else "no convolutional map of more than one pixel"
    raise ValueError(
        f"Expected a model whose logits depend on a convolutional feature map (N, D, h, w), but the run shows {why}. "
        "Name the layer (`layer=...`) whose output is such a map; for the saliency of the input's pixels alone no "
        "layer is needed (`methods=['saliency']`)."
    )


def _ancestors(nodes: Iterable[Any], stop: Callable[[Any], bool] = lambda _: False) -> Collection[Any]:
    """Return the given autograd nodes and all that they depend on, not searching beyond nodes where `stop` holds."""
    waiting = [node for node in nodes if node is not None]
    ancestors = set(waiting)
    while waiting:
        node = waiting.pop()
        if stop(node):
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in ancestors:
                ancestors.add(parent)
                waiting.append(parent)
    return ancestors


def _is_convolutional(node: Any, size: tuple[int, ...], sizes: dict[Any, tuple[int, ...]]) -> bool:
    """Whether a map is the output of a convolution at the same size, with no pooling or resizing after it."""
    ends = ("Convolution", "Pool", "Upsample", "GridSampler", "PixelShuffle")

    def stop(node: Any) -> bool:
        return any(kind in node.name() for kind in ends) or sizes.get(node, size) != size

    return any("Convolution" in node.name() and sizes.get(node, size) == size for node in _ancestors([node], stop))


def _is_patch_embedding(call: LayerCall) -> bool:
    """Whether a single convolution cuts the image into patches that do not overlap."""
    return (
        isinstance(call.module, nn.Conv2d)
        and call.module.kernel_size == call.module.stride != (1, 1)
        and sum("Convolution" in node.name() for node in _ancestors([call.node])) == 1
    )


def _is_learned(node: Any) -> bool:
    """Whether the node is a convolution or a linear layer."""
    return any(kind in node.name() for kind in ("Convolution", "Addmm", "MmBackward", "BmmBackward", "Linear"))
