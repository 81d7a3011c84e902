"""`find_layers`: which layers of a model the methods read, from runs of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.data import Call
from lightning_saliency.evidence.convolutional import (
    is_class_scores,
    last_convolutional_map,
    once_called,
    plainest_name,
)
from lightning_saliency.evidence.forward import Forward, as_forward
from lightning_saliency.evidence.head import own_parameters, replace_parameters
from lightning_saliency.evidence.layout import Layout, TokenGrid, has_aspect
from lightning_saliency.evidence.probe import probe
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.trace import AttentionCall, LayerCall, ModuleCall, Site, Trace, ancestors, is_learned

_MOST_PATCHES = 0.5
"""The share of a map's patches on which the score must depend."""


@dataclass(frozen=True)
class AttentionSites:
    """The attentions of a model in which all of the image's patches are tokens, in the order of the forward.

    Attributes:
        queries: For each one the position of the token that asks, where only one does (class attention); None where
            all tokens ask, or where the query is no token (attention pooling).
        sizes: (L, S) of each.
        stream: The last sequence of tokens that a module returns, from which the score is read.
    """

    queries: tuple[int | None, ...]
    sizes: tuple[tuple[int, int], ...]
    stream: TargetLayer


@dataclass(frozen=True)
class Layers:
    """Which layers of a model the methods read.

    Attributes:
        target: The layer of the CAM family; None where the model has no map.
        pooled: The model's last map, which a head with global pooling pools; None where it has none.
        attention_inputs: The inputs of its attentions, in their order.
        attentions: Its attentions over the image's patches; None where it has none, or has others.
        embedding: The sequence of tokens before the first attention; None where there is none.
        read_prefix: How many of the tokens before the patches the score reads: class tokens, but no registers.
        is_convolutional: Whether the target layer is the last map of a convolutional network.
        problem: Why there is no target layer.
        no_attentions: Why there are no `attentions`.
    """

    target: TargetLayer | None = None
    pooled: TargetLayer | None = None
    attention_inputs: tuple[TargetLayer, ...] = ()
    attentions: AttentionSites | None = None
    embedding: TargetLayer | None = None
    read_prefix: int = 0
    is_convolutional: bool = False
    problem: str = ""
    no_attentions: str = "The run shows no attention over the image's patches."


def find_target_layer(
    model: nn.Module | Forward,
    images: Tensor | Call,
    *,
    size: tuple[int, int] | None = None,
    can_be_cut: bool = False,
) -> TargetLayer:
    """Choose the layer that the CAM family reads, by runs of the first image.

    In a convolutional network it is the last convolutional map, as in the papers (see `last_convolutional_map`). Else
    it is the last map, of any layout, on most of whose patches the score depends; where that is a sequence of tokens,
    the input of the last attention, since behind it a class token has read the patches already. It leaves the model as
    it was.

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.
        size: (h, w) of a convolutional map, to choose an earlier layer than the last; None for any size.
        can_be_cut: Whether to choose only a convolutional map through which every path from the images to the logits
            goes.

    Returns:
        The target layer, which `explain` takes as `layer`.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_target_layer(model, torch.randn(1, 3, 8, 8)).name
        '1'
    """
    if size is None and not can_be_cut:
        layers = find_layers(model, images)
        if layers.target is None:
            raise ValueError(layers.problem)
        return layers.target
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        trace = Trace.of(isolated, call, image)
        found = last_convolutional_map(trace, size, can_be_cut=can_be_cut)
        map_sizes = {tuple(call.output.shape[2:]) for call in trace.calls if call.output.dim() == 4}
    if found is None:
        described = ", ".join(f"{height}×{width}" for height, width in sorted(map_sizes, reverse=True))
        wanted = "" if size is None else f" of {size[0]}×{size[1]} at this image size"
        raise ValueError(
            f"Expected a model with a convolutional map{wanted} where it can be cut, but the run shows no convolutional"
            f" map like this; its maps are {described or 'none'}."
        )
    return TargetLayer(found.name, found.activated, Layout(element=found.element))


