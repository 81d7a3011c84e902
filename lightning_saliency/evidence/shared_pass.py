"""The shared pass, a forward and if needed a backward, that most methods read: `collect` and `Evidence`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency._checks import OptionError
from lightning_saliency.data import Call
from lightning_saliency.evidence.attention import Attention, AttentionPart, AttentionReader
from lightning_saliency.evidence.backward import Gradients, Wanted, differentiate, widen
from lightning_saliency.evidence.chosen_layers import Layers
from lightning_saliency.evidence.class_weights import find_class_weights
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.isolation import graph_everywhere
from lightning_saliency.evidence.layout import TokenGrid
from lightning_saliency.evidence.lrp import lrp_rules
from lightning_saliency.evidence.rectify import Rectifier, rectify
from lightning_saliency.evidence.tap import Tap
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.targets import ParsedTarget, check_classes, read_scores, scored_logits, select_scores
from lightning_saliency.evidence.task import Reading

Need: TypeAlias = Literal[
    "activations",
    "activation_grads",
    "input_grads",
    "class_weights",
    "attention_relevance",
    "attention_weights",
    "attention_heads",
    "attention_inputs",
    "lrp",
]
"""The parts of the evidence that a method may read."""


_ATTENTION_PARTS: dict[Need, AttentionPart] = {"attention_relevance": "relevance", "attention_weights": "weights"}


@dataclass(frozen=True)
class Evidence:
    """The tensors of one pass over N images, from which a method computes its attributions.

    All tensors are detached; half precision is widened to float32. Those that no method asked for are None. (H, W) and
    (h, w) stand for as many spatial axes as the images have: one of signals, three of volumes.

    Attributes:
        images: The model's input `(N, C, H, W)`.
        logits: `(N, K)`.
        scores: The explained logit of each image, `(N,)`.
        classes: The explained class of each image, `(N,)`; None where the score is of no class.
        activations: A, the target layer's output as a map `(N, D, h, w)`.
        activation_grads: g = ∂score/∂A, `(N, D, h, w)`.
        input_grads: ∂score/∂input, `(N, C, H, W)`.
        class_weights: The explained score's row of the linear layer after global average pooling, `(N, D)`.
        all_class_weights: The rows of all classes, `(K, D)`; for a single logit, those of the classes 0 and 1.
        pooled_activations: The map whose pooling is the linear layer's input: A, or ReLU(A) (see `find_class_weights`).
        attentions: Each attention over the image's patches, in the order of the forward.
        tokens: Which of their tokens are the patches.
        token_relevance: r₀ `(N, T)`: how much the score reads each token of the last stream; it sums to 1.
        attention_inputs: For each attention (A_b, g_b): the map that it reads and its gradient, `(N, D, h_b, w_b)`.
        lrp_activations: Where the relevance of LRP is read, the input or a map, `(N, D, h, w)`.
        lrp_grads: The score's gradient there by the rules of LRP, `(N, D, h, w)`.
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
    attentions: tuple[Attention, ...] = ()
    tokens: TokenGrid | None = None
    token_relevance: Tensor | None = None
    attention_inputs: tuple[tuple[Tensor, Tensor], ...] = ()
    lrp_activations: Tensor | None = None
    lrp_grads: Tensor | None = None


