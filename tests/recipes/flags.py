"""Lightning's flags, precisions, tuners and callbacks."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from tiny import L, TinyClassifier, data, loader

from lightning_saliency.callbacks import Execution

from .batches import Augmented, both
from .forwards import LogsAndKeeps
from .recipe import Recipe, fit_plainly, no_loader

Tuner, callbacks = L.tuner.Tuner, L.callbacks


class Tuned(TinyClassifier):
    """Has the two attributes that tuners set, and an example for the summary."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 1e-3, 2
        self.example_input_array = data()[:1][0]

    def train_dataloader(self):
        return loader(batch_size=self.batch_size, shuffle=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def find_learning_rate(runner, module, recipe):
    Tuner(runner).lr_find(module, val_dataloaders=loader(), num_training=8)
    runner.fit(module, val_dataloaders=loader())


def find_batch_size(runner, module, recipe):
    Tuner(runner).scale_batch_size(module, val_dataloaders=loader(), max_trials=2, steps_per_trial=1)
    runner.fit(module, val_dataloaders=loader())


def validate_first(runner, module, recipe):
    runner.validate(module, loader(), verbose=False)
    fit_plainly(runner, module, recipe)


class Unfreezes(callbacks.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


@contextmanager
def undecided():
    """Put torch's choice between deterministic and fast functions back, which the Trainer's flag leaves set."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


def ema() -> list:
    return [callbacks.WeightAveraging(device="cpu")]


def swa() -> list:
    return [callbacks.StochasticWeightAveraging(1e-2, swa_epoch_start=1)]


def beside(name: str, callback: Callable[..., L.Callback], module: type = TinyClassifier, **options: Any) -> Recipe:
    """Return the recipe of a callback of Lightning's, with its options, that stands before ours."""
    train = Recipe.train if module is TinyClassifier else no_loader  # whose module makes its own
    trainer = {"enable_checkpointing": callback is callbacks.ModelCheckpoint}
    return Recipe(name, module, trainer, train=train, before=lambda: [callback(**options)])


def flag(**options: Any) -> Recipe:
    """Return the recipe of flags of the Trainer, named by them; `pictures` is the recipe's."""
    recipe = {key: options.pop(key) for key in ("pictures", "around", "daily", "options") if key in options}
    text = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return Recipe(text, trainer=options, **recipe)


# The first four are also trained with every method and every callback.
USUAL = [
    Recipe("plain", daily=True),
    Recipe(
        "dropout, BatchNorm, shuffling, augmentation through torch, Python and NumPy",
        **both(lambda **options: loader(Augmented(), **options)),
        daily=True,
    ),
    Recipe(
        "accumulation with validation in mid-window",
        trainer={"accumulate_grad_batches": 2, "val_check_interval": 1},
        pictures=7,
    ),
    Recipe("a forward that logs, counts and keeps features", LogsAndKeeps, daily=True),
]

FLAGS = [
    flag(accumulate_grad_batches=3),
    flag(overfit_batches=1),
    flag(overfit_batches=0.5),
    flag(limit_train_batches=2),
    flag(limit_val_batches=1),
    flag(limit_val_batches=0.7),
    flag(limit_val_batches=0, pictures=None),
    flag(check_val_every_n_epoch=2, pictures=2),
    flag(check_val_every_n_epoch=None, val_check_interval=4, pictures=2),
    flag(val_check_interval=2),
    flag(val_check_interval=0.34, pictures=7),
    flag(num_sanity_val_steps=0),
    flag(num_sanity_val_steps=-1, daily=True),
    flag(fast_dev_run=True, logger=True, pictures=None),
    flag(fast_dev_run=2, logger=True, pictures=None),
    flag(max_steps=4, max_epochs=-1, pictures=2),
    flag(min_steps=4, max_epochs=1, pictures=2),
    flag(max_time="00:01:00:00"),
    flag(detect_anomaly=True),
    flag(deterministic=True, around=undecided),
    flag(deterministic="warn", benchmark=True, around=undecided),
    flag(inference_mode=False),
    flag(use_distributed_sampler=False),
    flag(reload_dataloaders_every_n_epochs=1),
    flag(log_every_n_steps=50),
    flag(profiler="simple"),
    flag(profiler="advanced"),
    flag(barebones=True, logger=None, log_every_n_steps=0, pictures=None, options={"execution": Execution()}),
    flag(logger=False, pictures=None),
    flag(enable_progress_bar=True, enable_checkpointing=True),
    Recipe("a model summary with an example", Tuned, trainer={"enable_model_summary": True}, train=no_loader),
    Recipe("validation before the training", fit=validate_first, pictures=4),
]

PRECISIONS = [
    flag(precision="bf16-mixed", daily=True),
    flag(precision="bf16-true"),
    flag(precision="64-true"),
]

CALLBACKS = [
    Recipe("WeightAveraging before ours", before=ema, daily=True),
    Recipe("WeightAveraging after ours", after=ema),
    Recipe("StochasticWeightAveraging, and its epoch more", before=swa, pictures=4),
    beside("ModelPruning", callbacks.ModelPruning, pruning_fn="l1_unstructured", amount=0.3),
    beside("ModelPruning, at random", callbacks.ModelPruning, pruning_fn="random_unstructured", amount=0.3),
    beside("GradientAccumulationScheduler", callbacks.GradientAccumulationScheduler, scheduling={0: 1, 1: 2}),
    beside("BackboneFinetuning", callbacks.BackboneFinetuning, unfreeze_backbone_at_epoch=1),
    beside("a finetuning callback", Unfreezes),
    beside("Timer", callbacks.Timer, duration={"hours": 1}),
    beside("LearningRateMonitor", callbacks.LearningRateMonitor),
    beside("EarlyStopping on val_loss", callbacks.EarlyStopping, monitor="val_loss", patience=0),
    beside("ModelCheckpoint on val_loss", callbacks.ModelCheckpoint, monitor="val_loss"),
    beside("ModelCheckpoint in mid-epoch", callbacks.ModelCheckpoint, every_n_train_steps=2, save_top_k=-1),
    beside("LearningRateFinder", callbacks.LearningRateFinder, Tuned, num_training_steps=8),
    beside("BatchSizeFinder", callbacks.BatchSizeFinder, Tuned, max_trials=2, steps_per_trial=1),
    Recipe("Tuner.lr_find", Tuned, fit=find_learning_rate),
    Recipe("Tuner.scale_batch_size", Tuned, fit=find_batch_size),
]
