"""A run on two processes, started by test_ddp.py: `ddp_run.py FOLDER STRATEGY MODE`; a file from each rank."""

import copy
import json
import sys
from pathlib import Path

import torch
from tiny import L, TinyClassifier, data, loader, trainer

from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.callbacks import Execution, Metrics, Style
from lightning_saliency.callbacks.audit import digest, fingerprint


class Ending(L.Callback):
    """Writes down how the run ended on this rank."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        parts = fingerprint(trainer, pl_module)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        Path(self.folder, f"rank{trainer.global_rank}.json").write_text(json.dumps([parts, metrics]))


class Leaves(Ending):
    """Also explains on one rank alone."""

    def on_train_end(self, trainer, pl_module):
        super().on_train_end(trainer, pl_module)
        # alone, while the other rank waits for nothing: synchronized BatchNorm must not sync
        if trainer.is_global_zero:
            images, labels = data()[:4]
            synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(pl_module))
            assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in synced.modules())
            maps, same = (explain(m.train(), images, target=labels, layer="backbone") for m in (synced, pl_module))
            assert digest(maps.attributions) == digest(same.attributions)


class Gathers(TinyClassifier):
    """Compares each image's features with those of the images on all ranks, as contrastive losses do."""

    def forward(self, images):
        logits = super().forward(images)
        everywhere = self.all_gather(logits.detach().mean(0))
        return logits - 0.1 * everywhere.reshape(-1, logits.shape[1]).mean(0)


def gathers(folder: str, strategy: str, mode: str) -> None:
    """Train a module that one rank alone cannot run."""
    L.seed_everything(3)
    callbacks = [SaliencyCallback(samples=4)] if mode == "gathers with" else []
    trainer(Path(folder), *callbacks, Ending(folder), strategy=strategy, devices=2).fit(
        Gathers(), loader(shuffle=True, batch_size=4), loader(batch_size=4)
    )


def main(folder: str, strategy: str, mode: str) -> None:
    L.seed_everything(3)
    ours = SaliencyCallback(
        ["cam", "saliency"],
        samples=4,
        metrics=Metrics(samples=6, faithfulness=True, randomization_every_n_epochs=1),
        style=Style(cards="all"),
        execution=Execution(on_error="raise", audit=True),
    )
    monitors = [
        L.callbacks.EarlyStopping("xai_saliency/seconds", patience=9, check_on_train_epoch_end=False, strict=True),
        L.callbacks.EarlyStopping("xai_saliency/cam/entropy", patience=9, check_on_train_epoch_end=False, strict=True),
        L.callbacks.ModelCheckpoint(folder, filename="best", monitor="xai_saliency/cam/rank_correlation_previous"),
    ]
    callbacks = [ours, *monitors] if mode == "with" else []
    trainer(
        Path(folder), *callbacks, Leaves(folder), strategy=strategy, devices=2, enable_checkpointing=mode == "with"
    ).fit(TinyClassifier(), loader(shuffle=True, batch_size=4), loader(batch_size=4))


if __name__ == "__main__":
    (gathers if "gathers" in sys.argv[3] else main)(*sys.argv[1:])