@dataclass(frozen=True)
class SharedPass:
    """What one pass over N images has shown.

    Attributes:
        evidence: The evidence without a target layer.
        forward: How the model was run, with the task that was found.
        target: The explained class of each image, or a callable: what further passes explain of changed images.
        reading: What the model's output says, in the precision in which the model computed it.
        maps: The map of each target layer, `(N, D, h, w)`.
        map_grads: Their gradients, at least float32, where the methods read them.
        of_predicted: The same for the predicted classes in place of the explained ones, as far as the target layers are
            read; None where it was not asked for, or is not known.
    """

    evidence: Evidence
    forward: Forward
    target: ParsedTarget
    reading: Reading
    maps: Mapping[TargetLayer, Tensor]
    map_grads: Mapping[TargetLayer, Tensor]
    of_predicted: SharedPass | None = None

    def at(self, layer: TargetLayer | None, needs: Set[Need]) -> Evidence:
        """Return the evidence at a target layer that was read; None for the evidence without one.

        Args:
            layer: The layer.
            needs: The parts that the method reads.

        Raises:
            ValueError: The class weights are needed, and the model has none for this map.
        """
        if layer is None:
            return self.evidence
        maps = self.maps[layer]
        evidence = replace(self.evidence, activations=widen(maps), activation_grads=self.map_grads.get(layer))
        if "class_weights" not in needs:
            return evidence
        logits = scored_logits(self.reading, self.target)
        weight, pooled = find_class_weights(self.forward.model, maps, logits)
        # where there is a class more than logits, the lowest has the negative of the first; see `Task.scores`
        has_lowest = self.reading.task.num_classes(logits) > logits.shape[1]
        all_weights = torch.cat([-weight[:1], weight]) if has_lowest else weight
        classes = self.evidence.classes
        return replace(
            evidence,
            class_weights=_score_gradient(logits, self.target) @ weight if classes is None else all_weights[classes],
            all_class_weights=all_weights,
            pooled_activations=pooled,
        )


@dataclass(frozen=True)
class _Plan:
    """What is read in a pass, for the needs of its methods.

    Attributes:
        needs: The parts of the evidence that the methods read.
        layers: The target layers.
        found: The model's other layers.
    """

    needs: frozenset[Need]
    layers: tuple[TargetLayer, ...]
    found: Layers

    def __post_init__(self) -> None:
        if self.reads_attentions and self.found.attentions is None:
            raise OptionError(self.found.no_attentions, "methods")
        if "attention_inputs" in self.needs and not self.found.attention_inputs:
            raise OptionError("The run of the model shows no attention that reads a map.", "methods")

    @property
    def wants_input(self) -> bool:
        return "input_grads" in self.needs

    @property
    def wants_relevance(self) -> bool:
        return "lrp" in self.needs

    @property
    def starts_at_input(self) -> bool:
        """Whether the graph begins at the input, not at the first layer that is read."""
        return self.wants_input or self.wants_relevance

    @property
    def reads_attentions(self) -> bool:
        return bool(self.needs & _ATTENTION_PARTS.keys())

    @property
    def attention_inputs(self) -> tuple[TargetLayer, ...]:
        """The inputs of attentions whose gradients are taken: of the first one, so that the backward gets to it."""
        inputs = self.found.attention_inputs
        return inputs if "attention_inputs" in self.needs else inputs[:1] if self.reads_attentions else ()

    @property
    def stream(self) -> tuple[TargetLayer, ...]:
        sites = self.found.attentions
        return (sites.stream,) if self.reads_attentions and sites is not None else ()

    @property
    def differentiated(self) -> tuple[TargetLayer, ...]:
        """The layers whose gradients are taken, each once."""
        targets = self.layers if "activation_grads" in self.needs else ()
        return tuple(dict.fromkeys((*targets, *self.attention_inputs, *self.stream)))

    @property
    def wants_gradient(self) -> bool:
        return self.starts_at_input or bool(self.differentiated)

    def taps(self, model: nn.Module, shape: Sequence[int]) -> dict[TargetLayer, Tap]:
        """Return a tap for each layer that is read; the graph begins at the first of them that has a gradient."""
        starts_graph = not self.starts_at_input
        patches = (self.found.patches,) if self.wants_relevance and self.found.patches is not None else ()
        layers = dict.fromkeys((*self.layers, *self.differentiated, *patches))
        return {
            layer: Tap(model, layer, shape, starts_graph=starts_graph and layer in self.differentiated)
            for layer in layers
        }

    def reader(self, num_images: int, score_factor: float) -> AbstractContextManager[AttentionReader | None]:
        """Return what reads the attentions in a backward, if a method does."""
        sites = self.found.attentions
        if not self.reads_attentions or sites is None:
            return nullcontext()
        reader: AbstractContextManager[AttentionReader | None] = AttentionReader(
            num_images,
            {keys for _, keys in sites.sizes},
            {part for need, part in _ATTENTION_PARTS.items() if need in self.needs},
            score_factor=score_factor,
            keeps_heads="attention_heads" in self.needs,
        )
        return reader

    def attention_evidence(
        self, taps: Mapping[TargetLayer, Tap], gradients: Gradients[TargetLayer | None]
    ) -> dict[str, Any]:
        """Return the parts of the evidence that are read from attentions, where a method reads them."""
        evidence: dict[str, Any] = {}
        sites = self.found.attentions
        if self.reads_attentions and sites is not None:
            stream = taps[sites.stream]
            if len(gradients.attentions) != len(sites.sizes):
                raise OptionError(
                    f"Expected the backward to pass through {len(sites.sizes)} attentions, as the forward does, it "
                    f"passes through {len(gradients.attentions)}: the methods that read them cannot be used here.",
                    "methods",
                )
            evidence["attentions"] = tuple(
                replace(attention, query=query)
                for attention, query in zip(gradients.attentions, sites.queries, strict=True)
            )
            query = sites.queries[-1] if sites.ends_in_query else None
            evidence["token_relevance"] = stream.token_relevance(gradients.of[sites.stream], query)
            evidence["tokens"] = stream.tokens()
        elif self.wants_relevance and self.found.patches is not None:
            evidence["tokens"] = taps[self.found.patches].tokens()
        if "attention_inputs" in self.needs:
            inputs = [(taps[layer], gradients.of[layer]) for layer in self.found.attention_inputs]
            evidence["attention_inputs"] = tuple((widen(tap.map()), tap.map(gradient)) for tap, gradient in inputs)
        return evidence


