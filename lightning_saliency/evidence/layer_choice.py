"""`LayerChoice`: which maps of a traced forward the methods read, and which attentions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_saliency._checks import OptionError
from lightning_saliency.evidence.chosen_layers import NO_ATTENTION, AttentionSites, Layers
from lightning_saliency.evidence.convolutional import is_class_scores, once_called, plainest_name, read_as_features
from lightning_saliency.evidence.graph import ancestors, dependents, is_learned
from lightning_saliency.evidence.layout import Layout, TokenGrid
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.trace import AttentionCall, LayerCall, ModuleCall, Site, Trace

_MOST_PATCHES = 0.5
"""The share of a map's patches on which the score must depend."""

_UNSORTED = 0.3
"""How much less than a later map one may answer to the image's halves before it counts as sorted otherwise."""

_CANCELED = 1e-4
"""The most of its terms' magnitudes to which a sum that is 0 but for rounding may amount."""

_NO_WAY = "so relevance cannot be followed through all of them; `summed_hires_cam` and `lrp` read such models."
_NOT_OF_ALL = (
    f"Some attentions of the model are over other tokens than all patches of the image, as its layers return them, for "
    f"instance over windows, {_NO_WAY}"
)
_OTHER_GRIDS = f"The model's attentions are over grids of patches of several sizes, {_NO_WAY}"
_OTHER_TOKENS = f"The model drops or joins tokens between its attentions, {_NO_WAY}"


