"""`HistoryOutput`: writes the record of a run, and draws filmstrips and animations from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, TypeAlias
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency._names import to_file_name
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.callbacks.options import History
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.data import Answer
from lightning_saliency.history import Record, RecordedLook, RecordedSamples, RecordWriter
from lightning_saliency.history.folders import Folder, LocalFolder, open_folder
from lightning_saliency.history.looks import NO_BOXES
from lightning_saliency.history.record import SUFFIX
from lightning_saliency.loggers import run_folder
from lightning_saliency.visualization import (
    Style,
    animation,
    filmstrip,
    find_sample_names,
    method_title,
    pixel_scale_of,
)

_ANIMATION = "animation.gif"

_MOST_BOXES = 4
"""Of what is detected in an image in the record: as many classes as a caption names, and the explained one."""

_OwnBoxes: TypeAlias = tuple[NDArray[np.float32], tuple[int, ...]]
"""The boxes of a sample, `(k, 4)`, and their classes."""


class HistoryOutput(Output):
    """Writes the record of a run beside its event file, and draws filmstrips and animations from it.

    Args:
        name: The callback's name: the record is `<name>.record`, the animations are `<name>/<method>/animation.gif`.
        options: How often animations are made.
        style: How the pictures look.
    """

    key = "history"

    def __init__(self, name: str, options: History, style: Style) -> None:
        self.name = name
        self.options = options
        self.style = style
        self._writer: RecordWriter | None = None
        self._state: dict[str, Any] | None = None
        self._run_folder = ""
        self._last_step = 0
        self._drawn_looks = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has of this output: where the record is, but not the writer."""
        return {**vars(self), "_state": self.state_dict() or None, "_writer": None}

    def reset(self) -> None:
        """Prepare for another run, which begins a record of its own."""
        self._state = None
        self._writer = None
        self._drawn_looks = 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the record is and the step of its last look, so that a resumed run continues from there."""
        return (self._state or {}) if self._writer is None else self._writer.state_dict() | {"step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint, from which the record is gone on with."""
        self._state = dict(state) or None
        self._writer = None

    def wants(self, look: Look) -> bool:
        """Whether a look belongs to a training and is logged; not one that runs a batch or two as a test."""
        return look.in_fit and look.is_logged and not getattr(look.trainer, "fast_dev_run", False)

    def __call__(self, look: Look) -> Logged:
        """Write a look to the record, and draw the pictures that are due."""
        writer = self._writer_for(look)
        writer.write(_recorded(look))
        self._last_step = look.step
        pictures: dict[str, Tensor | Path] = {}
        count = len(writer.record)
        # less and less often, since each time all looks are drawn
        if count >= 2 and 3 * count >= 4 * self._drawn_looks:
            pictures |= self._filmstrips(writer.record)
        every = self.options.animation_every_n_epochs
        if every and look.epoch is not None and (look.epoch + 1) % every == 0:
            pictures |= self._animations(writer.record)
        return Logged(pictures=pictures)

    def end(self, loggers: Sequence[Any]) -> Logged:
        """Draw the last filmstrips, and make the animations."""
        if self._writer is None or not len(self._writer.record):
            return Logged()
        record = self._writer.record
        pictures = self._filmstrips(record) if len(record) > self._drawn_looks else {}
        return Logged(pictures=pictures | self._animations(record))

    @property
    def record(self) -> Record | None:
        """What has been written; None before the first look."""
        return None if self._writer is None else self._writer.record

    def put(self, record: Record, suffix: str, content: bytes) -> Path:
        """Write a file beside the record, under its name; if that is a remote store, also a copy on this machine.

        Args:
            record: The record.
            suffix: What follows its name: of a file as `".html"`, of one in a folder as `"/cam/film.gif"`.
            content: The file.

        Returns:
            The file, or its copy.
        """
        folders: list[Folder] = [open_folder(self._run_folder)]
        if not isinstance(folders[0], LocalFolder):
            copies = mkdtemp()
            finalize(self, rmtree, copies, ignore_errors=True)
            folders.append(LocalFolder(copies))
        above, slash, _ = self.name.rpartition("/")
        own_name = record.path.rpartition("/")[2].removesuffix(SUFFIX)  # another run's may be beside it
        below, _, name = f"{above}{slash}{own_name}{suffix}".rpartition("/")
        places = [folder.child(below) if below else folder for folder in folders]
        for place in places:
            place.make()
            place.sweep()
            place.put(name, content)
        return Path(places[-1].file_path(name))

    def _writer_for(self, look: Look) -> RecordWriter:
        """Return the writer of the record, with the look's samples written."""
        folder = run_folder(look.trainer.loggers, look.trainer.default_root_dir)
        if self._writer is None or folder != self._run_folder:
            state = self.state_dict() or None
            resumed_step = None if state is None else state["step"]
            name = f"{self.name}.{look.index}" if look.index else self.name
            self._writer = RecordWriter(folder, self._samples(look), name=name, state=state, resumed_step=resumed_step)
            self._run_folder = folder
        else:
            recorded = self._writer.record.samples
            if recorded is None or not set(look.samples.positions) <= set(recorded.positions):
                self._writer.write_samples(self._samples(look))
        return self._writer

    def _samples(self, look: Look) -> RecordedSamples:
        images: dict[int, Any] = {}
        labels: dict[int, Answer | None] = {}
        objects: dict[int, _OwnBoxes] = {}
        scale = pixel_scale_of(look.explained, self.style, look.dataset, look.modules)
        for group in look.explained:
            pictures = scale(group.explanation.images).numpy()
            images |= dict(zip(group.samples.positions, pictures, strict=True))
            labels |= dict(zip(group.samples.positions, group.samples.truths, strict=True))
            objects |= dict(zip(group.samples.positions, _true_boxes(group), strict=True))
        names = find_sample_names(look.explained, self.style, look.dataset, look.modules).names
        positions = tuple(sorted(images))
        return RecordedSamples(
            positions,
            tuple(images[position] for position in positions),
            tuple(labels[position] for position in positions),
            None if names is None else tuple(names),
            *_columns([objects[position] for position in positions]),
        )

    def _filmstrips(self, record: Record) -> dict[str, Tensor | Path]:
        self._drawn_looks = len(record)
        return {f"{key}/filmstrip": filmstrip(record, key, style=self.style) for key in self._shown(record)}

    def _shown(self, record: Record) -> list[str]:
        """Return the maps that are drawn: of the first method, or where the style wants all cards of each."""
        keys = list(record[-1].attributions)
        return keys if self.style.cards == "all" else keys[:1]

    def _animations(self, record: Record) -> dict[str, Tensor | Path]:
        """Draw the animations, and put them beside the record."""
        return {
            f"{key}/animation": self.put(
                record, f"/{to_file_name(key)}/{_ANIMATION}", animation(record, key, style=self.style)
            )
            for key in self._shown(record)
        }