def collect(
    forward: Forward,
    call: Call,
    images: Tensor,
    *,
    target: ParsedTarget,
    needs: Set[Need],
    layers: Sequence[TargetLayer] = (),
    found: Layers | None = None,
    rectifier: Rectifier | None = None,
    is_repeated: bool = False,
    compares: bool = False,
) -> SharedPass:
    """Run the model once, forward and, if a method needs a gradient, backward.

    To be called inside `Forward.undisturbed`.
    No gradient of a parameter is computed. If the input's gradient is not needed, the graph starts at the first layer
    that is read: the layers before it run without one. A model that ends in a softmax is explained by the softmax's
    input.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: `(N, C, H, W)` floating point, in place of the call's.
        target: What `Target.resolve` returned for these images.
        needs: The parts of the evidence that the methods read.
        layers: The target layers; not needed for the input's gradient alone.
        found: The model's other layers, for the methods that read attentions.
        rectifier: Another backward rule for ReLUs than that of the gradient.
        is_repeated: Whether an earlier pass has given the warnings already.
        compares: Whether the target layers are read for the predicted classes, too, which takes a further backward
            through the layers behind them.

    Raises:
        UnknownLayoutError: It takes a further run to tell how a layer's output is read as a map.
        ValueError: A layer does not run exactly once or returns no feature map, a target class does not exist, or the
            score does not depend on a tensor whose gradient is needed, or with a `rectifier` on no ReLU.
    """
    if isinstance(target, Tensor):
        target = target.clone()  # autograd saves it, and refuses a tensor from inference mode
    plan = _Plan(frozenset(needs), tuple(layers), found or Layers())
    # A model may run a part of itself under `no_grad` (a frozen backbone, say). Then the graph that starts where it is
    # cheapest does not reach the score, and the second attempt builds a graph everywhere.
    for everywhere in (False, True) if plan.wants_gradient else (False,):
        # the model gets a copy, into which it may write; a tensor from inference mode cannot be a leaf
        leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_(plan.starts_at_input)
        taps = plan.taps(forward.model, images.shape)
        with ExitStack() as stack:
            graph = graph_everywhere(forward.model) if everywhere else torch.set_grad_enabled(plan.starts_at_input)
            stack.enter_context(graph)
            for tap in taps.values():
                stack.enter_context(tap)
            reading = forward.read(call, leaf, warns=not is_repeated)
        maps = {layer: taps[layer].map() for layer in layers}
        logits = reading.logits
        check_classes(target, logits, reading.task)
        with torch.set_grad_enabled(plan.wants_gradient):
            scores, target = read_scores(reading, target)
        wanted: dict[TargetLayer | None, Wanted] = {layer: taps[layer].wanted() for layer in plan.differentiated}
        if plan.wants_input:
            wanted[None] = (leaf, 0)
        own_taps = {layer: taps[layer] for layer in layers}
        rival = _rival(reading, target, own_taps, plan) if compares and isinstance(target, Tensor) else None
        if rectifier is not None and scores.requires_grad:
            rectify(scores, leaf, rectifier)
        reader = partial(plan.reader, len(call))
        gradients = differentiate(scores, wanted, logits.dtype, reader, keeps_graph=plan.wants_relevance)
        if gradients is not None:
            break
    else:
        raise OptionError(_no_gradient(plan.differentiated), "layer" if plan.differentiated else "methods")
    relevance: dict[str, Any] = {}
    if plan.wants_relevance:
        with lrp_rules(scores, leaf):
            modified = differentiate(scores, {None: (leaf, 0)}, logits.dtype)
        none = torch.zeros_like(leaf)
        relevance = {"lrp_activations": widen(images.detach()), "lrp_grads": modified.of[None] if modified else none}
    evidence = Evidence(
        widen(images.detach()),
        widen(logits.detach()),
        scores.detach(),
        target if isinstance(target, Tensor) else None,
        # in the usual layout, whatever the pass's was: what reads them is faster
        input_grads=gradients.of[None].contiguous() if plan.wants_input else None,
        **relevance,
        **plan.attention_evidence(taps, gradients),
    )
    map_grads = {layer: taps[layer].map(gradients.of[layer]) for layer in maps if layer in gradients.of}
    shared_pass = SharedPass(evidence, replace(forward, task=reading.task), target, reading, maps, map_grads)
    if rival is None:
        return shared_pass
    of_predicted = replace(evidence, scores=rival.scores, classes=rival.classes, input_grads=None)
    return replace(
        shared_pass,
        of_predicted=replace(shared_pass, evidence=of_predicted, target=rival.classes, map_grads=rival.map_grads),
    )


