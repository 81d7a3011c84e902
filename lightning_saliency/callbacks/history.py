"""What a run has shown, as it grows: its record, and the filmstrips and animations that are drawn from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_saliency.callbacks.base import Pictures, Turn
from lightning_saliency.explain import Explanation
from lightning_saliency.loggers import run_folder, scalar_step
from lightning_saliency.record import SUFFIX, Moment, Record, RecordWriter
from lightning_saliency.visualization import Style, animation, filmstrip, find_names, to_pictures


@dataclass
class History:
    """Keeps the record of a run beside its event file.

    Attributes:
        name: Of the callback: the record is `<name>.record`, the animations are `<name>/<method>/animation.gif`.
        look: How the pictures look.
        animation_every_n_epochs: How often to make the animations before the end; None for at the end only.
    """

    name: str
    look: Style
    animation_every_n_epochs: int | None = None
    _writer: RecordWriter | None = field(default=None, init=False)
    _earlier: Path | None = field(default=None, init=False)
    _drawn_at: int = field(default=0, init=False)

    def reset(self) -> None:
        """Forget what belongs to one run."""
        self._writer = self._earlier = None
        self._drawn_at = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the record is, so that a resumed run that has another folder takes it along."""
        return {"path": None if self._writer is None else str(self._writer.record.path)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it."""
        self._earlier = Path(state["path"]) if state.get("path") else None

    def add(
        self, turn: Turn, explanation: Explanation, scalars: Mapping[str, float], explained: str, file: str
    ) -> Pictures:
        """Write a turn down, and draw what is due.

        Args:
            turn: In a training, or before it.
            explanation: Of its samples.
            scalars: What was measured.
            explained: In words, which class is explained.
            file: The record's name without its suffix.
        """
        writer = self._writer or self._open(turn, file)
        if writer is None:
            return {}
        samples, count = turn.samples, len(turn.samples)
        writer.write_samples(
            to_pictures(samples.images, self.look, turn.dataset),
            [None] * count if samples.labels is None else samples.labels.tolist(),
            samples.places,
            find_names(self.look, turn.dataset).names,
            anew=self._writer is None and turn.is_fresh,
        )
        self._writer = writer
        writer.write(
            Moment(
                None if turn.is_untrained else turn.trainer.current_epoch,
                scalar_step(turn.trainer),
                samples.places,
                explanation.attributions,
                explanation.logits,
                explanation.classes,
                dict(scalars),
                list(explanation.layers),
                explained,
            )
        )
        pictures: Pictures = {}
        moments = len(writer.record)
        if moments >= 2 and 3 * moments >= 4 * self._drawn_at:  # ever more rarely: each time all are drawn anew
            pictures |= self._filmstrips(writer.record)
        every = self.animation_every_n_epochs
        if every and not turn.is_untrained and (turn.trainer.current_epoch + 1) % every == 0:
            pictures |= self._animations(writer.record)
        return pictures

    def end(self) -> Pictures:
        """The last filmstrips, and the animations."""
        record = None if self._writer is None else self._writer.record
        if not record:
            return {}
        pictures = self._filmstrips(record) if len(record) > self._drawn_at else {}
        return pictures | self._animations(record)

    def _open(self, turn: Turn, file: str) -> RecordWriter | None:
        """The run's record, which a resumed run goes on with; None where no logger has a folder."""
        folder = run_folder(turn.trainer.loggers)
        if folder is None:
            return None
        path = Path(folder, f"{file}{SUFFIX}")
        if self._earlier is not None and self._earlier.exists() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._earlier, path)
        return RecordWriter(path)

    def _filmstrips(self, record: Record) -> Pictures:
        self._drawn_at = len(record)
        return {f"{key}/filmstrip": filmstrip(record, key, style=self.look) for key in record[-1].attributions}

    def _animations(self, record: Record) -> Pictures:
        made: Pictures = {}
        for key in record[-1].attributions:
            path = record.path.parent / self.name / key / "animation.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(animation(record, key, style=self.look))
            made[f"{key}/animation"] = path
        return made
