"""A way to train, run with and without the callback, and a witness of all that a training consists of."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import L, TensorBoardLogger, TinyClassifier, data, is_own, loader, trainer

from lightning_saliency.callbacks import Execution, Metrics, SaliencyCallback, Style
from lightning_saliency.callbacks.audit import digest, fingerprint

METHODS = ("cam", "grad_cam", "grad_cam_plus_plus", "eigen_cam", "saliency")
THREE_METHODS = ("cam", "grad_cam", "saliency")  # where the kind of module is the point, to save time
STRICT = Execution(on_error="raise", audit=True)


def call_module(module: L.LightningModule, images: torch.Tensor) -> Any:
    return module(images)


def no_loader() -> None:
    """Return nothing, where the module or the data module makes its own."""


def fit_plainly(runner: L.Trainer, module: L.LightningModule, recipe: "Recipe") -> None:
    runner.fit(module, recipe.train(), recipe.val())


@dataclass(frozen=True)
class Recipe:
    """A way to train; the same in both runs but for the callback. A new one is a row of a group's list."""

    name: str
    module: Callable[[], L.LightningModule] = TinyClassifier
    trainer: dict = field(default_factory=dict)  # its options
    logger: Callable[[Path], Any] = lambda folder: TensorBoardLogger(folder, name="", version="")
    train: Callable[[], Any] = lambda: loader(shuffle=True)
    val: Callable[[], Any] = loader
    fit: Callable[[L.Trainer, L.LightningModule, "Recipe"], None] = fit_plainly
    before: Callable[[], list] = list  # callbacks ahead of ours in the list
    after: Callable[[], list] = list
    around: Callable[[], AbstractContextManager] = nullcontext  # in which the whole run is
    methods: Sequence[str] = METHODS
    options: dict = field(default_factory=dict)  # of the callback; with `methods=None` it has to choose those above
    more: Callable[[], list] = list  # further callbacks of this package, beside it
    more_tags: Sequence[str] = ()  # of their pictures, and of those that options bring
    pictures: int | None = 3  # how many each tag has: before training, and for each of the two epochs
    careless: Callable[[L.LightningModule, torch.Tensor], Any] | None = None  # what alone would change the training
    daily: bool = False  # whether the test command runs it; `pytest -m nightly` runs all
    on_gpu: bool = True  # whether it is a recipe for a GPU too

    def ours(self) -> list[L.Callback]:
        """Return our callbacks, which raise what goes wrong, and audit themselves."""
        everything = {"style": Style(cards="all"), "metrics": Metrics("all")}
        options = {"methods": list(self.methods), "samples": 4, "execution": STRICT} | everything | self.options
        return [SaliencyCallback(**options), *self.more()]


def run(recipe: Recipe, folder: Path, *callbacks: L.Callback) -> dict[str, str]:
    """Train, and return how it has ended."""
    with recipe.around():
        L.seed_everything(3)
        witness = Witness()
        every = [*recipe.before(), *callbacks, *recipe.after(), witness]
        options = {"logger": recipe.logger(folder), "default_root_dir": folder} | recipe.trainer
        runner = trainer(folder, *every, **options)
        recipe.fit(runner, recipe.module(), recipe)
    return witness.ending


class Witness(L.Callback):
    """Notes the samples as training sees them, and at the end all that the training consists of."""

    def __init__(self):
        self.samples = []
        self.ending = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.samples.append(digest([digest(part) for part in tensors(batch)]))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.samples.append(digest([digest(part) for part in tensors(batch)]))

    on_test_batch_start = on_validation_batch_start

    def note(self, trainer, pl_module):
        own = {key: value for key, value in trainer.callback_metrics.items() if not is_own(key)}
        self.ending = fingerprint(trainer, pl_module) | {
            "the order of the samples": digest(self.samples),
            "the user's metrics": digest(own),
        }
        # by their functions: the ids of hooks are counted up over all runs of a process
        self.ending |= {f"the hooks of {name or 'the module'}": digest(hooks) for name, hooks in hooks_of(pl_module)}

    on_train_end = note


def hooks_of(pl_module) -> list[tuple[str, list]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ways = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
    return [
        (
            name,
            [[name_of(hook) for hook in getattr(module, kind, {}).values()] for kind in kinds]
            + [len(getattr(module, way, ())) for way in ways],
        )
        for name, module in pl_module.named_modules()
    ]


def name_of(hook: Callable) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


def tensors(batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if is_dataclass(batch):
        batch = vars(batch)
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


class Careless(L.Callback):
    """After each validation, does with the module itself what a callback does that isolates nothing but random states.

    What it changes can only be what the module keeps: that is how a recipe shows that it can fail.
    """

    def __init__(self, deed: Callable[[L.LightningModule, torch.Tensor], Any]):
        self.deed = deed

    def on_validation_epoch_end(self, trainer, pl_module):
        python_state, numpy_state = random.getstate(), np.random.get_state()
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            self.deed(pl_module, data()[:4][0])
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class Deterministic(TinyClassifier):
    """Draws nothing while it trains: a checkpoint holds no random states, so that nothing else can be resumed."""

    def __init__(self):
        super().__init__()
        self.backbone[3].p = 0.0


def fit(folder, *callbacks, model=None, val=None, ckpt_path=None, seed=3, **options):
    """Train a model that draws nothing while it trains, and return the trainer and the model."""
    L.seed_everything(seed)
    model = Deterministic() if model is None else model
    runner = trainer(folder, *callbacks, **options)
    runner.fit(model, loader(), loader() if val is None else val, ckpt_path=ckpt_path)
    return runner, model
