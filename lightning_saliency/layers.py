"""Which layer's activations are read: by name, by module, or found in the trace of a run."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

_ACTIVATIONS = frozenset(
    name + suffix
    for name in (
        "relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "elu", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardtanh",
    )
    for suffix in ("", "_")
)  # fmt: skip
"""Functions that models apply as the activation. Not sigmoid, tanh, softplus: in `x * sigmoid(x)` they are a part."""

_ACTIVATED = ":activated"
"""Behind a layer's name: read it after the activation function that follows it."""

_LSE_SHARPNESS = 5.0
"""r of the log-sum-exp pooling: towards 0 it is the average, towards infinity the maximum."""


def _log_mean_exp(features: Tensor) -> Tensor:
    total = (_LSE_SHARPNESS * features).flatten(2).logsumexp(2)
    return (total - math.log(features.shape[2:].numel())) / _LSE_SHARPNESS


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda features: features.mean((2, 3)),
    "max": lambda features: features.amax((2, 3)),
    "lse": _log_mean_exp,
}
"""The global poolings of a head whose linear layer weighs the maps of the classes: `(N, D, h, w)` -> `(N, D)`."""

# How far logits may lie from W·mean(A) + b, relative to the root of the sum of the squared terms.
_HEAD_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}

_CHECKED_CLASSES = 50
"""Of more logits than these, evenly spread ones are compared: the check reads their weights several times."""


@dataclass(frozen=True)
class TargetLayer:
    """The layer whose activations are read.

    Attributes:
        name: Its dotted name in the model.
        module: The layer.
        activated: Read the map after the activation function that the model applies to the layer's output outside any
            module of its own (`F.relu(self.conv(x))`), in place or not. A layer that was found is read so; one that
            the user names means its output as returned, unless `:activated` stands behind the name.
    """

    name: str
    module: nn.Module
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
        node: The autograd node that made the output (None: the output has no graph).
        activated: An activation function was then applied to this very output.
    """

    name: str
    module: nn.Module
    output: Tensor
    node: Any
    activated: bool = False


def is_activation(function: Callable[..., Any]) -> bool:
    """Whether a torch function is one that models use as the activation."""
    return getattr(function, "__name__", "") in _ACTIVATIONS


def name_layer(model: nn.Module, layer: str | nn.Module, *, argument: str = "layer") -> TargetLayer:
    """Look a layer up by its dotted name, or find the name of a module.

    Args:
        model: The model that holds it.
        layer: A name as in `model.named_modules()`, with `:activated` behind it to read the layer after the activation
            function that the model applies to its output; or one of the modules.
        argument: What the caller calls it, for the errors.

    Raises:
        ValueError: The model has no such layer; the message lists the nearest names.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        >>> name_layer(model, "1").module
        ReLU()
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return TargetLayer(name, module)
        raise ValueError(
            f"Expected `{argument}` to be a module of the model, got a {type(layer).__name__} that "
            f"{type(model).__name__} does not hold. Take it from this very model, for instance by its name in "
            "`model.named_modules()`."
        )
    if not isinstance(layer, str):
        raise TypeError(f"Expected `{argument}` to be a dotted name, a module or None, got {type(layer).__name__}.")
    activated = layer.endswith(_ACTIVATED)
    layer = layer.removesuffix(_ACTIVATED)
    if layer not in modules or not layer:
        names = [name for name in modules if name]
        near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[-5:]
        raise ValueError(
            f"Expected `{argument}` to name a module of {type(model).__name__}, got {layer!r}. "
            f"Nearest: {', '.join(near)}."
        )
    return TargetLayer(layer, modules[layer], activated)


