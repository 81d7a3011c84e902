"""One sentence for all errors, and no torch for it."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from lightning_saliency._checks import (
    check_bool,
    check_choice,
    check_count,
    check_function,
    check_not_negative,
    check_number,
    check_shape,
    check_type,
)


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (lambda: check_type("model", 3, nn.Module), TypeError, "Expected `model` to be of type Module, got int."),
        (lambda: check_function("fn", 3), TypeError, "Expected `fn` to be a function or None, got int."),
        (lambda: check_choice("how", "x", ["a", None]), ValueError, "Expected `how` to be one of a, None, got 'x'."),
        (lambda: check_count("steps", True), TypeError, "Expected `steps` to be a positive int, got True."),
        (lambda: check_count("steps", 0), ValueError, "Expected `steps` to be a positive int, got 0."),
        (lambda: check_number("iou", 0, "(0, 1]"), ValueError, "Expected `iou` to be a number in (0, 1], got 0."),
        (
            lambda: check_number("iou", "0.5", "(0, 1]"),
            TypeError,
            "Expected `iou` to be a number in (0, 1], got '0.5'.",
        ),
        (
            lambda: check_shape("after", torch.zeros(2, 1), (2,), "as `before`"),
            ValueError,
            "Expected `after` to be (2,) as `before`, got shape (2, 1).",
        ),
        (
            lambda: check_bool("masks", torch.zeros(2), hint="Compare them."),
            ValueError,
            "Expected `masks` to be of type bool, got torch.float32. Compare them.",
        ),
        (
            lambda: check_not_negative("maps", torch.tensor([1.0, -0.5])),
            ValueError,
            "Expected `maps` to be 0 or more everywhere, got -0.5.",
        ),
    ],
)
def test_an_error_names_the_argument_what_was_expected_and_what_came(check, error, message):
    with pytest.raises(error) as caught:
        check()
    assert str(caught.value) == message


def test_what_fits_is_returned():
    masks = torch.ones(2, 3, dtype=torch.bool)
    assert check_bool("masks", check_shape("masks", masks, ("N", 3))) is masks
    assert check_function("fn", None) is None
    assert check_count("steps", 4) == 4
    for number, interval in ((0, "[0, 1)"), (1, "(0, 1]"), (0.3, "(0, 1)"), (1e9, "[0, inf)")):
        assert check_number("iou", number, interval) == number


def test_checking_needs_no_torch(tmp_path):
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('checks', {sys.modules[check_type.__module__].__file__!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
