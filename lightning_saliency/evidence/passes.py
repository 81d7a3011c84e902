"""`Passes`: the further passes over changed images, for the methods that need more than the shared pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from lightning_saliency.data import Call
from lightning_saliency.evidence.backward import widen
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.rectify import Rectifier
from lightning_saliency.evidence.shared_pass import Evidence, Need, collect
from lightning_saliency.evidence.tap import Tap
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.targets import ParsedTarget, read_scores, select_scores
from lightning_saliency.evidence.task import Reading, Similarity

T = TypeVar("T")

_PATIENCE = 3.0
"""Seconds before a progress bar is shown."""


@dataclass
class Passes:
    """Extra passes over changed images, for the methods that need more than the shared pass.

    They explain the same classes as the shared pass.

    Attributes:
        forward: How the model is run.
        call: What the model was called with.
        target: The explained class of each image, `(N,)`, or a callable, as `read_scores` returned it for them.
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
        ).at(layers[0] if layers else None, needs)

    def scores(self, images: Tensor, row: int, activations: Tensor | None = None) -> Tensor:
        """Return the scores `(n,)` of n changed copies of one image for its explained class, by forward passes alone.

        Args:
            images: `(n, C, H, W)`: changed copies of the image, or n unchanged ones where there are `activations`.
            row: The index of the image.
            activations: `(n, D, h, w)`, in place of the target layer's output.
        """
        with ExitStack() as stack:
            if activations is not None and self.layer is not None:
                stack.enter_context(Tap(self.forward.model, self.layer, images.shape, replacement=activations))
            reading = forward_reading(self.forward, self.call[[row] * len(images)], images)
        if isinstance(self.target, Tensor):
            return read_scores(reading, self.target[row].expand(len(images)))[0]
        if isinstance(self.target, Similarity):
            return read_scores(reading, Similarity(self.target.reference[row : row + 1]))[0]
        # a callable's score may depend on the row in the batch: each copy is passed to it in the image's own row
        batches = [copy.expand(len(self.call), -1) for copy in widen(reading.logits)]
        return torch.stack([select_scores(batch, self.target, reading.task)[0][row] for batch in batches])


def forward_reading(forward: Forward, call: Call, images: Tensor) -> Reading:
    """Return what the model says of a call with other images, by a forward without a graph; see `forward_logits`."""
    with torch.no_grad():
        return forward.read(call, images.to(call.leaf.device))


def forward_logits(forward: Forward, call: Call, images: Tensor) -> Tensor:
    """Return the logits `(N, K)` of a call with other images, at least float32, by a forward without a graph.

    To be called inside `Forward.undisturbed`.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: `(N, C, H, W)`, in place of the call's.
    """
    return widen(forward_reading(forward, call, images).logits)


def forward_logits_in_chunks(
    forward: Forward, call: Call, images: Iterable[tuple[int, Tensor]], *, batch_size: int
) -> Tensor:
    """Return the logits `(n, K)` of any number of changed images, which are read one batch at a time.

    To be called inside `Forward.undisturbed`.

    Args:
        forward: How the model is run.
        call: What the model is called with.
        images: n pairs: the index of the call's sample that was changed, and the changed image `(C, H, W)`.
        batch_size: The images that go through the model together: n / batch_size forwards, rounded up.
    """
    images, logits = iter(images), []
    while chunk := list(islice(images, batch_size)):
        of_samples = call[[row for row, _ in chunk]]
        changed = torch.stack([image for _, image in chunk]).to(call.leaf.device)
        run = partial(forward_logits, call=of_samples, images=changed)
        logits.append(forward.in_fastest_layout(changed, batch_size, run))
    return torch.cat(logits)
