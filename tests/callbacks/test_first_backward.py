"""Before the first optimizer step the loss is read, and the network is explained as sanity checking saw it."""

import gc
import threading

import pytest
import torch
import torch.nn.functional as F
from beside import fit_beside
from tiny import NUM_CLASSES, L, TinyClassifier, data, events, first, loader, trainer
from torch import nn

from lightning_saliency import GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import Execution, Logged, Output, Samples
from lightning_saliency.callbacks.kept_steps import KeptSteps
from lightning_saliency.evidence import LossTerm

STRICT = Execution(on_error="raise", audit=True)
SOFTMAX = (LossTerm((8, NUM_CLASSES), "softmax"),)


class Notes(Output):
    """Keeps the looks, and what was known when."""

    def __init__(self):
        self.looks = []
        self.stages = []
        self.terms = []

    def __call__(self, look):
        self.looks.append(look)
        self.stages.append(look.trainer.state.stage.value)
        (callback,) = [callback for callback in look.trainer.callbacks if self in getattr(callback, "outputs", ())]
        self.terms.append(callback._part.loss_terms)
        return Logged()


def watched(methods="grad_cam", **options):
    notes = Notes()
    defaults = {"samples": 4, "metrics": False, "history": False, "execution": STRICT}
    return notes, SaliencyCallback(methods, outputs=[notes], **(defaults | options))


def fit(folder, module, callback, *others, **options):
    L.seed_everything(3)
    runner = trainer(folder, callback, *others, **options)
    runner.fit(module, loader(), loader())
    return runner


JOURNAL = []


class Journal(TinyClassifier):
    """Notes what happens, in which order."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        JOURNAL.append("validation")

    def training_step(self, batch, batch_idx):
        JOURNAL.append("training")
        return super().training_step(batch, batch_idx)

    def on_after_backward(self):
        JOURNAL.append("backward")


class NotesInJournal(Notes):
    def __call__(self, look):
        JOURNAL.append("look")
        return super().__call__(look)


def test_the_initial_network_is_explained_before_the_first_backward(tmp_path):
    notes = NotesInJournal()
    fit(tmp_path, Journal(), SaliencyCallback("grad_cam", samples=4, outputs=[notes], execution=STRICT), max_epochs=1)
    assert JOURNAL[:7] == ["validation", "validation", "training", "look", "backward", "training", "backward"]
    first, last = notes.looks
    assert (first.is_initial, first.is_rehearsal, first.epoch, first.step, first.title) == (
        (True, False, None, 0, "before training")
    )
    assert (last.is_initial, last.epoch, last.step) == (False, 0, 2)
    assert (first.stage, first.in_fit, first.is_logged, first.fraction) == ("validate", True, True, 1.0)
    assert torch.equal(first.samples.samples[0].call.images, last.samples.samples[0].call.images)
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 2]
    assert notes.terms == [SOFTMAX, SOFTMAX]


class Answers(TinyClassifier):
    """Keeps its answers of sanity checking; much of what it computes with changes in a training step's forward."""

    def __init__(self):
        super().__init__()
        self.answers = []
        self.head = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(12, 12, 1)), self.head)
        self.register_buffer("queue", torch.zeros(300, 300), persistent=False)  # large enough to be shared by a shadow

    def forward(self, images):
        if self.training:
            self.queue.add_(1)
        logits = super().forward(images + self.queue[0, 0])
        return logits * 2 if self.trainer.training else logits

    def validation_step(self, batch, batch_idx):
        if self.trainer.sanity_checking:
            self.answers.append(self(batch[0]))

    def on_before_backward(self, loss):
        self.before_backward = {name: buffer.clone() for name, buffer in self.named_buffers()}


