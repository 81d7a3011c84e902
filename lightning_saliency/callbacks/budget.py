"""The time budget of a callback, as a fraction of the training's time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Budget:
    """Plans how many samples are explained, and how often, so that this takes at most a fraction of the time.

    Where the last cost predicts that the next look would exceed it, there are fewer samples; where even one is too
    many, only every second, fourth, eighth … look takes place. The limits are never relaxed.

    Args:
        max_fraction: The largest fraction of the time between two looks, or None for no limit.
        most: The most samples in a look; None for no limit so far.
        every: One of so many looks takes place.

    Example:
        >>> budget = Budget(max_fraction=0.1)
        >>> budget.record(seconds=8.0, num_samples=8)
        >>> budget.plan(num_samples=8, rest=40.0)  # 4 seconds are allowed, one sample takes 1
        4
        >>> budget.plan(num_samples=8, rest=4.0)  # 0.4 seconds are allowed: one sample in every fourth look
        1
        >>> [budget.plan(num_samples=8, rest=4.0) for look in range(4)]
        [0, 0, 0, 1]
    """

    max_fraction: float | None = None
    most: int | None = None
    every: int = 1
    _count: int = 0
    _seconds_each: float | None = None

    @property
    def is_thinned(self) -> bool:
        """Whether the budget has reduced the samples yet."""
        return self.most is not None

    def plan(self, num_samples: int, rest: float) -> int:
        """Return how many of the samples to explain in the next look.

        Args:
            num_samples: The number of samples.
            rest: The seconds that everything else took since the last look.

        Returns:
            A number up to `num_samples`, 0 to skip this look.
        """
        wanted = min(num_samples, self.most or num_samples)
        if self.max_fraction is not None and self._seconds_each is not None:
            allowed = self.max_fraction * rest
            if wanted * self._seconds_each > allowed * self.every:
                self.most = wanted = max(1, int(allowed * self.every / self._seconds_each))
                while self._seconds_each > allowed * self.every and self.every < 2**20:
                    self.every *= 2
                self._count = 0
        self._count += 1
        return wanted if (self._count - 1) % self.every == 0 else 0

    def describe(self, num_samples: int) -> str:
        """Return in words what was cut of so many samples."""
        often = f", every {self.every} validations" if self.every > 1 else ""
        shown = f"{self.most} of {num_samples} samples{often}"
        return f"more than {self.max_fraction:.0%} of the time, so it now shows {shown}"

    def record(self, seconds: float, num_samples: int) -> None:
        """Record the duration of the last look."""
        self._seconds_each = seconds / max(num_samples, 1)
