"""The map of a detector that all of its boxes are read from."""

from __future__ import annotations

from collections.abc import Collection

from lightning_saliency.evidence.convolutional import once_called, plainest_name
from lightning_saliency.evidence.graph import ancestors, is_learned
from lightning_saliency.evidence.trace import LayerCall, Site, Trace


def last_common_map(trace: Trace, sequences: Collection[Site] = ()) -> LayerCall | None:
    """Return the call that returned the last map on which all boxes' scores depend; None if there is none.

    A detector with a feature pyramid reads small objects from other maps than large ones, and a map of one level would
    be blank for the boxes of the others. So it is the last map that each of those depends on from which scores are
    read: of a feature pyramid network the deepest map, of which all levels are made from the top down; of SSD the first
    one that is read; of a detector with one level its last one; of a transformer whose last tokens all levels are made
    of these. Maps of class scores are passed over.

    Args:
        trace: The trace of one image.
        sequences: The outputs that are maps too, in another form.
    """

    def is_map(call: LayerCall) -> bool:
        return _is_map(call, trace) or call.site in sequences

    used = ancestors([trace.logits.grad_fn])
    calls = [call for call in trace.calls if call.node in used and is_map(call)]
    nodes = dict.fromkeys(call.node for call in calls)
    ends, covered = [], set()
    for node in reversed(trace.nodes()):
        if node in nodes and node not in covered:
            ends.append(set(ancestors([node])))
            covered |= ends[-1]
    common = set.intersection(*ends) if ends else set()
    scores = ancestors([trace.logits.grad_fn], stop=is_learned)
    for node in reversed(trace.nodes()):
        named = [call for call in once_called(trace, node) if is_map(call)]
        if node in common and node not in scores and named and any(map(is_learned, ancestors([node]))):
            return plainest_name(trace, named)
    return None


def reads_attention(trace: Trace) -> bool:
    """Whether the scores are read from attentions, rather than made by a softmax over classes themselves."""
    scores = ancestors([trace.logits.grad_fn], stop=is_learned)
    return any(attention.node not in scores for attention in trace.attentions)


def _is_map(call: LayerCall, trace: Trace) -> bool:
    shape = call.output.shape
    return len(shape) == 2 + len(trace.image_size) and shape[0] == 1 and shape[2:].numel() > 1
