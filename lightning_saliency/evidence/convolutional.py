"""The last convolutional map of a traced forward, as the papers of the CAM family choose it."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Any

from torch import nn

from lightning_saliency.evidence.graph import ancestors, dependents, is_learned, operation
from lightning_saliency.evidence.tasks import Embedding
from lightning_saliency.evidence.trace import LayerCall, Trace

_SQUASHING = frozenset({"Sigmoid", "Hardsigmoid", "Softmax"})
"""Operations of which weights come."""

_PRODUCTS = frozenset({"Mul", "Bmm", "Mm"})


def last_convolutional_map(
    trace: Trace, size: tuple[int, ...] | None = None, *, can_be_cut: bool = False, num_axes: int | None = None
) -> LayerCall | None:
    """Return the call that returned the last convolutional map that the logits depend on; None if there is none.

    It is read after its own norm and activation and before any pooling: Grad-CAM's "last convolutional layer"
    (Selvaraju 2017, section 3). Passed over are pooled or merely resized maps, maps of one pixel, maps of class scores,
    gates, which only weigh other maps (the scores of an attention pooling, say), and the patch embedding of a
    transformer (the only convolution, which cuts the image into patches). Where a container returns the same tensor as
    a layer in it, the container's name is used: a ResNet's is `layer4`.

    Args:
        trace: The trace of one image.
        size: (h, w) of the map, or its size in a model of volumes or signals; None for any.
        can_be_cut: Whether to choose only a map through which every path from the image to the logits goes.
        num_axes: The number of axes of the map: by default those of the images, 4 for maps of a volume's frames.
    """
    num_axes = num_axes or 2 + len(trace.image_size)
    used = read_as_features(trace)
    sizes = {call.node: tuple(call.output.shape[2:]) for call in trace.calls}

    def is_candidate(call: LayerCall) -> bool:
        map_size = tuple(call.output.shape[2:])
        if call.output.dim() != num_axes or call.output.shape[2:].numel() < 2 or call.node not in used:
            return False
        if _is_patch_embedding(call) or (size is not None and map_size != size):
            return False
        if can_be_cut and trace.image in ancestors([trace.logits.grad_fn], stop=lambda node: node is call.node):
            return False
        is_scores = is_class_scores(trace, call, [call.output.shape[1]])
        return not is_scores and _is_convolutional(call.node, map_size, sizes)

    for node in reversed(trace.nodes()):
        named = once_called(trace, node)
        if named and is_candidate(named[0]):
            return plainest_name(trace, named)
    return None


def once_called(trace: Trace, node: Any) -> list[LayerCall]:
    """Return the calls that have returned this very tensor, without those of modules that are called several times."""
    return [call for call in trace.same_map(node) if trace.counts[call.name] == 1]


def plainest_name(trace: Trace, calls: list[LayerCall]) -> LayerCall:
    """Return, of calls that have returned the same tensor, the one whose name a reader of the model looks for.

    It is the outermost container of the layer that made it, not a later layer that passes it on unchanged.
    """
    innermost = trace.same_map(calls[0].node)[0].name
    containers = [call for call in calls if innermost == call.name or innermost.startswith(f"{call.name}.")]
    plain = [call for call in containers if not call.element]
    return (plain or containers or calls)[-1]


def is_class_scores(trace: Trace, call: LayerCall, channels: Collection[int] | None = None) -> bool:
    """Whether a map is one of class scores: a convolution to the classes, pooled to the logits.

    It has as many channels as there are classes, nothing learned is between it and the logits, and it comes from the
    last convolution or linear layer by nothing more than an activation: features that an `Identity` takes for the
    logits are normalized, or added to others.

    Args:
        trace: The trace of one image.
        call: The call that returned the map.
        channels: The number of its channels; by default either that its shape allows.
    """
    if isinstance(trace.task, Embedding):  # it has no classes
        return False
    if trace.logits.shape[1] not in (channels or (call.output.shape[1], call.output.shape[-1])):
        return False
    if call.node not in ancestors([trace.logits.grad_fn], stop=is_learned):
        return False
    made_by = ancestors([call.node], stop=is_learned)
    return not any(kind in node.name() for node in made_by for kind in ("Norm", "AddBackward"))


def read_as_features(trace: Trace) -> AbstractSet[Any]:
    """Return the nodes on which the logits depend otherwise than by gates, which only weigh what they multiply."""
    gates = _gates(trace)
    return ancestors([trace.logits.grad_fn], stop=gates.__contains__) - gates


def _gates(trace: Trace) -> AbstractSet[Any]:
    """Return the sigmoids and softmaxes by whose results something else that depends on the image is multiplied."""
    nodes = ancestors([trace.logits.grad_fn])
    dependent = dependents([trace.image], nodes)

    def factors(node: Any) -> list[Any]:
        is_product = operation(node) in _PRODUCTS
        return [parent for parent, _ in node.next_functions if parent in dependent] if is_product else []

    def squashed(factor: Any) -> set[Any]:
        def stop(node: Any) -> bool:
            return operation(node) in _SQUASHING or is_learned(node) or len(factors(node)) > 1

        return {node for node in ancestors([factor], stop=stop) if operation(node) in _SQUASHING}

    gates: set[Any] = set()
    for sides in ([squashed(factor) for factor in factors(node)] for node in nodes):
        if len(sides) > 1 and not all(sides):  # else either may be the other's gate
            gates.update(*sides)
    return gates


def _is_convolutional(node: Any, size: tuple[int, ...], sizes: dict[Any, tuple[int, ...]]) -> bool:
    """Whether a map is the output of a convolution at the same size, with no pooling or resizing after it."""
    ends = ("Convolution", "Pool", "Upsample", "GridSampler", "PixelShuffle")

    def stop(node: Any) -> bool:
        return any(kind in node.name() for kind in ends) or sizes.get(node, size) != size

    return any("Convolution" in node.name() and sizes.get(node, size) == size for node in ancestors([node], stop))


def _is_patch_embedding(call: LayerCall) -> bool:
    """Whether a single convolution cuts the image into patches that do not overlap."""
    return (
        isinstance(call.module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and call.module.kernel_size == call.module.stride
        and max(call.module.stride) > 1
        and sum("Convolution" in node.name() for node in ancestors([call.node])) == 1
    )