def find_layers(model: nn.Module | Forward, images: Tensor | Call) -> Layers:
    """Find which layers of a model the methods read, by runs of the first image.

    A convolutional network costs one forward; another model a backward and four forwards more (see `probe`).

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> find_layers(model, torch.randn(1, 3, 8, 8)).is_convolutional
        True
    """
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        _fill_zero_parameters(isolated.model)
        trace = Trace.of(isolated, call, image)
        convolutional = last_convolutional_map(trace)
        if convolutional is not None and not _has_later_map(trace, convolutional):
            target = TargetLayer(convolutional.name, convolutional.activated, Layout(element=convolutional.element))
            return Layers(target, target, is_convolutional=True)
        shapes = {call.site: call.output.shape for call in trace.calls}
        return _Choice(trace, probe(isolated, call, image, shapes), convolutional).layers()


def with_layout(model: nn.Module | Forward, layer: TargetLayer, images: Tensor | Call) -> TargetLayer:
    """Return a layer with the layout in which its output is a map, by runs of the first image.

    It is returned as it is, without a layout, if its output is no map.
    """
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        trace = Trace.of(isolated, call, image)
        shapes = {output.site: output.output.shape for output in trace.calls if output.name == layer.name}
        layouts = probe(isolated, call, image, shapes)
    return replace(layer, layout=next(iter(layouts.values()), None))


def _one_image(model: nn.Module | Forward, images: Tensor | Call) -> tuple[Forward, Call, Tensor]:
    forward = as_forward(model)
    call = (forward.on_device(images) if isinstance(images, Call) else forward.call_of(images))[:1]
    return forward, call, forward.floating_point_images(call).detach()


def _fill_zero_parameters(shadow: nn.Module) -> None:
    """Fill parameters that are all 0 with small noise, in a shadow: through a head that begins at 0 nothing is seen."""
    generator = torch.Generator().manual_seed(0)
    for module in shadow.modules():
        zeros = {name: value for name, value in own_parameters(module).items() if value.numel() and not value.any()}
        noise = {name: 0.02 * torch.randn(value.shape, generator=generator).to(value) for name, value in zeros.items()}
        replace_parameters(module, {name: nn.Parameter(value) for name, value in noise.items()})


def _has_later_map(trace: Trace, convolutional: LayerCall) -> bool:
    """Whether something learned is applied after the last convolutional map to what may be a map as well."""
    used = ancestors([trace.logits.grad_fn])
    later = trace.calls[trace.calls.index(trace.same_map(convolutional.node)[-1]) + 1 :]
    return any(
        call.node in used
        and _may_be_map(call.output.shape, trace.image_size)
        and not is_class_scores(trace, call)
        and not _only_pools(convolutional, call)
        for call in later
    )


def _only_pools(earlier: LayerCall, later: LayerCall) -> bool:
    """Whether a later map is the earlier one pooled, normed or reshaped: nothing learned is between them."""
    between = ancestors([later.node], stop=lambda node: node is earlier.node)
    return earlier.node in between and not any(map(is_learned, between - {earlier.node}))


