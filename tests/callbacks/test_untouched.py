"""Training with the callback is the training without it: each recipe runs twice, and everything is compared."""

import dataclasses
import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import L, TinyClassifier, data, events, loader, sheets, trainer
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset
from torchmetrics import MeanMetric

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution
from lightning_saliency.callbacks.audit import changed, digest, fingerprint

pytestmark = pytest.mark.filterwarnings("default")  # Lightning advises against many a recipe here
METHODS = ["cam", "grad_cam", "grad_cam_plus_plus", "eigen_cam", "saliency"]


# --- modules


class Augmented(Dataset):
    """The tiny data, disturbed through torch's, Python's and NumPy's global random generators."""

    def __init__(self):
        self.images, self.labels = data()[:]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        noise = torch.randn(3, 16, 16) * 0.1 + random.gauss(0, 0.1) + float(np.random.randn()) * 0.1
        return self.images[index] + noise, self.labels[index]


class Manual(TinyClassifier):
    """Manual optimisation with one optimizer or two, and gradients that live across steps."""

    def __init__(self, optimizers: int = 1):
        super().__init__()
        self.automatic_optimization = False
        self.num_optimizers = optimizers

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / 2)
        if batch_idx % 2:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self):
        if self.num_optimizers == 1:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        parts = (self.backbone, self.head)
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in parts]


class Scheduled(TinyClassifier):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Frozen(TinyClassifier):
    """The first convolution frozen, and BatchNorm kept in eval mode while the rest trains."""

    def __init__(self):
        super().__init__()
        self.backbone[0].requires_grad_(False)

    def on_train_epoch_start(self):
        self.backbone[1].eval()

    def on_validation_model_train(self):
        super().on_validation_model_train()
        self.backbone[1].eval()


class NeverEval(TinyClassifier):
    """Validates in train mode, so that BatchNorm's statistics would move in a pass that is not forced into eval."""

    def on_validation_model_eval(self):
        pass


class Checkpointed(TinyClassifier):
    def forward(self, images):
        return self.head(checkpoint(self.backbone, images, use_reentrant=False))


