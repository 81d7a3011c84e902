"""Around each step of a callback: faults end nothing that has begun, the time is counted, the training is audited."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from lightning_saliency._lightning import LightningModule, Trainer, rank_zero_warn
from lightning_saliency.callbacks.audit import changed, fingerprint

_OWN = str(Path(__file__).parents[1])


class Guard:
    """Runs the steps of a callback so that they cannot hurt the training.

    Args:
        who: The callback's name, for messages.
        raises: Raise a fault in any case, rather than only in sanity checking.
        audit: Compare the training's fingerprint before and after each step.

    Attributes:
        seconds: What the steps have taken; for the caller to set back.
    """

    def __init__(self, who: str, *, raises: bool, audit: bool) -> None:
        self.who = who
        self.raises = raises
        self.audit = audit
        self.seconds = 0.0
        self._said: set[str] = set()

    def run(
        self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None], *, is_audited: bool = True
    ) -> bool:
        """Run a step; a fault is one warning for each cause.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            step: What to do.
            is_audited: Whether the audit, where there is one, covers it: not where hooks are put on for a while.

        Returns:
            Whether it went through.

        Raises:
            RuntimeError: The audit found that the training was changed.
            Exception: The step's own, before the training has begun or if faults are to be raised.
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
            self._say(fault, trainer.current_epoch)
        differences = changed(before, fingerprint(trainer, pl_module)) if audits else []
        if differences:
            raise RuntimeError(f"{self.who} has changed the training: {', '.join(differences)}.")
        return fault is None

    def _say(self, fault: Exception, epoch: int) -> None:
        """Once for each place that faults come from: their texts may differ from epoch to epoch."""
        frames = traceback.extract_tb(fault.__traceback__)
        place = ([frame for frame in frames if not frame.filename.startswith(_OWN)] or frames)[-1]
        cause = f"{type(fault).__name__} {place.filename}:{place.lineno}"
        if cause in self._said:
            return
        self._said.add(cause)
        rank_zero_warn(
            f"{self.who} could not show its pictures (epoch {epoch}), and the run goes on without them. Said once for "
            f"each cause; `Execution(on_error='raise')` stops instead. {type(fault).__name__}: {fault}"
        )
