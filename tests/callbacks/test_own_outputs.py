"""What a look is used for is a list of outputs: a user's own too, each guarded by itself."""

import sys

import pytest
import torch
from looking import Keeps
from recipes import fit, squares
from tiny import L, TinyClassifier, data, events, first, loader, sheets, trainer
from torch import nn
from torch.overrides import TorchFunctionMode

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution import blank_reasons
from lightning_saliency.callbacks import Execution, Logged, Metrics, Output, Style
from lightning_saliency.data import SampleCollector
from lightning_saliency.data.choosing import Positions
from lightning_saliency.history import load_record

RAISES = Execution(on_error="raise")


def callback(*outputs, methods="cam", **options) -> SaliencyCallback:
    return SaliencyCallback(methods, outputs=list(outputs), **({"samples": first(3), "execution": RAISES} | options))


class Margin(Output):
    """Logs by how much the true class leads, and a picture; counts its looks over all runs."""

    key = "margin"

    def __init__(self):
        self.looks = 0

    def tags(self):
        return {"margin"}

    def __call__(self, look):
        self.looks += 1
        logits = torch.cat([group.explanation.logits for group in look.explained])
        margin = float(logits.sort(1).values[:, -2:].diff(dim=1).mean())
        return Logged({"margin": torch.full((3, 8, 8), 128, dtype=torch.uint8)}, {"margin": margin})

    def end(self, loggers):
        return Logged({"margin/end": torch.zeros(3, 4, 4, dtype=torch.uint8)})

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state):
        self.looks = state.get("looks", 0)


def test_what_an_output_logs_reaches_the_loggers_and_who_monitors_it(tmp_path):
    stopping = L.callbacks.EarlyStopping("xai_saliency/margin", patience=9, check_on_train_epoch_end=False, strict=True)
    runner, model = fit(tmp_path, callback(Margin()), stopping)
    found = events(tmp_path)
    assert [event.step for event in found.Images("saliency/margin")] == [0, 2, 5]
    assert [event.step for event in found.Images("saliency/margin/end")] == [6]
    assert [event.step for event in found.Scalars("xai_saliency/margin")] == [2, 5]
    with torch.no_grad():
        logits = model.eval()(data()[:3][0])
    expected = float(logits.sort(1).values[:, -2:].diff(dim=1).mean())
    assert float(runner.callback_metrics["xai_saliency/margin"]) == pytest.approx(expected, abs=1e-5)
    assert load_record(tmp_path)[-1].scalars.keys() == {  # it came after the record
        name.removeprefix("xai_saliency/") for name in runner.callback_metrics if name.startswith("xai_saliency/cam/")
    }


def test_the_state_of_an_output_goes_through_a_checkpoint(tmp_path):
    runner, _ = fit(tmp_path, callback(Margin(), Keeps(), history=False))
    runner.save_checkpoint(tmp_path / "half.ckpt")
    margin = Margin()
    fit(tmp_path, callback(margin, Keeps(), history=False), max_epochs=4, ckpt_path=str(tmp_path / "half.ckpt"))
    assert margin.looks == 3 + 1 + 2  # of the first run, the rehearsal before the first step, two epochs


class Counts(Output):
    """Counts its looks, and has them in its state."""

    def __init__(self, start: int = 0):
        self.looks = start

    def __call__(self, look):
        self.looks += 1
        return Logged()

    def state_dict(self):
        return {"looks": self.looks}

    def load_state_dict(self, state):
        self.looks = state["looks"]


def test_outputs_of_one_key_have_each_their_own_state(tmp_path):
    runner, _ = fit(tmp_path, callback(Counts(), Counts(100), history=False), max_epochs=1)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    again = [Counts(), Counts()]
    ours = callback(*again, history=False)
    trainer(tmp_path, ours, max_epochs=1).fit(
        TinyClassifier(), loader(), loader(), ckpt_path=str(tmp_path / "half.ckpt")
    )
    assert [output.looks for output in again] == [3, 103]  # with the rehearsal


class Fails(Output):
    """Raises in each look, or at the end."""

    def __init__(self, at_end: bool = False):
        self.at_end = at_end

    def __call__(self, look):
        if not self.at_end and not look.is_initial:
            raise RuntimeError(f"no use for epoch {look.epoch}")
        return Logged()

    def end(self, loggers):
        if self.at_end:
            raise RuntimeError("no end")
        return Logged()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_output_that_raises_does_not_keep_the_others_from_theirs(tmp_path, place):
    keeps, margin = Keeps(), Margin()
    outputs = [keeps, margin]
    outputs.insert(place, Fails())
    with pytest.warns(UserWarning, match="RuntimeError: no use for epoch 0") as caught:
        runner, _ = fit(tmp_path, callback(*outputs, execution=Execution(audit=True)))
    assert sum("no use for" in str(warning.message) for warning in caught) == 1
    assert len(keeps.looks) == margin.looks == 3
    assert sheets(tmp_path) == {"saliency/cam", "saliency/margin", "saliency/margin/end"}
    assert len(events(tmp_path).Images("saliency/cam")) == 3
    assert {"xai_saliency/margin", "xai_saliency/cam/entropy", "xai_saliency/seconds"} <= runner.callback_metrics.keys()
    assert load_record(tmp_path).epochs == [None, 0, 1]


