"""How much of a training's time the looking may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Plans how many samples are shown, and how often, so that it takes at most a fraction of the training's time.

    Where the last cost says that the next call would exceed it, there are fewer samples; where even one is too many,
    only every second, fourth, eighth … turn is used. It is never loosened again.

    Args:
        max_fraction: The largest share of the time between two turns, or None for no limit.

    Example:
        >>> budget = Budget(max_fraction=0.1)
        >>> budget.record(seconds=8.0, num_samples=8)
        >>> budget.plan(num_samples=8, rest=40.0)  # 4 seconds are allowed, one sample takes 1
        4
        >>> budget.plan(num_samples=8, rest=4.0)  # 0.4 seconds are allowed: one sample in every fourth turn
        1
        >>> [budget.plan(num_samples=8, rest=4.0) for turn in range(4)]
        [0, 0, 0, 1]
    """

    max_fraction: float | None = None
    most: int | None = None
    every: int = 1
    _turn: int = 0
    _seconds_each: float | None = None

    @property
    def is_thinned(self) -> bool:
        """Whether it has cut anything yet."""
        return self.most is not None

    def plan(self, num_samples: int, rest: float) -> int:
        """How many of the samples to show in this turn.

        Args:
            num_samples: How many there are.
            rest: The seconds that everything else took since the last turn.

        Returns:
            A number up to `num_samples`, 0 to leave this turn out.
        """
        wanted = min(num_samples, self.most or num_samples)
        if self.max_fraction is not None and self._seconds_each is not None:
            allowed = self.max_fraction * rest
            if wanted * self._seconds_each > allowed * self.every:
                self.most = wanted = max(1, int(allowed * self.every / self._seconds_each))
                while self._seconds_each > allowed * self.every and self.every < 2**20:
                    self.every *= 2
                self._turn = 0
        self._turn += 1
        return wanted if (self._turn - 1) % self.every == 0 else 0

    def record(self, seconds: float, num_samples: int) -> None:
        """What the last turn took."""
        self._seconds_each = seconds / max(num_samples, 1)
