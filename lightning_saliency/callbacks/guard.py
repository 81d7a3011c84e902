"""`Guard`: runs the steps of a callback, turns errors into warnings, measures the time and audits the training."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from lightning_saliency import _checks
from lightning_saliency._checks import OptionError, describe_error
from lightning_saliency._lightning import LightningModule, Trainer
from lightning_saliency.callbacks.audit import changed, fingerprint
from lightning_saliency.callbacks.notices import Notices, own_warnings_shown
from lightning_saliency.evidence import ProcessKept, call_note

_PACKAGE_FOLDER = str(Path(__file__).parents[1])


class Guard:
    """Runs the steps of a callback such that they neither end the training nor move its random states and modes.

    An error ends a run only before its first training step, and only if it says that an option which the user set is
    impossible; or if all errors are to be raised.

    Args:
        who: The callback's name, for messages.
        notices: What has been said, so that each cause of an error is named once.
        unset: The options that the user has left at their defaults.
        raises: Whether to raise all errors.
        audit: Whether to compare the training's fingerprint before and after each step.
        advise: Returns what to set where the model itself fails on the call that is repeated.

    Attributes:
        seconds: The time that the steps have taken; the caller resets it.
        before_training: Whether the optimizer has not stepped yet, after sanity checking.
    """

    def __init__(
        self,
        who: str,
        notices: Notices,
        *,
        unset: Collection[str],
        raises: bool,
        audit: bool,
        advise: Callable[[LightningModule], str],
    ) -> None:
        self.who = who
        self.notices = notices
        self.advise = advise
        self.unset = frozenset(unset)
        self.raises = raises
        self.audit = audit
        self.seconds = 0.0
        self.before_training = False

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
            Exception: The step's own, where errors are raised.
        """
        audits = self.audit and is_audited
        before = fingerprint(trainer, pl_module) if audits else {}
        start = time.perf_counter()
        succeeded = False
        try:
            with ProcessKept(), own_warnings_shown():
                step()
            succeeded = True
        except Exception as fault:
            is_early = trainer.sanity_checking or self.before_training
            if self.raises or (is_early and self.is_impossible(fault)):
                raise
            self._warn(fault, trainer.current_epoch, pl_module)
        finally:
            self.seconds += time.perf_counter() - start
        differences = changed(before, fingerprint(trainer, pl_module)) if audits else []
        if differences:
            raise RuntimeError(f"{self.who} has changed the training: {', '.join(differences)}.")
        return succeeded

    def is_impossible(self, fault: Exception) -> bool:
        """Whether an error says that an option is impossible which the user has set."""
        return isinstance(fault, OptionError) and fault.option not in self.unset

    def _warn(self, fault: Exception, epoch: int, pl_module: LightningModule) -> None:
        """Warn once for each line of code that raises an error: the messages may differ from epoch to epoch."""
        lines = [
            f"{frame.f_code.co_filename}:{line}"
            for frame, line in traceback.walk_tb(fault.__traceback__)
            if frame.f_code.co_filename != _checks.__file__  # which raises for all that call it
        ]
        others = [line for line in lines if not line.startswith(_PACKAGE_FOLDER)]
        cause = f"{type(fault).__name__} {getattr(fault, 'option', '')} {(others or lines)[-1]}"
        note, described = call_note(fault), describe_error(fault).rstrip(".")
        details = "." if note is None else f". {note} {self.advise(pl_module)}"
        self.notices.once(
            f"{self.who} could not show its pictures (epoch {epoch}), and the run goes on without them. Said once for "
            f"each cause; `Execution(on_error='raise')` stops instead. {described}{details}",
            cause,
        )
