"""What a model and a process are, to be compared before and after; and maps, to be compared with each other."""

import random

import numpy as np
import torch


def state_of(model):
    """All that a pass must leave as it was."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [
            len(getattr(module, name))
            for module in model.modules()
            for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ],
        "tensors": {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()},
        "graphs": [(p.requires_grad, p.grad, p.grad_fn) for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_same(found, expected):
    """Equal to the last bit, through dicts, lists and tuples."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected)
    else:
        assert found == expected


def assert_alike(found, expected):
    """Equal to 1e-5 of the largest magnitude of what is expected, which is not nothing.

    For maps of networks in float64, which are float32 themselves: what is left is that last rounding, 6e-8.
    """
    top = float(expected.abs().max())
    assert top > 0
    torch.testing.assert_close(found.double() / top, expected.double() / top, rtol=0, atol=1e-5)


def assert_all_alike(found, expected):
    """The same for dicts of maps, of which some may be nothing."""
    assert list(found) == list(expected)
    for key, maps in expected.items():
        top = float(maps.abs().max()) or 1.0
        torch.testing.assert_close(
            found[key].double() / top, maps.double() / top, rtol=0, atol=1e-5, msg=f"{key}: {{}}".format
        )
