"""`Schedule`: after which validations samples are explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_saliency._checks import check_count


@dataclass
class Schedule:
    """Decides after which validations the samples are explained.

    Where validation does not run in an epoch that is due, the next validation is due.

    Args:
        every_n_epochs: The number of epochs from one look to the next.

    Raises:
        ValueError: `every_n_epochs` is not a positive int.

    Example:
        >>> schedule = Schedule(every_n_epochs=2)
        >>> [schedule.is_due(epoch) for epoch in (0, 1, 2, 4, 5)]
        [False, True, False, True, True]
    """

    every_n_epochs: int
    _periods: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.every_n_epochs = check_count("every_n_epochs", self.every_n_epochs)

    def reset(self) -> None:
        """Prepare for another run."""
        self._periods = 0

    def state_dict(self) -> dict[str, Any]:
        """Return how far the run is, so that a resumed one looks in the same epochs."""
        return {"periods": self._periods}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._periods = state.get("periods", 0)

    def is_due(self, epoch: int) -> bool:
        """Whether a look is due after the validation of an epoch; to be called once for each validation."""
        periods, remainder = divmod(epoch + 1, self.every_n_epochs)
        is_due = remainder == 0 or periods > self._periods
        self._periods = periods
        return is_due
