"""The shared pass, a forward and if needed a backward, that most methods read; and the extra passes of the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from lightning_saliency._checks import OptionError
from lightning_saliency.data import Call
from lightning_saliency.evidence.class_weights import find_class_weights
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.isolation import graph_everywhere
from lightning_saliency.evidence.rectify import Rectifier, rectify
from lightning_saliency.evidence.tap import Tap
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.targets import ParsedTarget, check_classes, select_scores

Need: TypeAlias = Literal["activations", "activation_grads", "input_grads", "class_weights", "lrp"]
"""The parts of the evidence that a method may read."""

T = TypeVar("T")

_PATIENCE = 3.0
"""Seconds before a progress bar is shown."""

_FLOAT16_SCALE = 2.0**12
"""The factor of the score for float16 gradients, so that they do not underflow; it is dropped where they overflow."""


@dataclass(frozen=True)
class Evidence:
    """The tensors of one pass over N images, from which a method computes its attributions.

    All tensors are detached; half precision is widened to float32. Those that no method asked for are None.

    Attributes:
        images: The model's input `(N, C, H, W)`.
        logits: `(N, K)`.
        scores: The explained logit of each image, `(N,)`.
        classes: The explained class of each image, `(N,)`; None where the target is a callable.
        activations: A, the target layer's output `(N, D, h, w)`.
        activation_grads: g = ∂score/∂A, `(N, D, h, w)`.
        input_grads: ∂score/∂input, `(N, C, H, W)`.
        class_weights: The explained score's row of the linear layer after global average pooling, `(N, D)`.
        all_class_weights: The rows of all classes, `(K, D)`; for a single logit, those of the classes 0 and 1.
        pooled_activations: The map whose pooling is the linear layer's input: A, or ReLU(A) (see `find_class_weights`).
        lrp_activations: Where the relevance of LRP is read, the token embedding or the input image, `(N, D, h, w)`.
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
    lrp_activations: Tensor | None = None
    lrp_grads: Tensor | None = None


def collect(
    forward: Forward,
    call: Call,
    images: Tensor,
    *,
    target: ParsedTarget,
    needs: Set[Need],
    layers: Sequence[TargetLayer] = (),
    rectifier: Rectifier | None = None,
    is_repeated: bool = False,
) -> list[Evidence]:
    """Run the model once, forward and, if a method needs a gradient, backward.

    To be called inside `Forward.undisturbed`.
    No gradient of a parameter is computed. If the input's gradient is not needed, the graph starts at the first target
    layer: the layers before it run without one. A model that ends in a softmax is explained by the softmax's input.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: `(N, C, H, W)` floating point, in place of the call's.
        target: What `Target.resolve` returned for these images.
        needs: The parts of the evidence that the methods read.
        layers: The target layers; not needed for the input's gradient alone.
        rectifier: Another backward rule for ReLUs than that of the gradient.
        is_repeated: Whether an earlier pass has given the warnings already.

    Returns:
        The evidence at each layer; without layers, one without activations.

    Raises:
        ValueError: A layer does not run exactly once or returns no feature map, a target class does not exist, or the
            score does not depend on a tensor whose gradient is needed, or with a `rectifier` on no ReLU.
    """
    wants_input, wants_map = "input_grads" in needs, "activation_grads" in needs
    if isinstance(target, Tensor):
        target = target.clone()  # autograd saves it, and refuses a tensor from inference mode
    # A model may run a part of itself under `no_grad` (a frozen backbone, say). Then the graph that starts where it is
    # cheapest does not reach the score, and the second attempt builds a graph everywhere.
    for everywhere in (False, True) if wants_input or wants_map else (False,):
        # the model gets a copy, into which it may write; a tensor from inference mode cannot be a leaf
        leaf = (images.clone() if images.is_inference() else images.detach()).requires_grad_(wants_input)
        taps = [Tap(forward.model, layer, starts_graph=wants_map and not wants_input) for layer in layers]
        with ExitStack() as stack:
            stack.enter_context(graph_everywhere(forward.model) if everywhere else torch.set_grad_enabled(wants_input))
            for tap in taps:
                stack.enter_context(tap)
            logits = forward(call, leaf, warns=not is_repeated)
        activations = [tap.read() for tap in taps]
        check_classes(target, logits)
        with torch.set_grad_enabled(wants_input or wants_map):
            scores, classes = select_scores(_widen(logits), target)
        wanted = [*(activations if wants_map else []), *([leaf] if wants_input else [])]
        gradients = _gradients(scores, wanted, logits.dtype, rectifier)
        if gradients is not None:
            break
    else:
        names = ", ".join(repr(layer.name) for layer in layers)
        source = f"the output of {'the layer' if len(layers) == 1 else 'each of the layers'} {names}"
        source = source if layers and wants_map else "the input"
        raise OptionError(
            f"The explained score does not depend on {source} through operations that have a gradient. A `detach()`, "
            "inference mode or activation checkpointing with `use_reentrant=True` inside the model cuts the graph: "
            "use `use_reentrant=False`, or choose a later `layer`.",
            "layer" if layers and wants_map else "methods",
        )
    # in the usual layout, whatever the pass's was: what reads them is faster
    input_grads = gradients.pop().contiguous() if wants_input else None

    def evidence_at(layer: int | None) -> Evidence:
        without_layer = Evidence(
            _widen(images.detach()), _widen(logits.detach()), scores.detach(), classes, input_grads=input_grads
        )
        if layer is None:
            return without_layer
        class_weights = all_weights = pooled = None
        if "class_weights" in needs:
            weight, pooled = find_class_weights(forward.model, activations[layer].detach(), logits.detach())
            all_weights = torch.cat([-weight, weight]) if len(weight) == 1 else weight
            class_weights = all_weights[classes] if classes is not None else _score_gradient(logits, target) @ weight
        return replace(
            without_layer,
            activations=_widen(activations[layer].detach()),
            activation_grads=gradients[layer] if wants_map else None,
            class_weights=class_weights,
            all_class_weights=all_weights,
            pooled_activations=pooled,
        )

    return [evidence_at(layer) for layer in range(len(layers))] or [evidence_at(None)]