def test_an_end_that_raises_does_not_keep_the_others_from_theirs(tmp_path):
    with pytest.warns(UserWarning, match="RuntimeError: no end"):
        fit(tmp_path, callback(Fails(at_end=True), Margin(), execution=Execution()))
    tags = set(events(tmp_path).Tags()["images"])
    assert {"saliency/margin/end", "saliency/cam/animation"} <= tags


class FailsAtOnce(Output):
    def __call__(self, look):
        raise RuntimeError("at once")


def test_an_output_that_raises_in_sanity_checking_too_is_one_warning_and_the_others_go_on(tmp_path):
    runner = trainer(tmp_path, callback(FailsAtOnce(), Margin(), execution=Execution()))
    with pytest.warns(UserWarning, match="RuntimeError: at once") as caught:
        runner.fit(TinyClassifier(), loader(), loader())
    assert sum("at once" in str(warning.message) for warning in caught) == 1
    assert runner.state.finished
    assert len(events(tmp_path).Images("saliency/cam")) == 3
    assert "xai_saliency/margin" in runner.callback_metrics


def test_an_output_that_raises_ends_the_run_before_its_first_step_where_that_is_asked_for(tmp_path):
    runner = trainer(tmp_path, callback(FailsAtOnce(), execution=Execution(on_error="raise")))
    with pytest.raises(RuntimeError, match="at once"):
        runner.fit(TinyClassifier(), loader(), loader())
    assert runner.global_step == 0


def test_an_output_without_a_call_says_what_to_define_when_it_is_made():
    class Nothing(Output):
        pass

    with pytest.raises(TypeError, match=r"abstract class Nothing .* '?__call__'?"):
        Nothing()


def test_two_outputs_that_log_under_one_name_are_told_so(tmp_path):
    with pytest.raises(ValueError, match="outputs of a callback to log under different names, got 'margin' twice"):
        trainer(tmp_path, callback(Margin(), Margin())).validate(TinyClassifier(), loader(), verbose=False)
    both = [callback(Margin()), callback(Margin(), methods="saliency", samples=2)]
    with pytest.raises(ValueError, match="'saliency/margin' twice"):
        trainer(tmp_path, *both).validate(TinyClassifier(), loader(), verbose=False)


class SeesLater(Keeps):
    """Has samples of its own, and wants only looks from the second epoch on."""

    def __init__(self):
        super().__init__()
        self.own = SampleCollector(Positions(2, (20, 7)))

    @property
    def samples(self):
        return self.own

    def wants(self, look):
        return look.epoch is not None and look.epoch >= 1

    def reset(self):
        self.own.reset()


def test_an_output_has_samples_of_its_own_and_only_the_looks_that_it_wants(tmp_path):
    later, every = SeesLater(), Keeps()
    fit(
        tmp_path, callback(later, every, history=False, execution=Execution(on_error="raise", audit=True)), max_epochs=3
    )
    assert [look.epoch for look in later.looks] == [1, 2]
    # some of the samples come in the first validation: until then the initial network waits
    assert [(look.is_rehearsal, look.epoch) for look in every.looks[:2]] == [(True, 0), (False, None)]
    assert [look.epoch for look in every.looks[1:]] == [None, 0, 1, 2]
    assert torch.equal(later.images, data()[[20, 7]][0])
    assert torch.equal(later.looks[-1].explained[0].explanation.images, later.images)
    assert torch.equal(every.images, data()[:3][0])


def test_an_output_sees_what_those_before_it_have_logged_and_cannot_write_on_the_look(tmp_path):
    keeps = Keeps()
    fit(tmp_path, callback(Margin(), keeps, history=False), max_epochs=1)
    look = keeps.looks[-1]
    assert {"margin", "cam/entropy"} <= look.scalars.keys()
    with pytest.raises(AttributeError, match="cannot assign"):
        look.scalars = {}
    with pytest.raises(TypeError):
        look.explained[0].heatmaps("max")["cam"] = None


class Upsamplings(TorchFunctionMode):
    """Counts how often maps of the layer's size are brought to the size of the images."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is nn.functional.interpolate:
            size = tuple(kwargs.get("size") or args[1])
            self.count += kwargs.get("mode") == "bilinear" and args[0].shape[2:] == (8, 8) and size == (16, 16)
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        # of each method, and of the first the map of the predicted class, which is wrong for some
        ({}, 3),
        # once for the look, and once for the network with a randomized head
        ({"metrics": Metrics(faithfulness=True, randomization_every_n_epochs=1)}, 5),
        # one scale for the metrics, another for the pictures
        ({"metrics": Metrics(faithfulness=True), "style": Style(normalize="minmax")}, 5),
    ],
)
def test_heatmaps_are_made_once_for_each_method_and_scale_whoever_uses_them(tmp_path, options, count):
    execution = Execution(on_error="raise", log_initial=False)  # for one look
    defaults = {"samples": first(3, objects=squares), "history": False, "execution": execution}
    ours = callback(methods=["cam", "grad_cam"], **defaults, **options)
    runner = trainer(tmp_path, ours, max_epochs=1, num_sanity_val_steps=0)
    reasons = 0

    def count_reasons(frame, event, _):
        nonlocal reasons
        reasons += event == "call" and frame.f_code is blank_reasons.__code__

    sys.setprofile(count_reasons)
    try:
        with Upsamplings() as upsamplings:
            runner.fit(TinyClassifier(), loader(), loader())
    finally:
        sys.setprofile(None)
    assert upsamplings.count == count
    assert reasons == count  # why a map is blank is found out where its heatmap is made
