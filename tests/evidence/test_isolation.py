"""A pass leaves the process as it was: its random states, modes, signals and threads, and what cannot be copied."""

import itertools
import random
import signal
import sys
import threading
import time
import timeit
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from networks import Disturbing, metered
from states import assert_all_alike, assert_same, state_of
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from watching import SharedSet

from lightning_saliency.attribution import explain
from lightning_saliency.evidence import Forward, RandomStates, Shadow, Surroundings, Undisturbed, uninterrupted

IMAGES = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of_the_process():
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "stance": str(torch._dynamo.eval_frame._stance),
        "cudnn": torch.backends.cudnn.enabled,
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


class Watching(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class LeavesModes(nn.Module):
    """Enters modes in its forward, draws random numbers, and leaves all of that to others."""

    def __init__(self, fails=False):
        super().__init__()
        self.linear, self.fails = nn.Linear(2, 2), fails

    def forward(self, images):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        Watching().__enter__()
        Dispatching().__enter__()
        torch.set_grad_enabled(not torch.is_grad_enabled())
        torch.autocast("cpu", torch.bfloat16).__enter__()
        if self.fails:
            raise KeyboardInterrupt
        return self.linear(images)


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fails", [False, True])
def test_the_states_of_the_process_are_restored_whatever_a_forward_does(context, fails):
    model = LeavesModes(fails)
    with context():
        before = of_the_process()
        with pytest.raises(KeyboardInterrupt) if fails else nullcontext(), Forward(model).undisturbed() as isolated:
            isolated.model(torch.ones(1, 2))
        assert_same(of_the_process(), before)


def test_autocast_of_the_caller_goes_on_after_a_pass():
    model = nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with Forward(LeavesModes()).undisturbed() as isolated:
            isolated.model(torch.ones(1, 2))
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    assert model(torch.ones(1, 2)).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_random_states_are_restored_as_often_as_one_likes():
    def draw():
        return torch.rand(1).item(), random.random(), np.random.rand(), torch.randn(1).item()

    states = RandomStates()
    drawn = draw()
    assert draw() != drawn
    for _ in range(2):
        states.restore()
        assert draw() == drawn


def test_the_owner_is_copied_as_a_whole_prepared_and_its_part_is_yielded():
    owner = nn.ModuleDict({"net": metered(), "other": nn.Linear(2, 2)})
    prepared, stand_in = [], nn.Identity()
    surroundings = Surroundings(owner, ((owner["other"], stand_in),), (prepared.append,))
    with Undisturbed(owner["net"], surroundings, lambda shadow: shadow) as shadow:
        assert isinstance(shadow, Shadow)
        assert prepared == [shadow]
        assert type(shadow.module) is nn.ModuleDict
        assert shadow.of(owner["net"]) is shadow.module["net"]
        assert shadow.module["net"] is not owner["net"]
        assert shadow.module["other"] is stand_in
        assert not any(module.training for module in shadow.module.modules() if module is not stand_in)
    with Forward(owner["net"], surroundings=surroundings).undisturbed() as isolated:
        assert isolated.model is not owner["net"]
        assert isolated.surroundings == Surroundings()
    assert owner.training


def test_a_fault_while_the_pass_begins_leaves_all_as_it_was():
    def fail(shadow):
        torch.rand(1)
        raise RuntimeError("while it begins")

    model, before = metered(), of_the_process()
    with pytest.raises(RuntimeError, match="while it begins"):
        Forward(model, surroundings=Surroundings(prepare=(fail,))).undisturbed().__enter__()
    assert_same(of_the_process(), before)
    explain(model, IMAGES)  # nor does the next pass wait for it


# threads


def test_two_threads_explain_one_model_at_once():
    model, results, problems = Disturbing(), [], []
    expected = explain(model, IMAGES, methods=["grad_cam", "smooth_grad"], target=1, layer="act").attributions
    before = state_of(model)

    def work():
        try:
            for _ in range(24):
                results.append(explain(model, IMAGES, methods=["grad_cam", "smooth_grad"], target=1, layer="act"))
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(results) == 48
    for found in results:
        assert_same(found.attributions, expected)
    assert_same(state_of(model), before)


def test_a_pass_waits_for_that_of_another_thread_and_one_of_the_same_does_not():
    model, order, inside, go_on = nn.Linear(2, 2), [], threading.Event(), threading.Event()

    def work():
        with Forward(model).undisturbed() as outer, outer.undisturbed():
            inside.set()
            go_on.wait(60)
            order.append("the other")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(60)
    threading.Timer(0.2, go_on.set).start()
    with Forward(model).undisturbed():
        order.append("this one")
    thread.join()
    assert order == ["the other", "this one"]


# signals


class AlarmError(Exception):
    pass


def interrupt(number, frame):
    raise AlarmError


@pytest.fixture
def alarm():
    previous = signal.signal(signal.SIGALRM, interrupt)
    yield interrupt
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # an alarm in a weak reference's callback
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers of signals")
def test_a_signal_at_any_instant_of_a_pass_leaves_model_process_and_handlers_as_they_were(alarm):
    model = Disturbing()
    forward, count = Forward(model), 0

    def run():
        with forward.undisturbed() as isolated:
            isolated.model(IMAGES)

    length = min(timeit.repeat(run, number=1, repeat=5))
    model_before, before = state_of(model), of_the_process()
    for instant in range(1, 301):
        try:
            signal.setitimer(signal.ITIMER_REAL, length * instant / 250)
            run()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except AlarmError:
            count += 1
        assert signal.getsignal(signal.SIGALRM) is alarm
        assert_same(state_of(model), model_before)
        assert_same(of_the_process(), before)
    assert count > 50
    explain(model, IMAGES)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no alarms")
def test_a_signal_while_the_handlers_are_switched_leaves_them_in_their_places(alarm):
    @uninterrupted
    def do_nothing():
        pass

    def switch(at):
        """Switch the handlers there and back, with an alarm at one of the calls that this takes."""
        calls = itertools.count()

        def profile(frame, event, argument):
            if next(calls) == at:
                signal.raise_signal(signal.SIGALRM)

        sys.setprofile(profile)
        try:
            do_nothing()
        finally:
            sys.setprofile(None)
        return next(calls)

    before = of_the_process()
    last = switch(-1)
    assert_same(of_the_process(), before)
    for at in range(0, last - 1, 7):
        with pytest.raises(AlarmError):
            switch(at)
        assert signal.getsignal(signal.SIGALRM) is alarm
        assert_same(of_the_process(), before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals cannot be sent to a thread")
def test_an_interruption_while_another_thread_runs_its_pass_is_not_held_up():
    inside, go_on = threading.Event(), threading.Event()

    def work():
        with Forward(nn.Linear(2, 2)).undisturbed():
            inside.set()
            go_on.wait(60)

    def interrupt():
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread, interrupter = threading.Thread(target=work), threading.Thread(target=interrupt)
    thread.start()
    inside.wait(60)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        Forward(nn.Linear(2, 2)).undisturbed().__enter__()
    assert not go_on.is_set()
    go_on.set()
    thread.join()
    interrupter.join()
    explain(metered(), IMAGES)


# modules that cannot be copied


class Uncopied(nn.Module):
    """Cannot be copied, and changes all that it has in its forward."""

    def __init__(self, fails=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.fails, self.count, self.names, self.seen = fails, 0, [1], SharedSet()
        self.sums = torch.zeros(2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("moved", torch.zeros(2))
        self.register_buffer("resized", torch.zeros(2))
        self.register_buffer("hidden", torch.zeros(2))
        self.register_buffer("dropped", torch.zeros(2))
        with torch.inference_mode():
            self.register_buffer("fixed", torch.ones(2))
        self.double()

    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")

    def forward(self, images):
        self.seen.add(self.training)
        self.count += 1
        self.names.append(2)
        self.sums += 1
        self.calls += 1
        self.moved = self.moved + 1
        self.resized.resize_(4).fill_(1.0)
        self.hidden.data.add_(1)
        del self.dropped
        self.register_buffer("late", torch.ones(1))
        self.features = self.norm(self.conv(images))
        self.norm.train()
        if self.fails:
            raise RuntimeError("in the middle")
        return self.linear(self.features.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:Uncopied .* cannot be copied:UserWarning")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_a_module_that_cannot_be_copied_is_restored(train, fails, inside):
    module = Uncopied(fails).train(train)
    module.norm.training = not train
    model = nn.Sequential(module) if inside else module
    before, attributes, sums = state_of(model), {**vars(module)}, module.sums
    names = list(module.names)
    with pytest.raises(RuntimeError, match="in the middle") if fails else nullcontext():
        explain(model, IMAGES, methods=["grad_cam", "saliency"], target=1, layer="0.conv" if inside else "conv")
    assert module.seen == {False}
    assert_same(state_of(model), before)
    assert vars(module).keys() == attributes.keys()
    assert all(value is attributes[name] for name, value in vars(module).items())
    assert module.names == names
    assert module.sums is sums
    assert not sums.any()
    assert module.dropped.shape == (2,)


@pytest.mark.filterwarnings("ignore:Uncopied .* cannot be copied:UserWarning")
def test_it_is_explained_as_a_copy_would_be():
    class Copied(Uncopied):
        def __deepcopy__(self, memo):
            return Copied()

    found = explain(Uncopied().train(), IMAGES, methods=["grad_cam", "saliency"], target=1, layer="conv")
    expected = explain(Copied().train(), IMAGES, methods=["grad_cam", "saliency"], target=1, layer="conv")
    assert_all_alike(found.attributions, expected.attributions)


class FailsWhenInterrupted(nn.Module):
    """Is interrupted, and by that ends in an error, as torch does where it switches its modes."""

    def forward(self, images):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")


def test_an_interruption_that_ends_in_an_error_stays_an_interruption():
    with pytest.raises(KeyboardInterrupt):
        explain(FailsWhenInterrupted(), torch.randn(1, 3, 8, 8), methods=["saliency"])


class Fails(nn.Module):
    def forward(self, images):
        raise RuntimeError("as always")


def test_an_error_after_an_interruption_that_was_handled_before_the_pass_stays_an_error():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(RuntimeError, match="as always"):
            explain(Fails(), torch.randn(1, 3, 8, 8), methods=["saliency"])
