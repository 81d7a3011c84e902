"""Ways to train, each run with and without the callback, and a witness of all that a training consists of."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from recipe_modules import (
    Batch,
    CallsForward,
    Checkpointed,
    CompiledBackbone,
    CompiledInPlace,
    ConvertsBytes,
    FromCombined,
    Frozen,
    HasOwnHooks,
    LogsInForward,
    Manual,
    NeverEval,
    Pair,
    PopsFromItsBatch,
    Scheduled,
    Structured,
)
from tiny import NUM_CLASSES, L, TinyClassifier, data, loader, trainer
from torch.utils.data import Dataset, TensorDataset

from lightning_saliency.callbacks import Execution, History, Metrics, SaliencyCallback, Samples
from lightning_saliency.callbacks.audit import digest, fingerprint

METHODS = ["cam", "grad_cam", "grad_cam_plus_plus", "eigen_cam", "saliency"]
STRICT = Execution(on_error="raise", audit=True)


class Augmented(Dataset):
    """The tiny data, disturbed through torch's, Python's and NumPy's global random generators."""

    def __init__(self):
        self.images, self.labels = data()[:]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(3, 16, 16) * 0.1 + random.gauss(0, 0.1) + float(np.random.randn()) * 0.1
        return self.images[index] + noise, self.labels[index]


