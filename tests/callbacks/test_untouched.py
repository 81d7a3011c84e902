"""Training with the callback is the training without it: each recipe runs twice, and everything is compared."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from recipes import METHODS, RECIPES, STRICT, Careless, Deterministic, Witness, parametrized, run
from recipes.optimization import Scheduled
from tiny import L, TinyClassifier, events, is_own, loader, sheets, trainer

from lightning_saliency.callbacks import Execution, Output, SaliencyCallback, Style
from lightning_saliency.callbacks.audit import changed, digest
from lightning_saliency.callbacks.outputs import Logged

pytestmark = pytest.mark.filterwarnings("default")  # Lightning advises against many a recipe here


@parametrized(RECIPES)
def test_training_with_the_callback_is_the_training_without_it(recipe, tmp_path):
    without = run(recipe, tmp_path / "without")
    with_callback = run(recipe, tmp_path / "with", *recipe.ours())
    assert changed(without, with_callback) == []
    assert len(without) > 40
    if recipe.pictures is not None:
        all_methods = ["Overview"] if len(recipe.methods) > 1 else []
        tags = {f"saliency/{tag}" for tag in [*recipe.methods, *all_methods, *recipe.more_tags]}
        found = events(tmp_path / "with")
        assert sheets(tmp_path / "with") == tags
        assert {tag: len(found.Images(tag)) for tag in tags} == dict.fromkeys(tags, recipe.pictures)
        assert own_scalars(found) == own_scalars(events(tmp_path / "without"))


def own_scalars(found):
    """Return what the user has logged, by its tags: as texts, in which a NaN equals a NaN."""
    tags = [tag for tag in found.Tags()["scalars"] if not is_own(tag)]
    return {tag: [f"{event.step}: {event.value}" for event in found.Scalars(tag)] for tag in tags}


@parametrized([recipe for recipe in RECIPES if recipe.careless])
def test_a_recipe_with_state_fails_with_a_careless_callback_and_only_then(recipe, tmp_path):
    without = run(recipe, tmp_path / "without")
    assert changed(without, run(recipe, tmp_path / "again")) == []
    differing = changed(without, run(recipe, tmp_path / "careless", Careless(recipe.careless)))
    assert [name for name in differing if name.startswith("the parameter")]


def test_there_are_a_hundred_recipes_of_which_the_test_command_runs_a_fifth():
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES) > 100
    assert 1 / 6 < sum(recipe.daily for recipe in RECIPES) / len(RECIPES) < 1 / 4


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
        return SaliencyCallback("cam", samples=4, execution=Execution(on_error="raise"))

    def samples():
        (state,) = torch.load(tmp_path / "resumed/half.ckpt", weights_only=True)["lightning_saliency"].values()
        assert len(state["samples"]["samples"]) == 4
        return digest(state["samples"])

    whole_without = fit(tmp_path / "without", 4, [])
    whole_with = fit(tmp_path / "whole", 4, [ours()])
    fit(tmp_path / "resumed", 2, [ours()])
    of_half = samples()
    resumed = fit(tmp_path / "resumed", 4, [ours()], resume=True)
    assert changed(whole_without, whole_with) == []
    final = [name for name in whole_with if name.startswith(("the parameter", "the buffer", "the optimizer"))]
    assert len(final) > 10
    assert [name for name in final if whole_with[name] != resumed[name]] == []
    assert of_half == samples()
    for folder in ("whole", "resumed"):
        assert [event.step for event in events(tmp_path / folder).Images("saliency/cam")] == [0, 2, 5, 8, 11]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_under_inference_mode_leaves_everything_as_it_was(tmp_path, stage):
    endings = []
    for callbacks in ([], [SaliencyCallback(METHODS, execution=STRICT)]):
        L.seed_everything(3)
        module, witness = TinyClassifier(), Witness()
        runner = trainer(tmp_path, *callbacks, witness)
        (logged,) = getattr(runner, stage)(module, loader(), verbose=False)
        metrics = {key: value for key, value in logged.items() if not is_own(key)}
        assert metrics.keys() == {"val_loss"}
        witness.note(runner, module)
        endings.append(witness.ending | {"metrics": digest(metrics)})
    assert changed(*endings) == []


def test_a_module_compiled_after_the_first_run_is_still_explained(tmp_path):
    module = TinyClassifier()
    callback = SaliencyCallback(METHODS, style=Style(cards="all"), execution=STRICT)
    trainer(tmp_path / "eager", callback, max_epochs=1).fit(module, loader(), loader())
    module.compile(backend="eager")
    trainer(tmp_path / "compiled", callback, max_epochs=1).fit(module, loader(), loader())
    assert len(events(tmp_path / "compiled").Images("saliency/cam")) == 2


def test_the_callback_has_no_hook_in_the_training_steps_but_for_the_first_so_it_cannot_slow_or_synchronize_them():
    hooks = {name for name in dir(L.Callback) if name.startswith("on_")}
    base = {name: getattr(L.Callback, name) for name in hooks}
    ours = {name for name, function in base.items() if getattr(SaliencyCallback, name) is not function}
    assert {"on_validation_epoch_end", "on_validation_batch_start"} <= ours
    in_steps = {name for name in ours if ("batch" in name and "train" in name) or "backward" in name or "step" in name}
    assert in_steps == {"on_before_backward", "on_before_optimizer_step"}  # see test_first_backward.py


class Meddles(Output):
    """Does one thing that a careless callback does."""

    def __init__(self, deed: Callable[[Any, Any], None]):
        self.deed = deed

    def __call__(self, look):
        self.deed(look.trainer, look.pl_module)
        return Logged()


def assign(parameter):
    parameter.data.mul_(1.0001)


DEEDS = {
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
}


RESTORED = {
    "torch's random state": lambda trainer, module: torch.randn(1),
    "Python's random state": lambda trainer, module: random.random(),
    "NumPy's random state": lambda trainer, module: np.random.rand(),
    "torch's modes": lambda trainer, module: torch.set_grad_enabled(True),
}


@pytest.mark.parametrize("part", RESTORED)
def test_what_an_output_does_to_the_process_is_undone(tmp_path, part):
    recipe = RECIPES[0]
    without = run(recipe, tmp_path / "without")
    meddles = Meddles(RESTORED[part])
    with_deed = run(recipe, tmp_path / "with", SaliencyCallback("cam", samples=1, history=False, outputs=[meddles]))
    assert changed(without, with_deed) == []


@pytest.mark.parametrize("part", DEEDS)
def test_the_audit_names_what_has_changed(tmp_path, part):
    L.seed_everything(3)
    options = {"samples": 1, "metrics": False, "history": False, "execution": Execution(audit=True)}
    callback = SaliencyCallback("cam", outputs=[Meddles(DEEDS[part])], **options)
    runner = trainer(tmp_path, callback)
    with pytest.raises(RuntimeError, match=f"has changed the training: .*{part}"):
        runner.fit(Scheduled(), loader(), loader())


CALLS = [0]


class CountsInAGlobal(TinyClassifier):
    """Counts its calls where neither a copy of it nor the audit's state reaches."""

    def forward(self, images):
        CALLS[0] += 1
        return super().forward(images) * (1 + 0.1 * CALLS[0])