class CompiledBackbone(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.backbone = torch.compile(self.backbone, backend="eager")


class LogsInForward(TinyClassifier):
    """Logs, counts and keeps features in its forward, which a pass of ours must not add to."""

    def __init__(self):
        super().__init__()
        self.mean_logit = MeanMetric()
        self.seen, self.shapes, self.running = 0, [], torch.zeros(3)

    def forward(self, images):
        self.features = self.backbone(images)
        logits = self.head(self.features)
        self.seen += len(images)
        self.shapes.append(images.shape)
        self.running += logits.detach().float().mean(0)
        if not self.training:
            self.log("logit_in_forward", logits.mean())
            self.mean_logit.update(logits.detach())
        return logits

    def on_validation_epoch_end(self):
        self.log("mean_logit", self.mean_logit.compute())
        self.log("seen", float(self.seen + len(self.shapes)))
        self.log("running", self.running.sum())
        self.mean_logit.reset()


class Structured(TinyClassifier):
    """Reads whatever its batches are."""

    def training_step(self, batch, batch_idx):
        return super().training_step(as_pair(batch), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(as_pair(batch), batch_idx)


Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Record:
    image: torch.Tensor
    label: torch.Tensor


def as_pair(batch: Any):
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    return (batch.image, batch.label) if isinstance(batch, Record) else tuple(batch)


def collate(kind: Callable, items):
    images, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return kind(image=images, label=labels)


# --- the harness


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

    on_train_end = note


def tensors(batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if dataclasses.is_dataclass(batch):
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
    options: dict = field(default_factory=dict)


def squares(batch):
    """Where the bright squares of the tiny data are."""
    return torch.stack([torch.tensor([1 + 5 * label, 1, 5 + 5 * label, 5]) for label in batch[1].tolist()])


def ema():
    return [L.callbacks.WeightAveraging(device="cpu")]


RECIPES = [
    Recipe("plain"),
    Recipe(
        "dropout, BatchNorm, shuffling, augmentation through torch, Python and NumPy",
        train=lambda: loader(Augmented(), shuffle=True),
        val=lambda: loader(Augmented()),
    ),
    Recipe(
        "accumulation with validation in mid-window",
        trainer={"accumulate_grad_batches": 2, "val_check_interval": 1},
        pictures=7,
    ),
    Recipe("a forward that logs, counts and keeps features", LogsInForward),
    Recipe("manual optimisation, one optimizer", Manual),
    Recipe("manual optimisation, two optimizers", partial(Manual, 2)),
    Recipe("gradient clipping", trainer={"gradient_clip_val": 0.1}),
    Recipe("a scheduler that reads val_loss", Scheduled),
    Recipe("frozen layers and BatchNorm in eval", Frozen),
    Recipe("validation in train mode", NeverEval),
    Recipe("bf16-mixed", trainer={"precision": "bf16-mixed"}),
    Recipe("bf16-true", trainer={"precision": "bf16-true"}),
    Recipe("64-true", trainer={"precision": "64-true"}),
    Recipe("a compiled part", CompiledBackbone),
    Recipe("a module compiled before", lambda: torch.compile(TinyClassifier(), backend="eager")),
    Recipe("non-reentrant checkpointing", Checkpointed),
    Recipe("weight averaging before ours", before=ema),
    Recipe("weight averaging after ours", after=ema),
    Recipe(
        "persistent workers",
        train=partial(loader, shuffle=True, num_workers=1, persistent_workers=True),
        val=partial(loader, num_workers=1, persistent_workers=True),
    ),
    Recipe("overfit_batches", trainer={"overfit_batches": 1}),
    Recipe("limit_val_batches", trainer={"limit_val_batches": 1}),
    Recipe("check_val_every_n_epoch", trainer={"check_val_every_n_epoch": 2}, pictures=2),
    Recipe("no sanity checking", trainer={"num_sanity_val_steps": 0}, pictures=2),
    Recipe("fast_dev_run", trainer={"fast_dev_run": True, "logger": True}, pictures=None),
    Recipe("several validation loaders", val=lambda: [loader(), loader(batch_size=4)]),
    Recipe(
        "a CombinedLoader",
        Structured,
        train=lambda: loader(shuffle=True),
        val=lambda: L.utilities.combined_loader.CombinedLoader({"a": loader(), "b": loader()}, "min_size"),
        options={"dataloader_idx": 0},
    ),
    *(
        Recipe(
            f"{kind.__name__} batches",
            Structured,
            train=partial(loader, shuffle=True, collate_fn=partial(collate, kind)),
            val=partial(loader, collate_fn=partial(collate, kind)),
        )
        for kind in (dict, Pair, Record)
    ),
    Recipe(
        "all that can be measured",
        LogsInForward,
        options={
            "objects": squares,
            "metrics_samples": 6,
            "faithfulness": True,
            "sanity_every_n_epochs": 1,
            "animation_every_n_epochs": 1,
        },
    ),
    Recipe("a time budget, which this tiny training overruns", pictures=None, options={"max_fraction": 0.5}),
]


class FromCombined(Structured):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        TinyClassifier.validation_step(self, batch["a"], batch_idx)


next(recipe for recipe in RECIPES if recipe.name == "a CombinedLoader").module = FromCombined


def run(recipe: Recipe, folder, *callbacks) -> dict[str, str]:
    L.seed_everything(3)
    witness = Witness()
    every = [*recipe.before(), *callbacks, *recipe.after(), witness]
    trainer(folder, *every, **recipe.trainer).fit(recipe.module(), recipe.train(), recipe.val())
    return witness.ending


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_training_with_the_callback_is_the_training_without_it(recipe, tmp_path):
    without = run(recipe, tmp_path / "without")
    callback = SaliencyCallback(METHODS, samples=4, execution=Execution(on_error="raise", audit=True), **recipe.options)
    with_callback = run(recipe, tmp_path / "with", callback)
    assert changed(without, with_callback) == []
    assert len(without) > 40
    tags = {f"saliency/{method}" for method in [*METHODS, "overview"]}
    if recipe.pictures is not None:
        found = events(tmp_path / "with")
        assert sheets(tmp_path / "with") == tags
        assert all(len(found.Images(tag)) == recipe.pictures for tag in tags)


class Deterministic(TinyClassifier):
    """Draws nothing while it trains: a checkpoint holds no random states, so that nothing else can be resumed."""

    def __init__(self):
        super().__init__()
        self.backbone[3].p = 0.0


@pytest.mark.parametrize("val", [loader, partial(loader, shuffle=True)], ids=["in order", "shuffled validation"])
def test_a_run_resumed_after_two_of_four_epochs_ends_like_the_whole_one_and_shows_the_same_samples_once(tmp_path, val):
    def fit(folder, max_epochs, callbacks, resume=False):
        L.seed_everything(3)
        witness = Witness()
        runner = trainer(folder, *callbacks, witness, max_epochs=max_epochs)
        runner.fit(Deterministic(), loader(), val(), ckpt_path=str(folder / "half.ckpt") if resume else None)
        runner.save_checkpoint(folder / "half.ckpt")
        return witness.ending

    def ours():
        return SaliencyCallback(METHODS, samples=4, execution=Execution(on_error="raise"))

    whole_without = fit(tmp_path / "without", 4, [])
    whole, half, rest = ours(), ours(), ours()
    whole_with = fit(tmp_path / "whole", 4, [whole])
    fit(tmp_path / "resumed", 2, [half])
    resumed = fit(tmp_path / "resumed", 4, [rest], resume=True)
    assert changed(whole_without, whole_with) == []
    final = [name for name in whole_with if name.startswith(("the parameter", "the buffer", "the optimizer"))]
    assert len(final) > 10
    assert [name for name in final if whole_with[name] != resumed[name]] == []
    images = [callback.state_dict()["validate"]["images"] for callback in (half, rest)]
    assert torch.equal(*images)
    for folder in ("whole", "resumed"):
        for method in METHODS:
            shown = events(tmp_path / folder).Images(f"saliency/{method}")
            assert [event.step for event in shown] == [0, 2, 5, 8, 11]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_under_inference_mode_leaves_everything_as_it_was(tmp_path, stage):
    endings = []
    for callbacks in ([], [SaliencyCallback(METHODS, execution=Execution(on_error="raise", audit=True))]):
        L.seed_everything(3)
        module, witness = TinyClassifier(), Witness()
        runner = trainer(tmp_path, *callbacks, witness)
        (logged,) = getattr(runner, stage)(module, loader(), verbose=False)
        metrics = {key: value for key, value in logged.items() if not key.startswith("saliency/")}
        assert metrics.keys() == {"val_loss"}
        witness.note(runner, module)
        endings.append(witness.ending | {"metrics": digest(metrics)})
    assert changed(*endings) == []


def test_a_module_compiled_after_the_first_run_is_still_explained(tmp_path):
    module = TinyClassifier()
    callback = SaliencyCallback(METHODS, execution=Execution(on_error="raise", audit=True))
    trainer(tmp_path / "eager", callback, max_epochs=1).fit(module, loader(), loader())
    module.compile(backend="eager")
    trainer(tmp_path / "compiled", callback, max_epochs=1).fit(module, loader(), loader())
    assert len(events(tmp_path / "compiled").Images("saliency/cam")) == 2


def test_the_callback_has_no_hook_in_the_training_steps_so_it_cannot_slow_or_synchronise_them():
    ours = {name for name in vars(SaliencyCallback) if name.startswith("on_")}
    assert not any(("batch" in name and "train" in name) or "backward" in name or "step" in name for name in ours)


# --- the harness and the audit would notice


class Meddles(SaliencyCallback):
    """Does one thing that a careless callback does."""

    def __init__(self, deed: Callable[[Any, Any], None], **options):
        super().__init__(["grad_cam"], **options)
        explain = self.probe.explain

        def meddle(trainer, pl_module, samples, **options):
            deed(trainer, pl_module)
            return explain(trainer, pl_module, samples, **options)

        self.probe.explain = meddle


def assign(parameter):
    parameter.data.mul_(1.0001)


DEEDS = {
    "torch's random state": lambda trainer, module: torch.randn(1),
    "Python's random state": lambda trainer, module: random.random(),
    "NumPy's random state": lambda trainer, module: np.random.rand(),
    "the parameter head.linear.weight": lambda trainer, module: assign(module.head.linear.weight),
    "the buffer backbone.1.running_mean": lambda trainer, module: module.backbone[1].running_mean.add_(1),
    "the gradient of head.linear.bias": lambda trainer, module: setattr(
        module.head.linear.bias, "grad", torch.ones(3) if module.head.linear.bias.grad is None else None
    ),
    "requires_grad of head.linear.weight": lambda trainer, module: module.head.linear.weight.requires_grad_(False),
    "the training flag of backbone.3": lambda trainer, module: module.backbone[3].train(),
    "the hooks of backbone.0": lambda trainer, module: module.backbone[0].register_forward_hook(lambda *_: None),
    "the optimizer 0": lambda trainer, module: trainer.optimizers[0].param_groups[0].update(lr=0.5),
    "the scheduler 0": lambda trainer, module: setattr(trainer.lr_scheduler_configs[0].scheduler, "patience", 9),
    "torch's modes": lambda trainer, module: torch.set_grad_enabled(True),
}


@pytest.mark.parametrize("part", DEEDS)
def test_the_audit_names_what_has_changed(tmp_path, part):
    L.seed_everything(3)
    runner = trainer(tmp_path, Meddles(DEEDS[part], audit=True))
    with pytest.raises(RuntimeError, match=f"has changed the training: .*{part}"):
        runner.fit(Scheduled(), loader(), loader())


def test_the_harness_notices_one_random_number(tmp_path):
    recipe = RECIPES[0]
    without = run(recipe, tmp_path / "without")
    with_draw = run(recipe, tmp_path / "with", Meddles(DEEDS["torch's random state"]))
    assert {"the order of the samples", "torch's random state"} <= set(changed(without, with_draw))


def test_the_fingerprint_tells_tensors_apart_by_every_bit():
    base = torch.tensor([1.0, 2.0])
    assert digest(base) == digest(base.clone())
    for other in (base.double(), base[None], torch.nextafter(base, base + 1), -base, torch.tensor([1.0])):
        assert digest(base) != digest(other)
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
    assert digest(torch.zeros(1, dtype=torch.bfloat16)) != digest(torch.zeros(1, dtype=torch.float16))
    assert digest(np.zeros(2)) != digest(np.zeros(2, dtype=np.float32))