@dataclass
class LayerChoice:
    """Chooses the layers of a model that is not merely convolutional.

    Attributes:
        trace: The trace of one image.
        layouts: How the outputs that are maps are read.
        orders: How far each of them answers to the image's halves; see `probe`.
        convolutional: The last convolutional map, also that of a volume's frames one by one; None where there is none.
    """

    trace: Trace
    layouts: Mapping[Site, Layout]
    orders: Mapping[Site, float]
    convolutional: LayerCall | None

    def layers(self) -> Layers:
        """Return the layers that the methods read."""
        last = self._last_map()
        if last is None:
            return Layers(problem=self.problem())
        inputs = self._in_order([self._input_of(attention) for attention in self.trace.attentions], last)
        unique = list({call.node: call for call in inputs if call is not None}.values())
        found = self._sites(inputs)
        sites = None if isinstance(found, str) else found
        is_tokens = self._is_tokens(last) or (sites is not None and self._is_of_tokens(last))
        target = unique[-1] if is_tokens and unique and not self._cancels(unique[-1]) else last
        return Layers(
            target=self._target(target),
            pooled=self._target(last),
            attention_inputs=tuple(map(self._target, unique)),
            attentions=sites,
            no_attentions=found if isinstance(found, str) else NO_ATTENTION,
            read_prefix=self._read_prefix(),
        )

    def _last_map(self) -> LayerCall | None:
        """Return the last map on most of whose patches the score depends."""
        for node in reversed(self.trace.nodes()):
            readable = self.readable[node]
            if readable and self._is_candidate(readable[0]) and not self._is_of_times(readable[0]):
                chosen = plainest_name(self.trace, readable)
                if self.convolutional is not None and only_pools(self.convolutional, chosen):
                    return self.convolutional
                return chosen
        return None

    def _is_candidate(self, call: LayerCall) -> bool:
        return (
            self.covered.get(call.node, 0.0) >= _MOST_PATCHES
            and self._channels(call) > 1
            and any(map(is_learned, ancestors([call.node])))  # else it is the image, normalized or pooled
            and not is_class_scores(self.trace, call, [self._channels(call)])
            and not self._is_weights(call)
            and call.site not in self.inner
            and call.node in self.features
        )

    def _is_of_times(self, call: LayerCall) -> bool:
        """Whether a map has one position for each time of a volume, where an earlier one has more."""
        grid = self._token_grid(call).grid
        return self.convolutional is not None and len(grid) == 3 and max(grid[1:]) == 1

    def _is_tokens(self, call: LayerCall) -> bool:
        return call.site in self.layouts and self.layouts[call.site].is_tokens

    def _is_of_tokens(self, call: LayerCall) -> bool:
        """Whether a map is a sequence of tokens that was only reshaped, normed or pooled."""
        return any(only_pools(other, call) for other in filter(self._is_tokens, self.trace.calls))

    def _channels(self, call: LayerCall) -> int:
        return int(self.layouts[call.site].sequence(call.output).shape[-1])

    def _target(self, call: LayerCall) -> TargetLayer:
        return TargetLayer(call.name, call.activated, self.layouts.get(call.site, Layout(element=call.element)))

    @cached_property
    def readable(self) -> dict[Any, list[LayerCall]]:
        """The calls that returned a map, each of a module that is called once, by the map's node in their order."""
        return {
            node: [call for call in once_called(self.trace, node) if call.site in self.layouts]
            for node in self.trace.nodes()
        }

    @cached_property
    def gradients(self) -> dict[Any, tuple[LayerCall, Tensor]]:
        """The gradient of the predicted class's score at each map on which it depends, by the map's node."""
        readable = [call for call in self.trace.calls if call.site in self.layouts and call.node is not None]
        unique = list({call.node: call for call in readable}.values())
        edges = [call.edge for call in unique if call.edge is not None]
        with torch.enable_grad():
            score = self.trace.logits.float().max()
        if edges and not score.requires_grad:
            raise OptionError(
                "The model's scores do not depend on its layers through operations that have a gradient: a `detach()` "
                "or inference mode inside the model cuts the graph, as in some detectors. Pass an `output_fn` that "
                "returns one score for each class, (N, K), with their graph.",
                "methods",
            )
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

    @cached_property
    def inner(self) -> set[Site]:
        """The maps that are made inside an attention, on the way from its input to its matrix."""
        attentions = self.trace.attentions
        readable = [call for call in self.trace.calls if call.site in self.layouts]
        return {call.site for call in readable if any(self._is_inside(call, attention) for attention in attentions)}

    def _is_inside(self, call: LayerCall, attention: AttentionCall) -> bool:
        """Whether a tensor is made on the way into an attention: its queries, keys and values, not its input."""
        if attention.scope in self.scopes:
            is_within = call.name.startswith(f"{attention.scope.name}.")
            return is_within and not self._is_leading(call, attention.scope)
        return call.node in ancestors([attention.node], stop=self._is_projection)

    def _is_weights(self, call: LayerCall) -> bool:
        """Whether a tensor is an attention's matrix: a softmax that has not been multiplied by anything yet."""
        softmaxes = {attention.node for attention in self.trace.attentions if attention.scores is not None}
        return bool(softmaxes & ancestors([call.node], stop=lambda node: is_learned(node) or self._is_product(node)))

    def _is_product(self, node: Any) -> bool:
        return "Mul" in node.name() and sum(parent in self.dependent for parent, _ in node.next_functions) > 1

    def _cancels(self, call: LayerCall) -> bool:
        """Whether gradient times activation sums to 0 at most patches, as where it is read through norms alone."""
        layout, (_, gradient) = self.layouts[call.site], self.gradients[call.node]
        products = (layout.sequence(gradient) * layout.sequence(call.output)).detach().double()
        return bool((products.sum(2).abs() < _CANCELED * products.abs().sum(2)).double().mean() > _MOST_PATCHES)

    @cached_property
    def scopes(self) -> set[ModuleCall]:
        """The modules that are an attention's own: not the whole model, nor one that holds other attentions' modules.

        What takes the image itself is as good as the whole.
        """
        scopes = {attention.scope for attention in self.trace.attentions if attention.scope.name}
        return {
            scope
            for scope in scopes
            if not any(other.name.startswith(f"{scope.name}.") for other in scopes)
            and any(map(is_learned, ancestors(scope.inputs)))
        }

    def _is_leading(self, call: LayerCall, scope: ModuleCall) -> bool:
        """Whether nothing learned but a norm is between the input of an attention's module and this tensor.

        A padded tensor has other positions than its input.
        """
        between = ancestors([call.node], stop=lambda node: node in scope.inputs or self._is_projection(node))
        changed = any(self._is_projection(node) or "Pad" in node.name() for node in between - scope.inputs)
        return bool(between & scope.inputs) and not changed

    def _is_projection(self, node: Any) -> bool:
        """Whether a node applies a weight: a convolution or linear layer, but not the product of two maps."""
        if not is_learned(node):
            return False
        return sum(parent in self.dependent for parent, _ in node.next_functions) < 2

    @cached_property
    def features(self) -> AbstractSet[Any]:
        """The nodes on which the logits depend otherwise than by gates."""
        return read_as_features(self.trace)

    @cached_property
    def dependent(self) -> AbstractSet[Any]:
        """The nodes that depend on the image."""
        return dependents([self.trace.image], ancestors([self.trace.logits.grad_fn]))

    def _input_of(self, attention: AttentionCall) -> LayerCall | None:
        """Return the map that an attention reads: the nearest one before it that is not made inside it."""
        found: list[LayerCall] = []

        def stop(node: Any) -> bool:
            if node is attention.node:  # what it returns is not what it reads
                return False
            readable = self.readable.get(node, [])
            if not readable or self.covered.get(node, 0.0) < _MOST_PATCHES or readable[0].site in self.inner:
                return False
            found.append(plainest_name(self.trace, readable))
            return True

        ancestors([attention.node], stop=stop)
        return max(found, key=self._positions, default=None)

    def _in_order(self, inputs: Sequence[LayerCall | None], last: LayerCall) -> list[LayerCall | None]:
        """Return the attentions' inputs, None for those whose positions are not in the image's order.

        A model may sort its tokens, by windows say, and sort them back. What answers to the image's halves comes from
        maps that do so too: mixing makes them answer less and less.
        """
        order = self.orders.get(last.site, 0.0)
        kept: list[LayerCall | None] = []
        for call in reversed(inputs):
            is_known = call is not None and self.orders[call.site] > order - _UNSORTED
            kept.append(call if is_known else None)
            order = max(order, self.orders[call.site]) if call is not None else order
        return kept[::-1]

    def _positions(self, call: LayerCall) -> int:
        return int(self.layouts[call.site].sequence(call.output).shape[1])

    def _token_grid(self, call: LayerCall) -> TokenGrid:
        return self.layouts[call.site].token_grid(call.output.shape, self.trace.image_size)

    def _sites(self, inputs: Sequence[LayerCall | None]) -> AttentionSites | str:
        """Return the attentions over the image's patches; or in words why relevance can't be followed through them."""
        queries: list[int | None] = []
        sizes: list[tuple[int, int]] = []
        read: list[LayerCall] = []
        for attention, call in zip(self.trace.attentions, inputs, strict=True):
            if call is None or attention.size is None:
                return _NOT_OF_ALL
            read.append(call)
            tokens, (length, keys) = self._token_grid(call), attention.size
            if tokens.grid != self._token_grid(read[0]).grid:
                return _OTHER_GRIDS
            if keys != len(tokens) or length not in (1, keys):
                return _NOT_OF_ALL
            asks = length == 1 and self._asks(attention)
            queries.append(tokens.prefix - 1 if asks and tokens.prefix else len(tokens) - 1 if asks else None)
            sizes.append(attention.size)
        if not read:
            return NO_ATTENTION
        stream = self._stream(read)
        asks_alone = sizes[-1][0] == 1 < sizes[-1][1]
        last = stream or (read[-1] if asks_alone and self._has_tokens(read[-1], read) else None)
        if last is None:
            return _OTHER_TOKENS
        return AttentionSites(tuple(queries), tuple(sizes), self._target(last), ends_in_query=stream is None)

    def _asks(self, attention: AttentionCall) -> bool:
        """Whether the query comes from the image, as a class token's does, and that of attention pooling does not."""
        if attention.scores is None:
            return attention.query in self.dependent
        products = ancestors([attention.scores], stop=is_learned)
        return any(is_learned(node) and not self._is_projection(node) for node in products)

    def _stream(self, inputs: Sequence[LayerCall]) -> LayerCall | None:
        """Return the last sequence of tokens that comes from the last attention, whichever of them the score reads.

        It has all tokens that the attentions have. What a head makes of the patches alone, such as a map that it
        convolves or one score of each class a patch, comes after it.
        """
        last_attention = self.trace.attentions[-1].node
        for node, readable in reversed(self.readable.items()):
            if (
                readable
                and node in self.gradients
                and readable[0].site not in self.inner
                and self._is_tokens(readable[0]) == self._is_tokens(inputs[-1])
                and self._has_tokens(readable[0], inputs)
                and last_attention in ancestors([node])
            ):
                return plainest_name(self.trace, readable)
        return None

    def _has_tokens(self, call: LayerCall, others: Sequence[LayerCall]) -> bool:
        """Whether a sequence has all the tokens of others."""
        own = self._token_grid(call)
        return all(
            own.grid == other.grid and own.prefix >= other.prefix and own.suffix >= other.suffix
            for other in map(self._token_grid, others)
        )

    def problem(self) -> str:
        """Return why there is no target layer."""
        num_axes = 2 + len(self.trace.image_size)
        maps = [call for call in self.trace.calls if call.output.dim() == num_axes]
        has_score_maps = any(is_class_scores(self.trace, call) for call in maps)
        repeated = sorted(name for name, count in self.trace.counts.items() if count > 1 and name)
        why = "only maps of class scores" if has_score_maps else "no map of more than one position"
        if num_axes == 5 and any(call.output.dim() == 4 for call in self.trace.calls):
            why = "only maps of slices or frames one by one, (N·T, D, h, w), which are none of the whole"
        hint = f" Modules that run several times are passed over: {', '.join(repeated[:3])}." if repeated else ""
        return (
            f"Expected a model whose score depends on a map, (N, D, h, w), (N, h, w, D), or tokens (N, L, D), but "
            f"the run shows {why}.{hint} Name the layer (`layer=...`) whose output is such a map; for the saliency of "
            "the input's pixels alone no layer is needed (`methods=['saliency']`)."
        )


def only_pools(earlier: LayerCall, later: LayerCall) -> bool:
    """Whether a later map is the earlier one pooled, normed or reshaped: nothing learned is between them."""
    between = ancestors([later.node], stop=lambda node: node is earlier.node)
    return earlier.node in between and not any(map(is_learned, between - {earlier.node}))