@dataclass
class Passes:
    """Extra passes over changed images, for the methods that need more than the shared pass.

    They explain the same classes as the shared pass.

    Attributes:
        forward: How the model is run.
        call: What the model was called with.
        target: The explained class of each image, `(N,)`, or a callable.
        layer: The target layer, where a method reads it.
        batch_size: The most images in one forward of `scores`.
        progress: Whether to show a progress bar where the passes take more than a few seconds.
        notes: Numbers that a method reports for its maps, by name, `(N,)`.
        shared: Cached gradients that several methods read, by the rule for ReLUs.
    """

    forward: Forward
    call: Call
    target: ParsedTarget
    layer: TargetLayer | None = None
    batch_size: int = 32
    progress: bool = False
    notes: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)

    def rectified(self, images: Tensor, rectifier: Rectifier) -> Tensor:
        """Return ∂score/∂input `(N, C, H, W)` by another backward rule for ReLUs, from one pass for all methods."""
        if rectifier not in self.shared:
            gradients = self.repeat(images, {"input_grads"}, rectifier).input_grads
            assert gradients is not None  # it is what was asked for
            self.shared[rectifier] = gradients
        return self.shared[rectifier]

    def steps(self, steps: Sequence[T], what: str) -> Iterable[T]:
        """Return the steps, with a progress bar of this title while they are iterated."""
        bar: Iterable[T] = tqdm(steps, desc=what, delay=_PATIENCE, disable=not self.progress, leave=False)
        return bar

    def repeat(self, images: Tensor, needs: Set[Need], rectifier: Rectifier | None = None) -> Evidence:
        """Run the pass once more on N changed images `(N, C, H, W)`, each for the class of its original."""
        layers = [self.layer] if self.layer is not None and not needs <= {"input_grads"} else []
        return collect(
            self.forward,
            self.call,
            images,
            target=self.target,
            needs=needs,
            layers=layers,
            rectifier=rectifier,
            is_repeated=True,
        )[0]

    def scores(self, images: Tensor, row: int, activations: Tensor | None = None) -> Tensor:
        """Return the scores `(n,)` of n changed copies of one image for its explained class, by forward passes alone.

        Args:
            images: `(n, C, H, W)`: changed copies of the image, or n unchanged ones where there are `activations`.
            row: The index of the image.
            activations: `(n, D, h, w)`, in place of the target layer's output.
        """
        with ExitStack() as stack:
            if activations is not None and self.layer is not None:
                stack.enter_context(Tap(self.forward.model, self.layer, starts_graph=False, replacement=activations))
            logits = forward_logits(self.forward, self.call[[row] * len(images)], images)
        if isinstance(self.target, Tensor):
            return select_scores(logits, self.target[row].expand(len(images)))[0]
        # a callable's score may depend on the row in the batch: each copy is passed to it in the image's own row
        batches = [copy.expand(len(self.call), -1) for copy in logits]
        return torch.stack([select_scores(batch, self.target)[0][row] for batch in batches])


