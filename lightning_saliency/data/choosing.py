"""Choosers: which samples of the validation stream are explained. Each is a class of a few lines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

Choose: TypeAlias = Literal["first", "per_class", "hardest"]
"""The names of the choosers in `CHOOSERS`."""


class Candidate(NamedTuple):
    """The properties of a sample of the stream by which it may be chosen.

    Attributes:
        position: The sample's index in the stream, from 0.
        label: The true class, or None.
        loss: The cross-entropy of the model's logits for it, or None.
    """

    position: int
    label: int | None
    loss: float | None


@dataclass(frozen=True)
class Chooser:
    """Base class of the rules by which samples are chosen; by itself it chooses the first ones.

    In all methods, `kept` holds the samples kept so far, by their positions.

    Attributes:
        num: The number of samples to choose.
        needs_labels: Whether the rule needs labels.
    """

    num: int
    needs_labels: ClassVar[bool] = False

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether to keep a sample of the stream in addition to those kept so far."""
        return len(kept) < self.num

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """Return the positions of the chosen samples, in the order in which they are shown."""
        return sorted(kept)[: self.num]

    def surplus(self, kept: Mapping[int, Candidate]) -> Iterable[int]:
        """Return the positions of kept samples that can be dropped."""
        return ()

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether the choice is final, whatever samples follow."""
        return len(kept) == self.num


@dataclass(frozen=True)
class First(Chooser):
    """The first samples of the stream."""


@dataclass(frozen=True)
class Positions(Chooser):
    """The samples at given positions in the stream, in the given order."""

    positions: tuple[int, ...] = ()

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether the sample's position is one of the given ones."""
        return candidate.position in self.positions

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """Return the positions in the given order."""
        return list(self.positions)

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether the samples of all positions are kept."""
        return len(kept) == len(set(self.positions))


@dataclass(frozen=True)
class PerClass(Chooser):
    """Samples spread as evenly over the classes as the stream allows."""

    needs_labels: ClassVar[bool] = True

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether the sample may be shown: at most `num` classes are kept, and at most `num` samples of each."""
        groups = _by_class(kept)
        # for a class that has no sample yet, the number of classes counts
        return candidate.label is not None and len(groups.get(candidate.label, groups)) < self.num

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """Return one sample of each class, then the next of each, and so on."""
        groups = [group for _, group in sorted(_by_class(kept).items())]
        rounds = [group[index] for index in range(self.num) for group in groups if index < len(group)]
        return rounds[: self.num]

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether samples of `num` classes are kept."""
        return len(_by_class(kept)) == self.num


@dataclass(frozen=True)
class Hardest(Chooser):
    """The samples with the largest loss in the first pass over the whole stream, the largest first."""

    needs_labels: ClassVar[bool] = True

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether the sample's loss is among the largest so far."""
        return candidate.position in self.order({**kept, candidate.position: candidate})

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """Return the positions by decreasing loss; NaN counts as the largest, and an unknown loss as 0."""
        losses = {position: candidate.loss or 0.0 for position, candidate in kept.items()}
        return sorted(losses, key=lambda position: (not math.isnan(losses[position]), -losses[position]))[: self.num]

    def surplus(self, kept: Mapping[int, Candidate]) -> Iterable[int]:
        """Return the positions whose losses are no longer among the largest."""
        return set(kept) - set(self.order(kept))

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Return False: a later sample may have a larger loss."""
        return False


CHOOSERS: dict[str, type[Chooser]] = {"first": First, "per_class": PerClass, "hardest": Hardest}
"""The choosers that need only the number of samples, by name. To add one of your own, add an entry."""


def _by_class(kept: Mapping[int, Candidate]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for position, candidate in kept.items():
        if candidate.label is not None:
            groups[candidate.label].append(position)
    return dict(groups)
