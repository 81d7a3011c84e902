"""Ctrl-C at any instant of a look: the model, the process and the record are whole, and the run can go on."""

import random
import signal
import threading
import time
from _thread import interrupt_main
from contextlib import suppress

import pytest
import torch
from tiny import L, TinyClassifier, loader, trainer

from lightning_saliency import SaliencyCallback, load_record
from lightning_saliency.callbacks import Metrics
from lightning_saliency.callbacks.audit import changed, fingerprint

INSTANTS = 200


def process_state() -> dict[str, str]:
    """Return what the fingerprint of a training does not hold: torch's stacks of modes, and the handlers of signals."""
    return {
        "function modes": str(torch._C._len_torch_function_stack()),
        "dispatch modes": str(torch._C._len_torch_dispatch_stack()),
        "compilation": str(torch._dynamo.eval_frame._stance.stance),
        "the handler of Ctrl-C": str(signal.getsignal(signal.SIGINT) is signal.default_int_handler),
    }


class Interrupts(L.Callback):
    """Calls another callback's look many times after the first epoch, each time interrupted at a random instant."""

    def __init__(self, interrupted: SaliencyCallback, folder) -> None:
        self.interrupted = interrupted
        self.folder = folder
        self.differences: list[str] = []
        self.num_interrupted = 0

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.sanity_checking or trainer.current_epoch:
            return
        durations = []
        for _ in range(5):  # the first ones take longer, and any on a busy machine
            start = time.perf_counter()
            self.interrupted.on_validation_epoch_end(trainer, pl_module)
            durations.append(time.perf_counter() - start)
        before = fingerprint(trainer, pl_module) | process_state()
        instants = random.Random(0)
        for _ in range(4 * INSTANTS):
            if self.num_interrupted == INSTANTS:
                break
            self._interrupt(trainer, pl_module, instants.random() * min(durations))
            self.differences += changed(before, fingerprint(trainer, pl_module) | process_state())
            assert load_record(self.folder)[-1].attributions["cam"]

    def _interrupt(self, trainer, pl_module, delay: float) -> None:
        timer = threading.Timer(delay, interrupt_main)  # which does what Ctrl-C does
        try:
            timer.start()
            self.interrupted.on_validation_epoch_end(trainer, pl_module)
        except KeyboardInterrupt:
            self.num_interrupted += 1
        with suppress(KeyboardInterrupt):
            timer.join()  # where the look was over before


# between the opening of a file and its `with`, Python closes it, and says so
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_two_hundred_instants_of_a_look_leaves_everything_whole(tmp_path):
    L.seed_everything(3)
    options = {"samples": 2, "metrics": Metrics(randomization_every_n_epochs=1)}
    ours = SaliencyCallback(["cam", "saliency"], **options)
    interrupts = Interrupts(ours, tmp_path)
    runner = trainer(tmp_path, ours, interrupts, max_epochs=2)
    runner.fit(TinyClassifier(), loader(), loader())
    assert interrupts.differences == []
    assert interrupts.num_interrupted == INSTANTS
    record = load_record(tmp_path)
    assert [look.epoch for look in record] == [None, 0, 1]
    assert record[-1].scalars  # the look after all these is whole
