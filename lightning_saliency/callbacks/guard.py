"""`Guard`: runs the steps of a callback, turns errors into warnings, measures the time and audits the training."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from lightning_saliency._lightning import LightningModule, Trainer, rank_zero_warn
from lightning_saliency.callbacks.audit import changed, fingerprint

_PACKAGE_FOLDER = str(Path(__file__).parents[1])


class Guard:
    """Runs the steps of a callback such that their errors do not end the training.

    Args:
        who: The callback's name, for messages.
        raises: Whether to raise errors in any case, rather than only in sanity checking.
        audit: Whether to compare the training's fingerprint before and after each step.

    Attributes:
        seconds: The time that the steps have taken; the caller resets it.
    """

    def __init__(self, who: str, *, raises: bool, audit: bool) -> None:
        self.who = who
        self.raises = raises
        self.audit = audit
        self.seconds = 0.0
        self._warned_causes: set[str] = set()

    def run(
        self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None], *, is_audited: bool = True
    ) -> bool:
        """Run a step, and warn once for each cause of an error.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            step: The function to run.
            is_audited: Whether the audit, if it is on, covers the step: not where the step registers hooks on purpose.

        Returns:
            Whether the step succeeded.

        Raises:
            RuntimeError: The audit shows that the training was changed.
            Exception: The step's own, before the training has begun or if errors are to be raised.
        """
        audits = self.audit and is_audited
        before = fingerprint(trainer, pl_module) if audits else {}
        start = time.perf_counter()
        fault: Exception | None = None
        try:
            step()
        except Exception as caught:
            if trainer.sanity_checking or self.raises:
                raise
            fault = caught
        finally:
            self.seconds += time.perf_counter() - start
        if fault is not None:
            self._warn(fault, trainer.current_epoch)
        differences = changed(before, fingerprint(trainer, pl_module)) if audits else []
        if differences:
            raise RuntimeError(f"{self.who} has changed the training: {', '.join(differences)}.")
        return fault is None

    def _warn(self, fault: Exception, epoch: int) -> None:
        """Warn once for each line of code that raises an error: the messages may differ from epoch to epoch."""
        frames = traceback.extract_tb(fault.__traceback__)
        origin = ([frame for frame in frames if not frame.filename.startswith(_PACKAGE_FOLDER)] or frames)[-1]
        cause = f"{type(fault).__name__} {origin.filename}:{origin.lineno}"
        if cause in self._warned_causes:
            return
        self._warned_causes.add(cause)
        rank_zero_warn(
            f"{self.who} could not show its pictures (epoch {epoch}), and the run goes on without them. Said once for "
            f"each cause; `Execution(on_error='raise')` stops instead. {type(fault).__name__}: {fault}"
        )