class Sizes(Dataset):
    """Images of three sizes."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 16 + 4 * (index % 3), 20, generator=generator), index % NUM_CLASSES


def as_bytes() -> TensorDataset:
    images, labels = data()[:]
    return TensorDataset(((images + 1) * 80).clamp(0, 255).to(torch.uint8), labels)


def collate(kind: Callable, items):
    images, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return kind(image=images, label=labels)


def squares(batch) -> torch.Tensor:
    """Return where the bright squares of the tiny data are, as boxes."""
    return torch.stack([torch.tensor([1 + 5 * label, 1, 5 + 5 * label, 5]) for label in batch[1].tolist()])


class Deterministic(TinyClassifier):
    """Draws nothing while it trains: a checkpoint holds no random states, so that nothing else can be resumed."""

    def __init__(self):
        super().__init__()
        self.backbone[3].p = 0.0


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
        own = {key: value for key, value in trainer.callback_metrics.items() if not key.startswith("saliency/")}
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
            [[hook.__qualname__ for hook in getattr(module, kind).values()] for kind in kinds]
            + [len(getattr(module, way)) for way in ways],
        )
        for name, module in pl_module.named_modules()
    ]


def tensors(batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if is_dataclass(batch):
        batch = vars(batch)
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


@dataclass
class Recipe:
    """A way to train; the same in both runs but for the callback."""

    name: str
    module: Callable[[], L.LightningModule] = TinyClassifier
    trainer: dict = field(default_factory=dict)
    train: Callable[[], Any] = lambda: loader(shuffle=True)
    val: Callable[[], Any] = loader
    before: Callable[[], list] = list  # callbacks ahead of ours in the list
    after: Callable[[], list] = list
    pictures: int | None = 3  # how many each tag has: before training, and for each of the two epochs
    options: dict = field(default_factory=dict)  # of the callback

    def callback(self) -> SaliencyCallback:
        """Return a callback that raises what goes wrong, and audits itself."""
        return SaliencyCallback(METHODS, **({"samples": 4, "execution": STRICT} | self.options))


def run(recipe: Recipe, folder, *callbacks) -> dict[str, str]:
    """Train, and return how it has ended."""
    L.seed_everything(3)
    witness = Witness()
    every = [*recipe.before(), *callbacks, *recipe.after(), witness]
    trainer(folder, *every, **recipe.trainer).fit(recipe.module(), recipe.train(), recipe.val())
    return witness.ending


def ema():
    return [L.callbacks.WeightAveraging(device="cpu")]


def both(make: Callable[..., Any], **options) -> dict[str, Callable[[], Any]]:
    """Loaders of training and validation that are made alike."""
    return {"train": lambda: make(shuffle=True, **options), "val": lambda: make(**options)}


RECIPES = [
    Recipe("plain"),
    Recipe(
        "dropout, BatchNorm, shuffling, augmentation through torch, Python and NumPy",
        **both(lambda **options: loader(Augmented(), **options)),
    ),
    Recipe(
        "accumulation with validation in mid-window",
        trainer={"accumulate_grad_batches": 2, "val_check_interval": 1},
        pictures=7,
    ),
    Recipe("a forward that logs, counts and keeps features", LogsInForward),
    Recipe("manual optimization, one optimizer", Manual),
    Recipe("manual optimization, two optimizers", partial(Manual, 2)),
    Recipe("gradient clipping", trainer={"gradient_clip_val": 0.1}),
    Recipe("a scheduler that reads val_loss", Scheduled),
    Recipe("frozen layers and BatchNorm in eval", Frozen),
    Recipe("validation in train mode", NeverEval),
    Recipe("bf16-mixed", trainer={"precision": "bf16-mixed"}),
    Recipe("bf16-true", trainer={"precision": "bf16-true"}),
    Recipe("64-true", trainer={"precision": "64-true"}),
    Recipe("a compiled part", CompiledBackbone),
    Recipe("a module compiled before", lambda: torch.compile(TinyClassifier(), backend="eager")),
    Recipe("a module compiled in place", CompiledInPlace),
    Recipe("hooks of its own on the explained part", HasOwnHooks),
    Recipe("a step that calls forward itself", CallsForward),
    Recipe(
        "a forward that takes the images out of its batch",
        PopsFromItsBatch,
        **both(loader, collate_fn=partial(collate, dict)),
    ),
    Recipe("uint8 images", ConvertsBytes, **both(lambda **options: loader(as_bytes(), **options))),
    Recipe(
        "images of several sizes",
        **both(lambda **options: loader(Sizes(), batch_size=1, **options)),
    ),
    Recipe("non-reentrant checkpointing", Checkpointed),
    Recipe("weight averaging before ours", before=ema),
    Recipe("weight averaging after ours", after=ema),
    Recipe("persistent workers", **both(loader, num_workers=1, persistent_workers=True)),
    Recipe("overfit_batches", trainer={"overfit_batches": 1}),
    Recipe("limit_val_batches", trainer={"limit_val_batches": 1}),
    Recipe("check_val_every_n_epoch", trainer={"check_val_every_n_epoch": 2}, pictures=2),
    Recipe("no sanity checking", trainer={"num_sanity_val_steps": 0}, pictures=2),
    Recipe("fast_dev_run", trainer={"fast_dev_run": True, "logger": True}, pictures=None),
    Recipe("several validation loaders", val=lambda: [loader(), loader(batch_size=4)]),
    Recipe(
        "a CombinedLoader",
        FromCombined,
        val=lambda: L.utilities.combined_loader.CombinedLoader({"a": loader(), "b": loader()}, "min_size"),
    ),
    *(
        Recipe(f"{kind.__name__} batches", Structured, **both(loader, collate_fn=partial(collate, kind)))
        for kind in (dict, Pair, Batch)
    ),
    Recipe(
        "all that can be measured",
        LogsInForward,
        options={
            "samples": Samples(num=4, objects=squares),
            "metrics": Metrics(samples=6, faithfulness=True, randomization_every_n_epochs=1),
            "history": History(animation_every_n_epochs=1),
        },
    ),
    Recipe(
        "a time budget, which this tiny training overruns",
        pictures=None,
        options={"execution": Execution(on_error="raise", audit=True, max_fraction=0.5)},
    ),
]


def fit(folder, *callbacks, model=None, val=None, ckpt_path=None, seed=3, **options):
    """Train a model that draws nothing while it trains, and return the trainer and the model."""
    L.seed_everything(seed)
    model = Deterministic() if model is None else model
    runner = trainer(folder, *callbacks, **options)
    runner.fit(model, loader(), loader() if val is None else val, ckpt_path=ckpt_path)
    return runner, model
