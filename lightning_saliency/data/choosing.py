"""Choosers: which samples of the validation stream are explained. Each is a class of a few lines."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from torch import Tensor

from lightning_saliency.data.spread import spread_positions

Choose: TypeAlias = Literal["spread", "first", "per_class", "hardest"]
"""The names of the choosers in `CHOOSERS`."""


class Candidate(NamedTuple):
    """The properties of a sample of the stream by which it may be chosen.

    Attributes:
        position: The sample's index in the stream, from 0.
        label: The true class, or None.
        loss: The cross-entropy of the model's logits for it, or None.
        index_in_class: The sample's index among those of its class in the stream, from 0.
    """

    position: int
    label: int | None
    loss: float | None
    index_in_class: int = 0


@dataclass(frozen=True)
class Chooser:
    """Base class of the rules by which samples are chosen: those of the highest priority in the stream.

    A sample's priority never changes, so a sample that is not among the first `num` so far never will be, and no more
    than `num` need to be kept at any time. By itself it chooses the first ones of the stream.

    Attributes:
        num: The number of samples to choose.
        needs_labels: Whether the rule needs labels.
        needs_losses: Whether it needs the loss of each sample.
    """

    num: int
    needs_labels: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False

    @property
    def capacity(self) -> int:
        """The largest number of samples that are kept."""
        return self.num

    @property
    def num_needed(self) -> int | None:
        """The number of samples of the stream after which the choice stands, whatever they are; None if it may not."""
        return self.num

    def for_labels(self, labels: Tensor | None) -> Chooser:
        """Return the rule for a stream whose labels, `(n,)`, are known beforehand; None where they are not."""
        return self

    def admits(self, candidate: Candidate) -> bool:
        """Whether a sample may be chosen at all."""
        return True

    def priority(self, candidate: Candidate) -> tuple[float, ...]:
        """Return the numbers by which samples are compared: the largest are chosen, and no two are equal."""
        return (-candidate.position,)

    def is_final(self, last: Candidate) -> bool:
        """Whether the choice stands, whatever samples follow; `last` is the chosen one of the lowest priority."""
        return True

    def order(self, kept: Collection[Candidate]) -> list[int]:
        """Return the positions of the chosen samples, in the order in which they are shown."""
        return [candidate.position for candidate in sorted(kept, key=self.priority, reverse=True)]


@dataclass(frozen=True)
class First(Chooser):
    """The first samples of the stream."""


@dataclass(frozen=True)
class Positions(Chooser):
    """The samples at given positions in the stream, in the given order."""

    positions: tuple[int, ...] = ()

    @property
    def capacity(self) -> int:
        """The number of different positions."""
        return len(self._different)

    @property
    def num_needed(self) -> int:
        """The number of samples up to the last position."""
        return max(self.positions, default=-1) + 1

    def admits(self, candidate: Candidate) -> bool:
        """Whether the sample's position is one of the given ones."""
        return candidate.position in self._different

    def order(self, kept: Collection[Candidate]) -> list[int]:
        """Return the positions in the given order, also those that are not kept yet."""
        return list(self.positions)

    @cached_property
    def _different(self) -> frozenset[int]:
        return frozenset(self.positions)


@dataclass(frozen=True)
class Spread(Chooser):
    """Samples spread over the classes where the data set has its labels at hand; else the first of the stream.

    Many validation sets are sorted by class, so that their first samples are all of one.
    """

    def for_labels(self, labels: Tensor | None) -> Chooser:
        """Return the positions that are spread over the labels' classes."""
        positions = () if labels is None else spread_positions(labels, self.num)
        return Positions(len(positions), positions) if positions else First(self.num)


@dataclass(frozen=True)
class PerClass(Chooser):
    """Samples spread as evenly over the classes as the stream allows: one of each class, then the next of each."""

    needs_labels: ClassVar[bool] = True
    num_needed = None

    def priority(self, candidate: Candidate) -> tuple[float, ...]:
        """Return high numbers for the first sample of each class, then for the second of each, and so on."""
        return (-candidate.index_in_class, -(candidate.label or 0))

    def is_final(self, last: Candidate) -> bool:
        """Whether all chosen samples are of different classes."""
        return last.index_in_class == 0


@dataclass(frozen=True)
class Hardest(Chooser):
    """The samples with the largest loss in the first pass over the whole stream, the largest first."""

    needs_labels: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = True
    num_needed = None

    def priority(self, candidate: Candidate) -> tuple[float, ...]:
        """Return the loss, of equal ones higher for the first; NaN counts as the largest, and an unknown loss as 0."""
        loss = candidate.loss or 0.0
        is_nan = math.isnan(loss)
        return (is_nan, 0.0 if is_nan else loss, -candidate.position)

    def is_final(self, last: Candidate) -> bool:
        """Return False: a later sample may have a larger loss."""
        return False


CHOOSERS: dict[str, type[Chooser]] = {"spread": Spread, "first": First, "per_class": PerClass, "hardest": Hardest}
"""The choosers that need only the number of samples, by name. To add one of your own, add an entry."""


class Selection:
    """The samples that are chosen from a stream so far, of which there are never more than the chooser's `capacity`.

    Args:
        chooser: The rule by which samples are chosen.

    Attributes:
        kept: The chosen samples by their positions.
        num_seen: The number of samples of the stream so far.

    Example:
        >>> selection = Selection(PerClass(2))
        >>> for label in (7, 7, 7, 3):
        ...     selection.offer(label)
        ...     print(selection.order())
        [0]
        [0, 1]
        [0, 1]
        [3, 0]
    """

    def __init__(self, chooser: Chooser) -> None:
        self.chooser = chooser
        self.kept: dict[int, Candidate] = {}
        self.num_seen = 0
        self._queue: list[tuple[tuple[float, ...], int]] = []  # a heap, that of the lowest priority first
        self._class_counts: Counter[int | None] = Counter()

    def offer(self, label: int | None, loss: float | None = None) -> None:
        """Take the next sample of the stream, which may drop another; one without a needed label is passed over."""
        position = self.num_seen
        self.num_seen += 1
        if (self.chooser.needs_labels and label is None) or self.is_complete:
            return
        candidate = Candidate(position, label, loss, self._class_counts[label])
        self._class_counts[label] += 1
        if not self.chooser.admits(candidate):
            return
        entry = (self.chooser.priority(candidate), position)
        if len(self._queue) < self.chooser.capacity:
            heapq.heappush(self._queue, entry)
        else:
            _, dropped = heapq.heappushpop(self._queue, entry)
            if dropped == position:
                return
            del self.kept[dropped]
        self.kept[position] = candidate

    def order(self) -> list[int]:
        """Return the positions of the chosen samples, in the order in which they are shown."""
        return self.chooser.order(self.kept.values())

    @property
    def is_complete(self) -> bool:
        """Whether the choice is final, whatever samples follow."""
        if len(self._queue) < self.chooser.capacity:
            return False
        _, last = self._queue[0]
        return self.chooser.is_final(self.kept[last])