@dataclass(frozen=True)
class _Rival:
    """The predicted classes, where they are explained beside others, with their scores and gradients."""

    classes: Tensor
    scores: Tensor
    map_grads: Mapping[TargetLayer, Tensor]


def _rival(reading: Reading, classes: Tensor, taps: Mapping[TargetLayer, Tap], plan: _Plan) -> _Rival | None:
    """Return the predicted classes, if the model has one for each image, and it is another one than the explained."""
    predicted = reading.predictions
    if not reading.task.has_one_class or bool((predicted == classes).all()):
        return None
    with torch.set_grad_enabled(plan.wants_gradient):
        scores, _ = select_scores(widen(reading.logits), predicted, reading.task, predicted)
    wanted = {layer: tap.wanted() for layer, tap in taps.items() if layer in plan.differentiated}
    gradients = differentiate(scores, wanted, reading.logits.dtype, keeps_graph=True)
    if gradients is None:
        return None
    map_grads = {layer: taps[layer].map(gradient) for layer, gradient in gradients.of.items()}
    return _Rival(predicted, scores.detach(), map_grads)


def _no_gradient(layers: Sequence[TargetLayer]) -> str:
    names = ", ".join(repr(layer.name) for layer in layers)
    source = f"the output of {'the layer' if len(layers) == 1 else 'each of the layers'} {names}"
    return (
        f"The explained score does not depend on {source if names else 'the input'} through operations that have a "
        "gradient. A `detach()`, inference mode or activation checkpointing with `use_reentrant=True` inside the "
        "model cuts the graph: use `use_reentrant=False`, or choose a later `layer`. Where the model detaches its "
        "scores, as some detectors do, pass an `output_fn` that returns a score for each class, (N, K), with its graph."
    )


def _score_gradient(logits: Tensor, target: ParsedTarget) -> Tensor:
    """Return ∂score/∂logits `(N, K)`: the weights with which a callable target mixes the classes."""
    with torch.enable_grad():
        leaf = widen(logits.detach()).requires_grad_()
        return torch.autograd.grad(select_scores(leaf, target)[0].sum(), leaf)[0]
