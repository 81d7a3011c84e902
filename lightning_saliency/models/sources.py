"""Loading a model: from torchvision by name or from a callable by its import path, with weights from a file."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from operator import attrgetter
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchvision.models import get_model, get_model_weights, list_models

from lightning_saliency._checks import describe_error, shown
from lightning_saliency._names import printable

_STATES = ("state_dict", "model_state_dict", "model")  # the weights' keys in checkpoints; the first is Lightning's


_LONGEST_TEXT = 300
"""The most characters of an error that somebody else's code raises."""


class WrongArgumentError(ValueError):
    """A wrong argument of the command line; the message alone is shown to the user."""


@contextmanager
def user_code(expected: str) -> Iterator[None]:
    """Turn whatever a user's own code raises, `sys.exit` included, into a `WrongArgumentError` that says where.

    Args:
        expected: What the code was expected to do, as the sentence goes on after "Expected".
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise WrongArgumentError(f"Expected {expected}, got {describe_raised(error)}.") from error


def describe_raised(error: BaseException) -> str:
    """Return the type and the text of what somebody else's code raises, with the file and the line that did."""
    text = describe_error(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + '…'}{place}"


def torchvision_model(name: str, weights: Any = None, **options: Any) -> nn.Module:
    """Return a classification model of torchvision, with a member of its enumeration of weights or None."""
    if weights is not None:
        known = len(weights.meta["categories"])
        if options.get("num_classes", known) != known:
            raise ValueError(f"Expected `num_classes` to be {known}, as of the weights, got {options['num_classes']}.")
        # torchvision unpickles the file without `weights_only`; one that was read with it once holds no code
        weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    # these two would spend a minute on their own initial values; torch's default ones do as well
    skip_slow_init = {"init_weights": False} if name in ("googlenet", "inception_v3") and weights is None else {}
    model: nn.Module = get_model(name, weights=weights, **skip_slow_init, **options)
    return model


def check_torchvision_name(name: str, argument: str) -> None:
    """Raise an error for a name that no classification model of torchvision has."""
    names = list_models(module=torchvision.models)
    if name not in names:
        nearest = ", ".join(get_close_matches(name, names, n=5) or names[:5])
        raise WrongArgumentError(
            f"Expected {argument} to name a classification model of torchvision, got {shown(name)}. Nearest: {nearest}."
        )


def find_torchvision_weights(name: str, weights: Any) -> Any:
    """Return the weights of a torchvision model, a member of its enumeration, by name; None if it has none such."""
    known = get_model_weights(name)
    if isinstance(weights, known):
        return weights
    return known.__members__.get(weights.removeprefix(f"{known.__name__}.")) if isinstance(weights, str) else None


def load_model(
    source: str, weights: str | None, num_classes: int | None, *, unsafe: bool = False
) -> tuple[nn.Module, Any]:
    """Return the model of a command line, and torchvision's weights where they are named, else None.

    Args:
        source: `torchvision:NAME` or `package.module:callable`.
        weights: The name of torchvision's weights, or a file.
        num_classes: The number of classes that the model is made for; None for its own.
        unsafe: Whether a file of weights may hold more than tensors and plain values, which runs the code in it.

    Raises:
        WrongArgumentError: There is no such model, it cannot be made, or the weights are not its own.
    """
    module_name, _, name = source.partition(":")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if not module_name or not name:
        raise WrongArgumentError(f"Expected --model as torchvision:NAME or package.module:callable, got {source!r}.")
    if module_name == "torchvision":
        return _from_torchvision(name, weights, options, unsafe)
    return _from_import(module_name, name, weights, options, unsafe), None


def _from_torchvision(
    name: str, weights: str | None, options: Mapping[str, Any], unsafe: bool
) -> tuple[nn.Module, Any]:
    check_torchvision_name(name, "--model")
    arguments = ", ".join(f"--{option.replace('_', '-')} {value}" for option, value in options.items())
    making = user_code(f"--model torchvision:{name} to be made{arguments and ' with '}{arguments}")
    if weights is None:
        print("Without --weights the network is untrained, and its maps show nothing learned.", file=sys.stderr)
        with making:
            return torchvision_model(name, **options), None
    named = find_torchvision_weights(name, weights)
    if named is None:
        path = _existing_file(weights, f"one of {', '.join(get_model_weights(name).__members__)}, or ")
        with making:
            model = torchvision_model(name, **options)
        _load_weights(model, path, _torch_load(path, unsafe))
        return model, None
    try:
        return torchvision_model(name, named, **options), named
    except Exception as error:  # no connection, another number of classes, a damaged file
        raise WrongArgumentError(
            f"Expected torchvision's weights {named} for --weights {weights}, got {describe_raised(error)} (a file of "
            "weights can be given instead)."
        ) from error