def forward_logits(forward: Forward, call: Call, images: Tensor) -> Tensor:
    """Return the logits `(N, K)` of a call with other images, at least float32, by a forward without a graph.

    To be called inside `Forward.undisturbed`.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: `(N, C, H, W)`, in place of the call's.
    """
    with torch.no_grad():
        return _widen(forward(call, images.to(call.leaf.device)))


def forward_logits_in_chunks(
    forward: Forward, call: Call, images: Iterable[tuple[int, Tensor]], *, batch_size: int
) -> Tensor:
    """Return the logits `(n, K)` of any number of changed images, which are read one batch at a time.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: n pairs: the index of the call's sample that was changed, and the changed image `(C, H, W)`.
        batch_size: The images that go through the model together: n / batch_size forwards, rounded up.
    """
    images, logits = iter(images), []
    while chunk := list(islice(images, batch_size)):
        rows = [row for row, _ in chunk]
        logits.append(forward_logits(forward, call[rows], torch.stack([image for _, image in chunk])))
    return torch.cat(logits)


def _gradients(
    scores: Tensor, wanted: list[Tensor], dtype: torch.dtype, rectifier: Rectifier | None
) -> list[Tensor] | None:
    """Return ∂score/∂tensor for each wanted tensor, or None where a score does not depend on one of them."""
    if not wanted:
        return []
    if not scores.requires_grad or not all(tensor.requires_grad for tensor in wanted):
        return None
    if rectifier is not None:
        rectify(scores, wanted[-1], rectifier)

    def backward(scale: float, *, retain_graph: bool = False) -> list[Tensor] | None:
        weights = torch.full_like(scores, scale)
        raw = torch.autograd.grad(scores, wanted, weights, retain_graph=retain_graph, allow_unused=True)
        gradients = [_widen(gradient) for gradient in raw if gradient is not None]
        if len(gradients) < len(wanted):
            return None
        return gradients if scale == 1 else [gradient / scale for gradient in gradients]

    if torch.float16 not in (dtype, *(tensor.dtype for tensor in wanted)):
        return backward(1.0)
    scaled = backward(_FLOAT16_SCALE, retain_graph=True)
    if scaled is None or all(_finite(gradient).all() for gradient in scaled):
        return scaled
    plain = backward(1.0) or scaled
    # image by image: where one overflows, the others keep the scale
    return [large.where(_finite(large), small) for large, small in zip(scaled, plain, strict=True)]


def _score_gradient(logits: Tensor, target: ParsedTarget) -> Tensor:
    """Return ∂score/∂logits `(N, K)`: the weights with which a callable target mixes the classes."""
    with torch.enable_grad():
        leaf = _widen(logits.detach()).requires_grad_()
        return torch.autograd.grad(select_scores(leaf, target)[0].sum(), leaf)[0]


def _finite(maps: Tensor) -> Tensor:
    """Whether all values of each image's maps are finite: `(N, C, h, w)` -> `(N, 1, 1, 1)`."""
    return maps.isfinite().all(3, keepdim=True).all(2, keepdim=True).all(1, keepdim=True)


def _widen(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