def test_it_is_the_network_that_sanity_checking_saw_and_the_training_keeps_its_own(tmp_path, caplog):
    (notes, callback), module = watched(["grad_cam", "saliency"], samples=first(4)), Answers()
    fit(tmp_path, module, callback, max_epochs=1, limit_train_batches=1, precision="64-true")
    (initial,) = notes.looks[0].explained
    assert torch.allclose(initial.explanation.logits.double(), module.answers[0][:4].double(), rtol=1e-6, atol=1e-9)
    assert "logits are not those" not in caplog.text
    assert float(module.before_backward["queue"][0, 0]) == 1
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, module.before_backward[name]), name


class Manual(TinyClassifier):
    """Calls the backward of its loss by itself, or lets its trainer do it."""

    def __init__(self, backward, every=1):
        super().__init__()
        self.automatic_optimization = False
        self.backward_of = backward
        self.every = every

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.backward_of(self, loss)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()
            optimizer.zero_grad()


def by_trainer(module, loss):
    module.manual_backward(loss)


def by_itself(module, loss):
    loss.backward()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("backward", [by_trainer, by_itself])
def test_with_manual_optimization_it_is_before_the_first_backward_or_step(tmp_path, backward, every):
    notes, callback = watched()
    fit(tmp_path, Manual(backward, every), callback, max_epochs=2)
    assert [look.is_initial for look in notes.looks] == [True, False, False]
    assert notes.stages == ["train", "validate", "validate"]
    known = SOFTMAX if backward is by_trainer else None
    assert notes.terms == [known] * 3
    assert len(events(tmp_path).Images("saliency/grad_cam")) == 3


@pytest.mark.parametrize("backward", [by_trainer, by_itself])
def test_an_impossible_option_ends_the_run_with_its_weights_untouched(tmp_path, backward):
    module = Manual(backward)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with pytest.raises(ValueError, match="below the model's 3 classes"):
        fit(tmp_path, module, GradCAMCallback(target=7))
    assert module.trainer.global_step == 0
    assert all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))
    assert not any(submodule._forward_hooks or submodule._forward_pre_hooks for submodule in module.modules())


def test_under_autocast_it_is_as_in_sanity_checking(tmp_path):
    class Kept(Manual):
        def validation_step(self, batch, batch_idx):
            self.answers = self(batch[0])

    (notes, callback), module = watched(["grad_cam", "saliency"]), Kept(by_trainer)
    fit(tmp_path, module, callback, max_epochs=1, limit_val_batches=1, precision="bf16-mixed")
    (initial,), (trained,) = (look.explained for look in notes.looks)
    for name in ("grad_cam", "saliency"):
        assert initial.explanation.attributions[name].dtype == trained.explanation.attributions[name].dtype
        assert not initial.explanation.attributions[name].requires_grad
    assert initial.explanation.logits.dtype == trained.explanation.logits.dtype
    recorded = torch.stack([sample.logits for sample in notes.looks[0].samples.samples])
    assert torch.equal(initial.explanation.logits.float().cpu(), recorded)


class ChangesItsLoss(TinyClassifier):
    """Learns classes first, and values later; keeps its tensors with their graphs."""

    def training_step(self, batch, batch_idx):
        self.last = self.backbone(batch[0])
        output = self.head(self.last)
        self.outputs = [*getattr(self, "outputs", []), {"output": output}]
        self.loss = F.cross_entropy(output, batch[1]) if batch_idx == 0 else F.mse_loss(output, torch.ones_like(output))
        return self.loss


def test_the_first_loss_of_a_training_is_read_and_no_other_also_where_the_module_keeps_graphs(tmp_path):
    notes, callback = watched()
    fit_beside(tmp_path, ChangesItsLoss, callback, max_epochs=2)
    assert notes.terms == [SOFTMAX] * 3