def _from_import(
    module_name: str, name: str, weights: str | None, options: Mapping[str, Any], unsafe: bool
) -> nn.Module:
    with user_code(f"--model to be {name} of {module_name}"):
        function = attrgetter(name)(import_module(module_name))
    path = None if weights is None else _existing_file(weights)
    content = None if path is None else _torch_load(path, unsafe)
    has_hyperparameters = isinstance(content, Mapping) and "hyper_parameters" in content
    load = getattr(function, "load_from_checkpoint", None) if has_hyperparameters else None
    if load is None:
        call = f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"
        with user_code(f"--model to be called as {call} of {module_name}"):
            model = function(**options)
    else:
        # older versions of Lightning have no such argument, and load all
        safety = {"weights_only": not unsafe} if "weights_only" in signature(load).parameters else {}
        with user_code("--weights to fit --model as the checkpoint's hyperparameters make it"):
            model = load(path, map_location="cpu", **safety, **options)
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise WrongArgumentError(f"Expected --model {module_name}:{name} to return a model, got {got}.")
    if path is not None and load is None:
        _load_weights(model, path, content)
    return model


def _existing_file(weights: str, choices: str = "") -> Path:
    if not Path(weights).is_file():
        raise WrongArgumentError(f"Expected --weights to be {choices}an existing file, got {weights!r}.")
    return Path(weights)


def _load_weights(model: nn.Module, path: Path, content: Any) -> None:
    """Load a state dict, or a checkpoint that holds one, under whatever prefix it fits."""
    with user_code("--model to have a state dict"):
        model_state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = _find_state(content)
    if not state:
        raise WrongArgumentError(
            f"Expected --weights to hold a state dict with tensors, got a {type(content).__name__} in "
            f"{printable(str(path))}."
        )
    first = next(iter(model_state), "")
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    prefix = max(["", *prefixes], key=lambda prefix: sum(prefix + key in state for key in model_state))
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    sizes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in model_state.items()
        if isinstance(state.get(key), Tensor) and not is_lazy(value) and state[key].shape != value.shape
    ]
    no_tensors = [key for key in model_state if key in state and not isinstance(state[key], Tensor)]
    missing, unexpected = [], []
    if not sizes and not no_tensors:
        with user_code(f"--weights to be loaded into --model, from {printable(str(path))}"):
            missing, unexpected = model.load_state_dict(state, strict=False)
    if prefix:  # a checkpoint may hold a teacher and a student, or averaged weights
        print(f"Weights: those under {prefix!r} in {printable(str(path))}.", file=sys.stderr)
    faults = {"other sizes": sizes, "no tensors": no_tensors, "missing": missing, "unexpected": unexpected}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {_first_few(keys)}" for fault, keys in faults.items() if keys)
        raise WrongArgumentError(
            f"Expected --weights to fit --model (and --num-classes), got in {printable(str(path))} {listed}."
        )


def _find_state(content: Any) -> dict[str, Any]:
    """Return the state dict that a file holds; empty where there is none with tensors."""
    if isinstance(content, nn.Module):  # a whole model, which only `unsafe` loads
        content = content.state_dict()
    entries: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    state = next((entries[key] for key in _STATES if isinstance(entries.get(key), Mapping)), entries)
    has_tensors = all(isinstance(key, str) for key in state) and any(isinstance(v, Tensor) for v in state.values())
    return cast(dict[str, Any], dict(state)) if has_tensors else {}


def _torch_load(path: Path, unsafe: bool) -> Any:
    expected = (
        "Expected --weights to be a file of tensors, as `torch.save(model.state_dict(), path)` writes it, got "
        f"{printable(str(path))}"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's format
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except UnpicklingError as error:
        name = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        reason = f"it holds {name[1]}" if name else "it is no file of tensors alone"
        hint = "" if unsafe else ". If you trust it, --unsafe-weights loads it all, and runs the code in it"
        raise WrongArgumentError(f"{expected}: UnpicklingError: {reason}{hint}.") from error
    except (Exception, SystemExit) as error:  # unpickling a file of another kind may raise anything
        raise WrongArgumentError(f"{expected}: {describe_raised(error)}.") from error


def _first_few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
