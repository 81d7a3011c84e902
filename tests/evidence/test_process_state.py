"""The random states and modes of the process are as before after the context, whatever happens in it."""

import random

import numpy as np
import pytest
import torch

from lightning_saliency.evidence import ProcessKept


def draw():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), [random.random() for _ in range(2)]


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_numbers_are_those_that_would_have_come(fails):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = draw()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    try:
        with ProcessKept():
            draw()
            torch.manual_seed(9), np.random.seed(9), random.seed(9)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert draw() == expected


SWITCHES = {
    "grad": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(not torch.is_grad_enabled())),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
    "precision": (lambda: torch.get_autocast_dtype("cuda"), lambda: torch.set_autocast_dtype("cuda", torch.bfloat16)),
    "deterministic": (torch.get_deterministic_debug_mode, lambda: torch.use_deterministic_algorithms(True)),
    "cudnn": (
        lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        lambda: (
            setattr(torch.backends.cudnn, "benchmark", True),
            setattr(torch.backends.cudnn, "deterministic", True),
        ),
    ),
}


@pytest.mark.parametrize(("read", "switch"), SWITCHES.values(), ids=list(SWITCHES))
@pytest.mark.parametrize("fails", [False, True])
def test_the_modes_are_as_before(read, switch, fails):
    before = read()
    try:
        with ProcessKept():
            switch()
            assert read() != before
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert read() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_too():
    torch.cuda.manual_seed_all(3)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed_all(3)
    with ProcessKept():
        torch.rand(2, device="cuda")
    assert torch.equal(torch.rand(2, device="cuda"), expected)