class Adversaries(TinyClassifier):
    """Two networks and two losses, of which the critic's comes first."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Conv2d(3, 3, 3, padding=1)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)
        self.toggle_optimizer(second)
        self.manual_backward(F.mse_loss(self.generator(batch[0]), batch[0]))
        second.step()
        second.zero_grad()
        self.untoggle_optimizer(second)

    def configure_optimizers(self):
        own = [*self.backbone.parameters(), *self.head.parameters()]
        return torch.optim.SGD(own, 0.1), torch.optim.SGD(self.generator.parameters(), 0.1)


class OfManyEvaluations(TinyClassifier):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=1e-2, max_iter=4)


@pytest.mark.parametrize(
    ("module", "options"),
    [(Adversaries, {}), (OfManyEvaluations, {}), (TinyClassifier, {"accumulate_grad_batches": 3})],
    ids=["two losses", "many evaluations of one", "accumulated gradients"],
)
def test_of_several_backwards_it_is_before_the_first(tmp_path, module, options):
    notes, callback = watched()
    fit_beside(tmp_path, module, callback, max_epochs=2, **options)
    assert [look.is_initial for look in notes.looks] == [True, False, False]
    assert notes.terms[0] == SOFTMAX


def test_without_sanity_checking_the_loss_is_known_in_the_first_validation(tmp_path):
    notes, callback = watched()
    fit(tmp_path, TinyClassifier(), callback, max_epochs=1, num_sanity_val_steps=0)
    assert [look.is_initial for look in notes.looks] == [True, False]
    assert notes.stages == ["validate", "validate"]
    assert notes.terms == [SOFTMAX] * 2


class LearnsNothing(TinyClassifier):
    def training_step(self, batch, batch_idx):
        pass


@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_without_a_backward_the_first_validation_collects_the_samples(tmp_path):
    notes, callback = watched()
    fit(tmp_path, LearnsNothing(), callback, max_epochs=1)
    assert [look.is_initial for look in notes.looks] == [False]
    assert len(notes.looks[0].samples) == 4
    assert notes.terms == [None]


def test_without_training_batches_nothing_is_shown(tmp_path):
    notes, callback = watched()
    fit(tmp_path, TinyClassifier(), callback, limit_train_batches=0)
    assert notes.looks == []


def test_evaluation_alone_has_no_loss_and_needs_none(tmp_path):
    notes, callback = watched()
    trainer(tmp_path, callback).validate(TinyClassifier(), loader(), verbose=False)
    assert notes.terms == [None]


def test_a_second_fit_knows_the_loss_and_rehearses_at_once(tmp_path):
    (notes, callback), module = watched(), TinyClassifier()
    runner = fit(tmp_path, module, callback, max_epochs=1)
    runner.fit_loop.max_epochs = 2
    runner.fit(module, loader(), loader())
    assert notes.stages == ["train", "validate", "sanity_check", "validate"]
    assert [look.is_rehearsal for look in notes.looks] == [False, False, True, False]
    assert notes.terms == [SOFTMAX] * 4


def test_a_resumed_run_knows_the_loss_and_one_with_another_module_reads_its_own(tmp_path):
    fit(tmp_path, TinyClassifier(), watched()[1], max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    notes, callback = watched()
    runner = trainer(tmp_path, callback, max_epochs=2)
    runner.fit(ChangesItsLoss(), loader(batch_size=6), loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert set(notes.terms) == {SOFTMAX}  # of a batch of eight: it was not read again
    other = trainer(tmp_path, callback, max_epochs=1)
    other.fit(TinyClassifier(), loader(batch_size=6), loader())
    assert notes.terms[-1] == (LossTerm((6, NUM_CLASSES), "softmax"),)


class Fails(TinyClassifier):
    def training_step(self, batch, batch_idx):
        self.backbone(batch[0])
        raise RuntimeError("of the user's")


def test_an_error_before_the_first_backward_is_the_users_own_and_leaves_nothing(tmp_path):
    callback, batches = SaliencyCallback("grad_cam", samples=4), loader()
    with pytest.raises(RuntimeError, match="of the user's"):
        trainer(tmp_path, callback).fit(Fails(), batches, batches)
    gc.collect()
    assert not any(type(value) is KeptSteps for value in gc.get_objects())
    notes, callback = watched()
    fit(tmp_path, TinyClassifier(), callback, max_epochs=1)
    assert len(notes.looks) == 2


class Interrupts(Output):
    def __call__(self, look):
        if look.is_initial:
            raise KeyboardInterrupt
        return Logged()


def test_ctrl_c_in_the_look_before_training_leaves_the_modes_of_the_process_and_the_module(tmp_path):
    module = Manual(by_trainer)
    runner = trainer(tmp_path, SaliencyCallback("grad_cam", samples=1, outputs=[Interrupts()]), precision="bf16-mixed")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        runner.fit(module, loader(), loader())
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert runner.global_step == 0
    assert module.backbone.training


class Many(L.Callback):
    """Notes the number of hooks on the module at the start of each validation batch."""

    def __init__(self):
        self.hooks = []

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.hooks.append(sum(len(module._forward_pre_hooks) for module in pl_module.modules()))


@pytest.mark.parametrize("samples", [4, [9, 1]])
def test_no_more_steps_are_kept_than_the_samples_need(tmp_path, samples):
    (notes, callback), counts = watched(samples=samples), Many()
    fit(tmp_path, TinyClassifier(), counts, callback, max_epochs=1, num_sanity_val_steps=-1)
    needed = 1 if samples == 4 else 2
    assert [count > 0 for count in counts.hooks[:3]] == [index < needed for index in range(3)]
    assert len(notes.looks[0].samples) == (samples if samples == 4 else 2)


def test_steps_that_take_too_much_memory_are_collected_without_the_loss(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_saliency.callbacks.kept_steps._MOST_BYTES", 1)
    notes, callback = watched(samples=Samples(3, choose="hardest"))
    fit(tmp_path, TinyClassifier(), callback, max_epochs=1, num_sanity_val_steps=-1)
    assert notes.stages == ["sanity_check", "validate"]
    assert notes.terms == [None, SOFTMAX]
    assert [look.is_initial for look in notes.looks] == [True, False]


def test_the_hardest_samples_of_a_whole_sanity_checking_are_those_of_the_recorded_logits(tmp_path):
    notes, callback = watched(samples=Samples(3, choose="hardest"))
    fit(tmp_path, TinyClassifier(), callback, max_epochs=1, num_sanity_val_steps=-1)
    initial, trained = notes.looks
    assert torch.equal(initial.samples.samples[0].call.images, trained.samples.samples[0].call.images)
    assert len(initial.samples) == 3


def test_batches_that_a_loader_overwrites_are_kept_as_they_were(tmp_path):
    buffer = torch.empty(8, 3, 16, 16)

    def reused(samples):
        images = torch.stack([image for image, _ in samples])
        return buffer[: len(images)].copy_(images), torch.tensor([label for _, label in samples])

    notes, callback = watched(samples=first(4))
    runner = trainer(tmp_path, callback, max_epochs=1)
    runner.fit(TinyClassifier(), loader(), loader(collate_fn=reused))
    images = torch.cat([sample.call.images for sample in notes.looks[0].samples.samples])
    assert torch.equal(images, data()[:4][0])


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backward", [by_trainer, by_itself])
def test_a_compiled_module_with_manual_optimization_is_explained_eagerly(tmp_path, backward):
    torch.compiler.reset()
    notes, callback = watched()
    fit(tmp_path, torch.compile(Manual(backward), backend="eager"), callback, max_epochs=1)
    assert [look.is_initial for look in notes.looks] == [True, False]


def test_the_time_budget_does_not_count_the_look_before_training(tmp_path):
    notes, callback = watched(execution=Execution(on_error="raise", max_fraction=0.99))
    waits = threading.Event()

    class Slow(Notes):
        def __call__(self, look):
            waits.wait(0.5 if look.is_initial else 0)
            return super().__call__(look)

    slow = SaliencyCallback("grad_cam", samples=4, outputs=[Slow()], name="slow")
    fit(tmp_path, TinyClassifier(), callback, slow, max_epochs=2)
    assert [look.fraction for look in notes.looks] == [1.0] * 3
    seconds = [event.value for event in events(tmp_path).Scalars("xai_slow/seconds")]
    assert seconds[0] > 0.5 > seconds[1] >= 0