def _recorded(look: Look) -> RecordedLook:
    """Return a look as it is written to the record: sample by sample, in the order of their positions."""
    groups = look.explained
    positions = [position for group in groups for position in group.samples.positions]
    order = sorted(range(len(positions)), key=positions.__getitem__)

    def in_order(values: list[Any]) -> tuple[Any, ...]:
        return tuple(values[index] for index in order)

    def of_each(read: Any) -> tuple[Any, ...]:
        return in_order([value for group in groups for value in read(group)])

    explanations = [group.explanation for group in groups]
    boxes, box_classes = _columns(of_each(_detected_boxes))
    keys = list(explanations[0].attributions)
    return RecordedLook(
        epoch=look.epoch,
        step=look.step,
        positions=tuple(sorted(positions)),
        predictions=of_each(lambda group: group.explanation.answers),
        probabilities=of_each(lambda group: group.explanation.confidences),
        classes=of_each(
            lambda group: (
                [None] * len(group)
                if group.explanation.classes is None
                else [None if index < 0 else index for index in group.explanation.classes.tolist()]
            )
        ),
        reasons={key: of_each(lambda group, key=key: group.heatmaps("max")[key].reasons) for key in keys},
        titles={key: method_title(key) for key in keys},
        fine=frozenset(key for key in keys if all(explanation.is_fine(key) for explanation in explanations)),
        attributions={
            key: of_each(lambda group, key=key: group.explanation.attributions[key][:, 0].cpu().float().numpy())
            for key in keys
        },
        logits=np.stack(of_each(lambda group: group.explanation.logits.cpu().float().numpy())),
        scalars=dict(look.scalars),
        layers=explanations[0].layers,
        explained=look.target,
        task=explanations[0].task.name,
        num_axes=explanations[0].images.dim() - 2,
        boxes=boxes,
        box_classes=box_classes,
    )


def _columns(of_each: Sequence[_OwnBoxes]) -> tuple[tuple[NDArray[np.float32], ...], tuple[tuple[int, ...], ...]]:
    """Return the boxes of each sample, and their classes; none where no sample has any."""
    if not any(classes for _, classes in of_each):
        return (), ()
    return tuple(corners for corners, _ in of_each), tuple(classes for _, classes in of_each)


def _true_boxes(group: ExplainedSamples) -> list[_OwnBoxes]:
    objects = group.samples.objects or (None,) * len(group)
    return [(NO_BOXES, ()) if own is None else (own.corners.numpy(), tuple(own.classes.tolist())) for own in objects]


def _detected_boxes(group: ExplainedSamples) -> list[_OwnBoxes]:
    """Return of each sample the best box of the explained class, then those of the other predicted classes."""
    explanation = group.explanation
    if explanation.boxes is None or explanation.classes is None:
        return [(NO_BOXES, ())] * len(group)
    found: list[_OwnBoxes] = []
    for boxes, index, answer in zip(
        explanation.boxes.cpu().float().numpy(), explanation.classes.tolist(), explanation.answers, strict=True
    ):
        wanted = dict.fromkeys((index, *map(int, answer))) if isinstance(answer, tuple) else {}
        classes = [one for one in wanted if one >= 0 and np.isfinite(boxes[one]).all()][:_MOST_BOXES]
        found.append((boxes[classes].reshape(-1, 4), tuple(classes)))
    return found
