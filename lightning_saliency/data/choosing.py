"""Ways to choose the samples out of the validation stream: each is a class of a few lines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

Choose: TypeAlias = Literal["first", "per_class", "hardest"]
"""The names of the ways that there are; see `CHOOSERS`."""


class Candidate(NamedTuple):
    """What is known of a sample as it passes.

    Attributes:
        position: Its place in the stream.
        label: Its true class, or None.
        loss: The cross-entropy of what the model says of it, or None.
    """

    position: int
    label: int | None
    loss: float | None


@dataclass(frozen=True)
class Chooser:
    """A way to choose samples: the first ones, unless a subclass says otherwise.

    Attributes:
        num: How many samples.
        needs_labels: Whether it cannot work without labels.
    """

    num: int
    needs_labels: ClassVar[bool] = False

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether to keep a sample that passes, beside those that are kept, which stand under their positions."""
        return len(kept) < self.num

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """The positions of the samples that are shown, in the order in which they are shown."""
        return sorted(kept)[: self.num]

    def surplus(self, kept: Mapping[int, Candidate]) -> Iterable[int]:
        """The positions of those that need not be kept any longer."""
        return ()

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether nothing that is still to come can change the choice."""
        return len(kept) == self.num


@dataclass(frozen=True)
class First(Chooser):
    """The first samples of the stream."""


@dataclass(frozen=True)
class Positions(Chooser):
    """The samples at given positions in the stream, in the order in which these are given."""

    positions: tuple[int, ...] = ()

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether its position is one of them."""
        return candidate.position in self.positions

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """As they are given."""
        return list(self.positions)

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether all have come."""
        return len(kept) == len(set(self.positions))


@dataclass(frozen=True)
class PerClass(Chooser):
    """Samples as evenly over the classes as they come."""

    needs_labels: ClassVar[bool] = True

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether it could ever be shown: of so many classes, and of each, no more than there are places."""
        groups = _by_class(kept)
        # of a class that is new, the number of classes counts
        return candidate.label is not None and len(groups.get(candidate.label, groups)) < self.num

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """One of each class, then the next of each, and so on."""
        groups = [group for _, group in sorted(_by_class(kept).items())]
        rounds = [group[index] for index in range(self.num) for group in groups if index < len(group)]
        return rounds[: self.num]

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Whether there is one of as many classes as there are places."""
        return len(_by_class(kept)) == self.num


@dataclass(frozen=True)
class Hardest(Chooser):
    """The samples with the largest loss in the first pass over the whole stream, the largest first."""

    needs_labels: ClassVar[bool] = True

    def wants(self, candidate: Candidate, kept: Mapping[int, Candidate]) -> bool:
        """Whether it is among the largest so far."""
        return candidate.position in self.order({**kept, candidate.position: candidate})

    def order(self, kept: Mapping[int, Candidate]) -> list[int]:
        """By their loss; one that is no number is the largest, and one that is not known 0."""
        losses = {position: candidate.loss or 0.0 for position, candidate in kept.items()}
        return sorted(losses, key=lambda position: (not math.isnan(losses[position]), -losses[position]))[: self.num]

    def surplus(self, kept: Mapping[int, Candidate]) -> Iterable[int]:
        """Those that are no longer among the largest."""
        return set(kept) - set(self.order(kept))

    def is_complete(self, kept: Mapping[int, Candidate]) -> bool:
        """Not before the stream has ended."""
        return False


CHOOSERS: dict[str, type[Chooser]] = {"first": First, "per_class": PerClass, "hardest": Hardest}
"""By name the ways that need no more than the number of samples. A way of one's own is one more entry."""


def _by_class(kept: Mapping[int, Candidate]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for position, candidate in kept.items():
        if candidate.label is not None:
            groups[candidate.label].append(position)
    return dict(groups)