def _may_be_map(shape: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether a tensor for one image of this shape may be a map of more than one position."""
    if len(shape) == 3:
        return min(shape[:2]) == 1 and max(shape[:2]) > 1
    if len(shape) != 4 or shape[0] != 1:
        return False
    return any(math.prod(grid) > 1 and has_aspect(grid, image_size) for grid in (shape[2:], shape[1:3]))


@dataclass
class _Choice:
    """Chooses the layers of a model that is not merely convolutional."""

    trace: Trace
    layouts: Mapping[Site, Layout]
    convolutional: LayerCall | None

    def layers(self) -> Layers:
        last = self._last_map()
        if last is None:
            return Layers(problem=self._problem())
        pooled = self._target(last)
        inputs = [self._input_of(attention) for attention in self.trace.attentions]
        seen = list(dict.fromkeys(call.node for call in inputs if call is not None))
        attention_inputs = [call for node in seen for call in inputs if call is not None and call.node is node]
        unique = {call.node: call for call in attention_inputs}
        inputs_of = tuple(self._target(call) for call in unique.values())
        is_tokens = pooled.layout is not None and pooled.layout.is_tokens
        return Layers(
            target=inputs_of[-1] if is_tokens and inputs_of else pooled,
            pooled=pooled,
            attention_inputs=inputs_of,
            attentions=self._sites(inputs),
            embedding=self._embedding(list(unique.values())),
            read_prefix=self._read_prefix(),
        )

    def _last_map(self) -> LayerCall | None:
        """Return the last map on most of whose patches the score depends."""
        for node in reversed(self.trace.nodes()):
            readable = [call for call in once_called(self.trace, node) if call.site in self.layouts]
            if readable and self._is_candidate(readable[0]):
                chosen = plainest_name(self.trace, readable)
                if self.convolutional is not None and _only_pools(self.convolutional, chosen):
                    return self.convolutional
                return chosen
        return None

    def _is_candidate(self, call: LayerCall) -> bool:
        return (
            self.covered.get(call.node, 0.0) >= _MOST_PATCHES
            and self._channels(call) > 1
            and any(map(is_learned, ancestors([call.node])))  # else it is the image, normalized or pooled
            and not is_class_scores(self.trace, call)
            and not any(self._is_inside(call, attention) for attention in self.trace.attentions)
        )

    def _channels(self, call: LayerCall) -> int:
        return int(self.layouts[call.site].sequence(call.output).shape[-1])

    def _target(self, call: LayerCall) -> TargetLayer:
        return TargetLayer(call.name, call.activated, self.layouts[call.site])

    @cached_property
    def gradients(self) -> dict[Any, tuple[LayerCall, Tensor]]:
        """The gradient of the predicted class's score at each map on which it depends, by the map's node."""
        readable = [call for call in self.trace.calls if call.site in self.layouts and call.node is not None]
        unique = list({call.node: call for call in readable}.values())
        edges = [call.edge for call in unique if call.edge is not None]
        with torch.enable_grad():
            score = self.trace.logits.float().max()
        gradients = torch.autograd.grad(score, edges, allow_unused=True, retain_graph=True) if edges else ()
        return {
            call.node: (call, gradient)
            for call, gradient in zip(unique, gradients, strict=True)
            if gradient is not None
        }

    @cached_property
    def covered(self) -> dict[Any, float]:
        """The share of each map's patches on which the score depends, by the map's node."""
        maps = {
            node: self.layouts[call.site].read(gradient, self.trace.image_size)
            for node, (call, gradient) in self.gradients.items()
        }
        return {node: float((gradient != 0).any(1).float().mean()) for node, gradient in maps.items()}

    def _read_prefix(self) -> int:
        """Return how many tokens before the patches the score reads at the end."""
        node = next((node for node in reversed(self.trace.nodes()) if node in self.gradients), None)
        if node is None:
            return 0
        call, gradient = self.gradients[node]
        layout = self.layouts[call.site]
        return int((layout.sequence(gradient)[:, : layout.prefix] != 0).any(2).sum())

    def _is_inside(self, call: LayerCall, attention: AttentionCall) -> bool:
        """Whether a tensor is made on the way into an attention: its queries, keys and values, not its input."""
        if self._is_scope(attention.scope):
            is_within = call.name.startswith(f"{attention.scope.name}.")
            return is_within and not self._is_leading(call, attention.scope)
        return call.node in ancestors([attention.node], stop=self._is_projection)

    def _is_scope(self, module: ModuleCall) -> bool:
        """Whether a module is an attention's own: not the whole model, nor one that holds other attentions' modules."""
        inner = [a.scope.name for a in self.trace.attentions if a.scope.name.startswith(f"{module.name}.")]
        return bool(module.name) and not inner

    def _is_leading(self, call: LayerCall, scope: ModuleCall) -> bool:
        """Whether nothing learned but a norm is between the input of an attention's module and this tensor."""
        between = ancestors([call.node], stop=lambda node: node in scope.inputs or self._is_projection(node))
        return bool(between & scope.inputs) and not any(map(self._is_projection, between - scope.inputs))

    def _is_projection(self, node: Any) -> bool:
        """Whether a node applies a weight: a convolution or linear layer, but not the product of two maps."""
        if not is_learned(node):
            return False
        return sum(parent in self.dependent for parent, _ in node.next_functions) < 2

    @cached_property
    def dependent(self) -> AbstractSet[Any]:
        """The nodes that depend on the image."""
        nodes = ancestors([self.trace.logits.grad_fn])
        children: dict[Any, list[Any]] = {}
        for node in nodes:
            for parent, _ in node.next_functions:
                children.setdefault(parent, []).append(node)
        waiting, dependent = [self.trace.image], {self.trace.image}
        while waiting:
            for child in children.get(waiting.pop(), []):
                if child not in dependent:
                    dependent.add(child)
                    waiting.append(child)
        return dependent

    def _input_of(self, attention: AttentionCall) -> LayerCall | None:
        """Return the map that an attention reads: the nearest one before it that is not made inside it."""
        by_node = {node: once_called(self.trace, node) for node in self.trace.nodes()}
        found: list[LayerCall] = []

        def stop(node: Any) -> bool:
            readable = [call for call in by_node.get(node, []) if call.site in self.layouts]
            if not readable or self.covered.get(node, 0.0) < _MOST_PATCHES or self._is_inside(readable[0], attention):
                return False
            found.append(plainest_name(self.trace, readable))
            return True

        ancestors([attention.node], stop=stop)
        return max(found, key=self._positions, default=None)

    def _positions(self, call: LayerCall) -> int:
        return int(self.layouts[call.site].sequence(call.output).shape[1])

    def _token_grid(self, call: LayerCall) -> TokenGrid:
        return self.layouts[call.site].token_grid(call.output.shape, self.trace.image_size)

    def _sites(self, inputs: Sequence[LayerCall | None]) -> AttentionSites | None:
        """Return the attentions over the image's patches, if there are no others."""
        queries, sizes = [], []
        grids = set()
        for attention, call in zip(self.trace.attentions, inputs, strict=True):
            if call is None or attention.size is None:
                return None
            tokens, (length, keys) = self._token_grid(call), attention.size
            grids.add(tokens.grid)
            if keys != len(tokens) or length not in (1, keys) or len(grids) > 1:
                return None
            asks = length == 1 and call.node in ancestors([attention.query])
            queries.append(tokens.prefix - 1 if asks and tokens.prefix else len(tokens) - 1 if asks else None)
            sizes.append(attention.size)
        stream = self._stream() if sizes else None
        if stream is None:
            return None
        return AttentionSites(tuple(queries), tuple(sizes), stream)

    def _stream(self) -> TargetLayer | None:
        """Return the last sequence of tokens after the last attention, whichever of them the score reads."""
        last = self.trace.attentions[-1]
        for node in reversed(self.trace.nodes()):
            readable = [call for call in once_called(self.trace, node) if call.site in self.layouts]
            if readable and node in self.covered and not self._is_inside(readable[0], last):
                return self._target(plainest_name(self.trace, readable))
        return None

    def _embedding(self, inputs: Sequence[LayerCall]) -> TargetLayer | None:
        """Return the residual stream in front of the first attention."""
        if not inputs:
            return None
        before = ancestors([inputs[0].node]) - {inputs[0].node}
        same = [
            call
            for call in self.trace.calls
            if call.node in before
            and call.site in self.layouts
            and self.trace.counts[call.name] == 1
            and self._positions(call) == self._positions(inputs[0])
        ]
        return self._target(same[-1]) if same else None

    def _problem(self) -> str:
        has_score_maps = any(call.output.dim() == 4 and is_class_scores(self.trace, call) for call in self.trace.calls)
        repeated = sorted(name for name, count in self.trace.counts.items() if count > 1 and name)
        why = "only maps of class scores" if has_score_maps else "no map of more than one position"
        hint = f" Modules that run several times are passed over: {', '.join(repeated[:3])}." if repeated else ""
        return (
            f"Expected a model whose score depends on a map, (N, D, h, w), (N, h, w, D), or tokens (N, L, D), but "
            f"the run shows {why}.{hint} Name the layer (`layer=...`) whose output is such a map; for the saliency of "
            "the input's pixels alone no layer is needed (`methods=['saliency']`)."
        )
