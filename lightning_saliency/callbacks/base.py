"""What all callbacks share: a fixed validation batch, and pictures of it in every logger, without touching training."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from lightning_saliency._compat import (
    SHARDED_STRATEGIES,
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_saliency.batches import Objects
from lightning_saliency.budget import Budget
from lightning_saliency.checks import check_choice, check_count, check_function
from lightning_saliency.datasets import find_dataset
from lightning_saliency.guard import Guard
from lightning_saliency.loggers import log_pictures, scalar_step
from lightning_saliency.samples import Choose, FixedBatch, Samples, parse_samples
from lightning_saliency.visualization import Style

OnError = Literal["warn", "raise"]

Pictures: TypeAlias = dict[str, Tensor | Path]
"""By the last part of its tag a picture, uint8 `(3, H, W)`, or an animation's file."""


@dataclass(frozen=True)
class Turn:
    """One time that the callback looks.

    Attributes:
        stage: `validate` or `test`.
        trainer: The trainer.
        pl_module: Its module.
        samples: What is looked at.
        share: How much that is of all samples: less than 1 where the time budget has thinned them.
        dataset: Where to look for the normalisation and the classes' names.
        is_logged: Whether the pictures go to the loggers.
        is_fresh: Whether the training began, or begins, with this run.
    """

    stage: str
    trainer: Trainer
    pl_module: LightningModule
    samples: Samples
    share: float
    dataset: Any
    is_logged: bool
    is_fresh: bool

    @property
    def in_fit(self) -> bool:
        """Whether it is in a training, or before it."""
        return self.trainer.state.fn == "fit"

    @property
    def is_untrained(self) -> bool:
        """Whether the network has made no step yet."""
        return self.trainer.sanity_checking and self.trainer.global_step == 0

    @property
    def is_rehearsal(self) -> bool:
        """Whether it only brings out errors before the first step of a resumed run."""
        return self.trainer.sanity_checking and self.trainer.global_step > 0

    @property
    def title(self) -> str:
        """What stands on top of a picture: when it was."""
        if self.trainer.sanity_checking:
            return "before training"
        if self.in_fit:
            return f"epoch {self.trainer.current_epoch} · step {scalar_step(self.trainer)}"
        return self.stage


