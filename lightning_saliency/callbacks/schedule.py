"""When to look: every so many epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_saliency._checks import check_count


@dataclass
class Schedule:
    """Says after which validations to look.

    A look is also due where validation itself comes only every so many epochs, and just misses the one.

    Args:
        every_n_epochs: Look every so many epochs.

    Raises:
        ValueError: It is no positive int.

    Example:
        >>> schedule = Schedule(every_n_epochs=2)
        >>> [schedule.is_due(epoch) for epoch in (0, 1, 2, 4, 5)]
        [False, True, False, True, True]
    """

    every_n_epochs: int
    _periods: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_count("every_n_epochs", self.every_n_epochs)

    def reset(self) -> None:
        """Begin with another run."""
        self._periods = 0

    def is_due(self, epoch: int) -> bool:
        """Whether to look after the validation of an epoch, which is asked for once for each validation."""
        periods, rest = divmod(epoch + 1, self.every_n_epochs)
        is_due = rest == 0 or periods > self._periods
        self._periods = periods
        return is_due