class CountsInItsClass(TinyClassifier):
    calls: ClassVar[list[int]] = [0]

    def forward(self, images):
        self.calls[0] += 1
        return super().forward(images) * (1 + 0.1 * self.calls[0])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (CountsInAGlobal, "the model's logits for the same samples differ before and after it"),
        (CountsInItsClass, "the class attribute CountsInItsClass.calls of the module"),
    ],
)
def test_the_audit_finds_what_no_copy_reaches(tmp_path, module, message):
    callback = SaliencyCallback("saliency", samples=1, metrics=False, history=False, execution=Execution(audit=True))
    with pytest.raises(RuntimeError, match=f"has changed the training: .*{message}"):
        trainer(tmp_path, callback).fit(module(), loader(), loader())


class Draws(L.Callback):
    """Draws one random number after each validation."""

    def on_validation_epoch_end(self, trainer, pl_module):
        torch.randn(1)


def test_the_harness_notices_one_random_number(tmp_path):
    recipe = RECIPES[0]
    without = run(recipe, tmp_path / "without")
    with_draw = run(recipe, tmp_path / "with", Draws())
    assert {"the order of the samples", "torch's random state"} <= set(changed(without, with_draw))


def test_the_harness_notices_a_hook_that_stays(tmp_path):
    recipe = RECIPES[0]
    without = run(recipe, tmp_path / "without")
    meddles = Meddles(DEEDS["the hooks of backbone.0"])
    with_hook = run(recipe, tmp_path / "with", SaliencyCallback("cam", samples=1, history=False, outputs=[meddles]))
    assert changed(without, with_hook) == ["the hooks of backbone.0", "what the hooks keep of backbone.0"]


def test_the_fingerprint_tells_tensors_apart_by_every_bit():
    base = torch.tensor([1.0, 2.0])
    assert digest(base) == digest(base.clone())
    for other in (base.double(), base[None], torch.nextafter(base, base + 1), -base, torch.tensor([1.0])):
        assert digest(base) != digest(other)
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
    assert digest(torch.zeros(1, dtype=torch.bfloat16)) != digest(torch.zeros(1, dtype=torch.float16))
    assert digest(np.zeros(2)) != digest(np.zeros(2, dtype=np.float32))