class PictureCallback(Callback):
    """Takes samples from the validation stream, and logs pictures that are made of them after each validation.

    What the pictures are is up to a subclass: `_draw` makes them, on rank 0 alone and guarded, `_tags` says under which
    tags, `_check` what can be refused before anything runs. What more it does each time is in `_acts`. See
    `SaliencyCallback` for the options.
    """

    def __init__(
        self,
        look: Style,
        *,
        num_samples: int,
        samples: list[int] | Tensor | tuple[Tensor, Tensor] | None,
        choose: Choose,
        dataloader_idx: int,
        every_n_epochs: int,
        log_untrained: bool,
        input_fn: Callable[[Any], Any] | None,
        name: str,
        on_error: OnError,
        max_fraction: float | None,
        audit: bool,
        objects: Objects | None = None,
    ) -> None:
        super().__init__()
        for option, count in (("num_samples", num_samples), ("every_n_epochs", every_n_epochs)):
            check_count(option, count)
        check_choice("choose", choose, get_args(Choose))
        check_choice("on_error", on_error, get_args(OnError))
        if max_fraction is not None and not 0 < max_fraction <= 1:
            raise ValueError(f"Expected `max_fraction` to be above 0 and at most 1, got {max_fraction!r}.")
        if not isinstance(dataloader_idx, int) or dataloader_idx < 0:
            raise ValueError(f"Expected `dataloader_idx` to be an int from 0, got {dataloader_idx!r}.")
        if not isinstance(name, str) or not name:
            raise ValueError(f"Expected `name` to be a text that tags can begin with, got {name!r}.")
        check_function("input_fn", input_fn)
        self.look = look
        self.every_n_epochs = every_n_epochs
        self.log_untrained = log_untrained
        self.dataloader_idx = dataloader_idx
        self.name = name
        self.on_error = on_error
        self.max_fraction = max_fraction
        self.audit = audit

        given, indices = parse_samples(samples)
        self.num_shown = len(given if given is not None else indices or range(num_samples))
        in_test = objects if callable(objects) or given is not None else None  # other images than those in validation
        self._batches = {
            "validate": FixedBatch(num_samples, choose, indices, input_fn, given, objects),
            "test": FixedBatch(num_samples, choose, indices, input_fn, given, in_test),
        }
        self._key = self._generate_state_key(
            name=name, num_samples=self.num_shown, choose=choose, samples=indices, dataloader_idx=dataloader_idx
        )
        self._since: float | None = None
        self._first_step: int | None = None
        self._periods_shown = 0
        self._scalars: dict[str, float] = {}
        self._unlogged = 0.0
        self._begin_run()

    @property
    @abstractmethod
    def _tags(self) -> set[str]:
        """The tags of the pictures, so that two callbacks do not write under the same."""

    @abstractmethod
    def _draw(self, turn: Turn) -> Pictures:
        """The pictures by the last part of their tags; numbers may be added to `_scalars`."""

    def _acts(self, turn: Turn) -> list[Callable[[], Pictures]]:
        """What is done, in this order, before the pictures are logged; see `_show`."""
        return [partial(self._draw, turn)]

    @abstractmethod
    def _check(self, pl_module: LightningModule) -> None:
        """Refuse what cannot work with this module."""

    def _end_turn(self) -> None:  # most keep nothing from one act to the next
        """Let go of what the acts of a turn had in common."""

    def _forget(self) -> None:  # most have nothing to let go of
        """Let go of the model."""

    @property
    def state_key(self) -> str:
        """By the name and by what selects the samples: a resumed run may add methods and still show the same ones."""
        return self._key

    def state_dict(self) -> dict[str, Any]:
        """The samples, so that a resumed run shows the same ones."""
        return {stage: batch.state_dict() for stage, batch in self._batches.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the samples of the checkpoint."""
        for stage, batch in self._batches.items():
            batch.load_state_dict(state_dict.get(stage, {}))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before anything runs."""
        if isinstance(trainer.strategy, SHARDED_STRATEGIES):
            raise ValueError(
                f"{type(self).__name__} needs the whole model on one rank, which {type(trainer.strategy).__name__} "
                "does not keep. Use a strategy that does, such as 'ddp', or train without this callback."
            )
        self._begin_run()
        for batch in self._batches.values():
            batch.reset()  # another run may have other data; a checkpoint's samples are loaded after this
        for other in _picture_callbacks(trainer):
            shared = self._tags & other._tags
            if shared and other is not self:
                raise ValueError(
                    f"Expected the callbacks of a Trainer to log under different tags, got {min(shared)!r} twice. "
                    "Give one of them another `name=...`."
                )
        if not trainer.loggers:
            rank_zero_warn(
                f"{type(self).__name__} has no logger to write pictures to, so it shows nothing. Give the Trainer one: "
                "`Trainer(logger=TensorBoardLogger('logs'))`."
            )
        if not overrides(pl_module, "configure_model"):  # else the layers are made after this
            self._check(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time of the first epoch starts."""
        self._first_step = trainer.global_step
        self._since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where no validation has ever run."""
        if not self._has_validated:
            rank_zero_warn(
                f"{type(self).__name__} works at the end of each validation, and this run had none: give the Trainer a "
                "validation loader that is not empty, define `validation_step`, and leave `limit_val_batches` above 0 "
                "and `check_val_every_n_epoch` at or below `max_epochs`."
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run over the validation stream starts."""
        self._batches["validate"].begin()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run over the test stream starts."""
        self._batches["test"].begin()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the samples as the batch passes."""
        self._capture("validate", trainer, pl_module, batch, dataloader_idx)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the samples as the batch passes."""
        self._capture("test", trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples and log the pictures."""
        if trainer.sanity_checking:
            # a resumed run is sanity checked too; there the pass only brings out errors before the first step
            self._finish("validate", trainer, pl_module, logs=self.log_untrained and trainer.global_step == 0)
            self._scalars = {}  # nothing is logged in sanity checking
            return
        if trainer.state.fn != "fit":
            self._finish("validate", trainer, pl_module)
            self._log_scalars(trainer, pl_module)
            return
        self._has_validated = True
        # also where validation itself comes only every so many epochs, and just misses the one
        periods, into = divmod(trainer.current_epoch + 1, self.every_n_epochs)
        is_due = into == 0 or periods > self._periods_shown
        self._periods_shown = periods
        self._finish("validate", trainer, pl_module, is_due=is_due)
        peers = self._peers(trainer)
        self._unlogged += self._guard.seconds
        if self is peers[-1]:  # of those that share a name, the last logs the time of all
            self._scalars["seconds"] = sum(peer._unlogged for peer in peers)
            for peer in peers:
                peer._unlogged = 0.0
        self._log_scalars(trainer, pl_module)
        self._guard.seconds, self._since = 0.0, time.perf_counter()

    def _log_scalars(self, trainer: Trainer, pl_module: LightningModule, suffix: str = "") -> None:
        """All ranks log what rank 0 measured, so that callbacks on all ranks can monitor it."""
        for scalar, value in trainer.strategy.broadcast(self._scalars).items():
            pl_module.log(f"{self.name}/{scalar}{suffix}", value, on_step=False, on_epoch=True)
        self._scalars = {}

    def _peers(self, trainer: Trainer) -> list[PictureCallback]:
        """The callbacks of the trainer that log under the same name, in their order."""
        return [other for other in _picture_callbacks(trainer) if other.name == self.name]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the samples of the test stream and log the pictures."""
        self._finish("test", trainer, pl_module)
        self._log_scalars(trainer, pl_module, "/test")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the model."""
        self._forget()

    def _begin_run(self) -> None:
        """Forget what belongs to one run of a trainer."""
        self._scalars = {}
        self._guard = Guard(type(self).__name__, raises=self.on_error == "raise", audit=self.audit)
        self._budget = Budget(self.max_fraction)
        self._forget()
        self._has_validated = False
        self._periods_shown = 0
        self._first_step = None
        self._since = None

    def _is_fresh(self, trainer: Trainer) -> bool:
        return (trainer.global_step if self._first_step is None else self._first_step) == 0

    def _capture(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, batch: Any, dataloader_idx: int
    ) -> None:
        if not trainer.is_global_zero or dataloader_idx != self.dataloader_idx:
            return
        for samples in self._collected(stage):
            if samples.fixed is None:
                self._guarded(trainer, pl_module, partial(samples.offer, batch))

    def _collected(self, stage: str) -> list[FixedBatch]:
        """What is collected from the stream."""
        return [self._batches[stage]]

    def _finish(
        self, stage: str, trainer: Trainer, pl_module: LightningModule, *, is_due: bool = True, logs: bool = True
    ) -> None:
        """The stream has passed: keep the samples, explain them and log the pictures."""
        if not trainer.is_global_zero:
            return
        batch = self._batches[stage]
        loaders = trainer.num_test_batches if stage == "test" else trainer.num_val_batches
        if self.dataloader_idx >= len(loaders):
            self._guarded(trainer, pl_module, partial(self._refuse_loader, len(loaders)))
        whole = not trainer.sanity_checking or _sanity_sees_all(trainer, self.dataloader_idx)
        for collected in self._collected(stage):
            if collected.fixed is None:
                self._guarded(trainer, pl_module, partial(collected.end, whole=whole))
        if not is_due or not trainer.loggers:
            return
        samples = batch.current()
        if samples is None:
            if trainer.sanity_checking and logs:
                rank_zero_info(
                    f"{type(self).__name__}: none of the samples is among the batches of sanity checking, so the "
                    "untrained network is not shown. `Trainer(num_sanity_val_steps=-1)` runs them all."
                )
            return
        shown = samples[: self._affordable(len(samples))]
        if not len(shown):
            return
        spent = self._guard.seconds
        found = trainer.val_dataloaders if stage == "validate" else trainer.test_dataloaders
        dataset = find_dataset(found, self.dataloader_idx)
        turn = Turn(
            stage, trainer, pl_module, shown, len(shown) / len(samples), dataset, logs, is_fresh=self._is_fresh(trainer)
        )
        self._show(stage, trainer, pl_module, self._acts(turn), trainer.loggers if logs else ())
        self._end_turn()
        if self._since is not None:  # sanity checking is the warm-up, which says little of what follows
            self._budget.record(self._guard.seconds - spent, len(shown))

    def _guarded(self, trainer: Trainer, pl_module: LightningModule, step: Callable[[], None]) -> None:
        if not self._guard.run(trainer, pl_module, step):
            self._forget()

    def _show(
        self,
        stage: str,
        trainer: Trainer,
        pl_module: LightningModule,
        acts: Sequence[Callable[[], Pictures]],
        loggers: Sequence[Any],
    ) -> None:
        """Do something, and log the pictures that it makes; what fails does not keep the rest from theirs."""
        pictures: Pictures = {}
        for act in acts:
            self._guarded(trainer, pl_module, partial(_collect, act, pictures))
        suffix = "" if stage == "validate" else f"/{stage}"
        tagged = {f"{self.name}/{tag}{suffix}": picture for tag, picture in pictures.items()}
        for logger in loggers if tagged else ():
            self._guarded(trainer, pl_module, partial(log_pictures, logger, tagged, scalar_step(trainer)))

    def _affordable(self, num_samples: int) -> int:
        """How many samples the time budget allows now."""
        if self._since is None:  # training has not begun
            return num_samples
        was_thinned = self._budget.is_thinned
        rest = time.perf_counter() - self._since - self._guard.seconds
        planned = self._budget.plan(num_samples, rest)
        if self._budget.is_thinned and not was_thinned:
            rank_zero_warn(
                f"{type(self).__name__} would take more than {self.max_fraction:.0%} of the time, so it now shows "
                f"{self._budget.most} of {num_samples} samples"
                + (f", every {self._budget.every} validations." if self._budget.every > 1 else ".")
            )
        return planned

    def _refuse_loader(self, num_loaders: int) -> None:
        raise ValueError(
            f"Expected `dataloader_idx` to be below the number of loaders, {num_loaders}, got {self.dataloader_idx}."
        )


def _collect(act: Callable[[], Pictures], pictures: Pictures) -> None:
    pictures.update(act())


def _picture_callbacks(trainer: Any) -> list[PictureCallback]:
    """Ours among a trainer's callbacks, which its connector sets without any annotation."""
    return [callback for callback in trainer.callbacks if isinstance(callback, PictureCallback)]


def check_names(class_names: Any) -> list[str] | None:
    """The classes' names as a list."""
    if isinstance(class_names, str):
        raise TypeError(f"Expected `class_names` to be a list of names, got the text {class_names!r}.")
    return None if class_names is None else [str(name) for name in class_names]


def _sanity_sees_all(trainer: Trainer, dataloader_idx: int) -> bool:
    """Whether sanity checking ran over the whole validation stream."""
    ran, all_of_it = trainer.num_sanity_val_batches, trainer.num_val_batches
    return dataloader_idx < len(ran) and ran[dataloader_idx] >= all_of_it[dataloader_idx]