def last_convolutional_map(
    calls: Sequence[LayerCall], logits: Tensor, size: tuple[int, int] | None = None, source: Any = None
) -> TargetLayer:
    """Choose the target layer as the papers do, from the trace of one forward with a graph.

    It is the last convolutional map after its own norm and activation and before any pooling, that the logits depend
    on: Grad-CAM's "last convolutional layer" (Selvaraju 2017, section 3). Passed over are pooled or merely resized
    maps, maps of one pixel, maps of class scores (as many channels as classes, nothing learned between them and the
    logits), and the patch embedding of a transformer (the only convolution, which cuts the image into patches). Where a
    container returns the very tensor that a layer in it made, the container gives its name: a ResNet's is `layer4`.

    Args:
        calls: The calls of all modules, in the order in which they ended.
        logits: `(N, K)`, with their graph.
        size: (h, w) that the map is to have; None for any.
        source: The autograd node of the images, where all that reaches the logits is to pass through the map, so that
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

    seen_scores = any(call.output.dim() == 4 and call.node in unlearned for call in calls)
    for node in reversed(list(dict.fromkeys(call.node for call in calls))):
        same_map = [call for call in calls if call.node is node]
        named = [call for call in same_map if counts[call.name] == 1]
        if not named or not is_candidate(named[0]):
            continue
        maker = same_map[0].name
        outermost = [call for call in named if maker == call.name or maker.startswith(f"{call.name}.")]
        chosen = (outermost or named)[-1]
        return TargetLayer(chosen.name, chosen.module, chosen.activated)
    if size is not None:
        found = sorted({tuple(call.output.shape[2:]) for call in calls if call.output.dim() == 4}, reverse=True)
        raise ValueError(
            f"Expected the model to have a convolutional map of {size[0]}×{size[1]} at this image size where it can be "
            f"cut; its maps are {', '.join(f'{height}×{width}' for height, width in found) or 'none'}."
        )
    why = "only maps of class scores" if seen_scores else "no convolutional map of more than one pixel"
    raise ValueError(
        f"Expected a model whose logits depend on a convolutional feature map (N, D, h, w), but the run shows {why}. "
        "Name the layer (`layer=...`) whose output is such a map; for the saliency of the input's pixels alone no "
        "layer is needed (`methods=['saliency']`)."
    )


def find_class_weights(model: nn.Module, activations: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Find the linear layer W of a head that is global average pooling, then linear; checked on numbers.

    Whatever the classes are called, the head is such a one if logits = W·mean(A) + b on the actual batch; of more than
    fifty logits, evenly spread ones are compared. Where a model rectifies the map in place after the layer
    (DenseNet), this holds for ReLU(A); that is tried too. So are the other poolings that a `GAPHead` can have.

    Args:
        model: The model in which the linear layer (or 1×1 convolution) is looked for.
        activations: A, `(N, D, h, w)`.
        logits: `(N, K)` in the precision in which the model made them.

    Returns:
        W `(K, D)`, and the map for which the identity holds: A or ReLU(A).

    Raises:
        ValueError: The identity holds for no layer of the model.
    """
    dtype = max(activations.dtype, logits.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    work = torch.promote_types(torch.promote_types(activations.dtype, logits.dtype), torch.float32)
    activations, logits = activations.to(work), logits.to(work)
    finite = logits.isfinite().all(1)
    count = logits.shape[1]
    some: slice | Tensor = slice(None)
    if count > _CHECKED_CLASSES:
        some = torch.linspace(0, count - 1, _CHECKED_CLASSES, dtype=torch.float64).round().long().to(logits.device)
    checked = logits[finite][:, some]
    for every_weight, every_bias in _linear_layers(model, count, activations.shape[1]):
        weight, bias = every_weight[some].to(work), every_bias[some].to(work)
        for pool, rectified in product(POOLINGS.values(), (False, True)):
            features = activations.relu() if rectified else activations
            pooled = pool(features)[finite]
            error = (pooled @ weight.T + bias - checked).abs()
            scale = (pooled.square() @ weight.square().T + bias.square()).sqrt()
            if (error <= _HEAD_TOLERANCE[dtype] * scale).all():
                return every_weight.to(work), features
    raise ValueError(
        "The method `cam` needs a model whose head is global average pooling, then one linear layer, so that "
        "logits = W·mean(A) + b. On this batch that holds for no layer of the model: make it such a one "
        "and train it (`lightning_saliency.gap_model`, or `GAPHead` as its last layer), name the map that is pooled "
        "(`layer=...`), or use `grad_cam`, which equals `cam` on such models up to a factor and works on any."
    )


def _linear_layers(model: nn.Module, num_classes: int, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of each layer that maps `depth` features to the classes; the last layers first."""
    for module in reversed(list(model.modules())):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.shape in ((num_classes, depth), (num_classes, depth, 1, 1)):
            bias = getattr(module, "bias", None)
            flat = weight.detach().reshape(num_classes, depth)
            yield flat, bias.detach() if isinstance(bias, Tensor) else flat.new_zeros(num_classes)


def _ancestors(nodes: Iterable[Any], stop: Callable[[Any], bool] = lambda _: False) -> Collection[Any]:
    """All autograd nodes that the given ones depend on, not going past those where `stop` holds."""
    waiting = [node for node in nodes if node is not None]
    found = set(waiting)
    while waiting:
        node = waiting.pop()
        if stop(node):
            continue
        for parent, _ in node.next_functions:
            if parent is not None and parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _is_convolutional(node: Any, size: tuple[int, ...], sizes: dict[Any, tuple[int, ...]]) -> bool:
    """Whether a convolution made the map, at the map's own size: no pooling and no resizing came after it."""
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
