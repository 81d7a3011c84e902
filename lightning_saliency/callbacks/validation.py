"""Whether a training has validations at all, as far as its trainer knows when it begins."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_saliency._lightning import Trainer, overrides
from lightning_saliency.data import find_dataset, find_loader, find_stream_labels


def why_never_validated(trainer: Any) -> str:
    """Return in words why a training will certainly have no validation, and what to do; empty where it may have one.

    To be called in `on_train_start`, when the trainer has asked for the loaders. What else ends a training before its
    first validation, such as `max_steps`, is only seen at its end.
    """
    every, num_epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if not trainer.enable_validation:
        return _why_disabled(trainer)
    if every and num_epochs not in (None, -1) and num_epochs // every <= trainer.current_epoch // every:
        return f"`check_val_every_n_epoch={every}` is more than the epochs to come. Lower it"
    if trainer.val_dataloaders is not None and not getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
        return "" if sum(trainer.num_val_batches) else "its loader is empty. Give `trainer.fit` one that is not"
    return ""


def _why_disabled(trainer: Any) -> str:
    if not overrides(trainer.lightning_module, "validation_step"):
        return f"{type(trainer.lightning_module).__name__} defines no `validation_step`. Define one"
    if trainer.limit_val_batches == 0:
        return "`limit_val_batches` is 0. Leave it above"
    return "there is no validation loader. Give `trainer.fit` one"


def stream_labels(trainer: Any, dataloader_idx: int, *, in_test: bool) -> Tensor | None:
    """Return the labels of the samples that a validation or test loader will give, where they are known beforehand."""
    loaders = trainer.test_dataloaders if in_test else trainer.val_dataloaders
    num_batches = trainer.num_test_batches if in_test else trainer.num_val_batches
    loader = find_loader(loaders, dataloader_idx)
    labels = find_stream_labels(loader)
    batch_size = getattr(loader, "batch_size", None)
    if labels is None or batch_size is None or dataloader_idx >= len(num_batches):
        return None
    num_run = num_batches[dataloader_idx]
    return labels if num_run == float("inf") else labels[: int(num_run) * batch_size]


def dataset_of(trainer: Trainer, dataloader_idx: int, *, in_test: bool) -> Any:
    """Return the data set of a trainer's validation or test loader; else that of its training loader."""
    loaders = trainer.test_dataloaders if in_test else trainer.val_dataloaders
    return find_dataset(trainer.train_dataloader) if loaders is None else find_dataset(loaders, dataloader_idx)
