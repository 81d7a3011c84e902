"""Loading a model: from torchvision by name or from a callable by its import path, with weights from a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

_STATES = ("state_dict", "model_state_dict", "model")  # the weights' keys in checkpoints; the first is Lightning's


class WrongArgumentError(ValueError):
    """A wrong argument of the command line; the message alone is shown to the user."""


def torchvision_model(name: str, weights: Any = None, **options: Any) -> nn.Module:
    """Return a classification model of torchvision."""
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
            f"Expected {argument} to name a classification model of torchvision, got {name!r}. Nearest: {nearest}."
        )


def load_model(source: str, weights: str | None, num_classes: int | None) -> tuple[nn.Module, Any]:
    """Return the model of a command line, and torchvision's weights where they are named, else None."""
    module_name, _, name = source.partition(":")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if not module_name or not name:
        raise WrongArgumentError(f"Expected --model as torchvision:NAME or package.module:callable, got {source!r}.")
    if module_name == "torchvision":
        return _from_torchvision(name, weights, options)
    return _from_import(module_name, name, weights, options), None


def _from_torchvision(name: str, weights: str | None, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    check_torchvision_name(name, "--model")
    if weights is None:
        print("Without --weights the network is untrained, and its maps show nothing learned.", file=sys.stderr)
        return torchvision_model(name, **options), None
    known = get_model_weights(name).__members__
    if weights not in known:
        path = _existing_file(weights, f"one of {', '.join(known)}, or ")
        model = torchvision_model(name, **options)
        _load_weights(model, path)
        return model, None
    try:
        return torchvision_model(name, known[weights], **options), known[weights]
    except (OSError, ValueError, RuntimeError) as error:  # no connection, another number of classes, a hash
        raise WrongArgumentError(
            f"Expected torchvision's weights {known[weights]} for --weights {weights}, got "
            f"{type(error).__name__}: {error} (a file of weights can be given instead)"
        ) from error


def _from_import(module_name: str, name: str, weights: str | None, options: Mapping[str, Any]) -> nn.Module:
    function = _import_attribute(module_name, name)
    if weights is None:
        return _call_factory(function, module_name, name, options)
    path = _existing_file(weights)
    if hasattr(function, "load_from_checkpoint"):
        loaded = _from_checkpoint(function, path, options)
        if loaded is not None:
            return loaded
    model = _call_factory(function, module_name, name, options)
    _load_weights(model, path)
    return model


def _existing_file(weights: str, choices: str = "") -> Path:
    if not Path(weights).is_file():
        raise WrongArgumentError(f"Expected --weights to be {choices}an existing file, got {weights!r}.")
    return Path(weights)


def _import_attribute(module_name: str, name: str) -> Any:
    try:
        return attrgetter(name)(import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise WrongArgumentError(f"Expected --model to be {name} of {module_name}, got {error!r}.") from error


def _from_checkpoint(function: Any, path: Path, options: Mapping[str, Any]) -> nn.Module | None:
    """Return a LightningModule with its checkpoint's hyperparameters and weights; None for a file without these."""
    content = _torch_load(path)
    if not isinstance(content, Mapping) or "hyper_parameters" not in content:
        return None
    try:
        model: nn.Module = function.load_from_checkpoint(path, map_location="cpu", **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WrongArgumentError(
            f"Expected --weights to fit --model as the checkpoint's hyperparameters make it, got {first_line(error)}"
        ) from error
    return model


def _call_factory(function: Any, module_name: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        model = function(**options)
    except (ImportError, AttributeError, TypeError) as error:
        call = f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"
        raise WrongArgumentError(f"Expected --model to be called as {call} of {module_name}, got {error!r}.") from error
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise WrongArgumentError(f"Expected --model {module_name}:{name} to return a model, got {got}.")
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict, or a checkpoint that holds one, under whatever prefix it fits."""
    content = _torch_load(path)
    entries: Any = content if isinstance(content, Mapping) else {}
    state: Any = next((entries[key] for key in _STATES if isinstance(entries.get(key), Mapping)), entries)
    if not state or not all(isinstance(key, str) for key in state):
        raise WrongArgumentError(f"Expected --weights to hold a state dict, got a {type(content).__name__} in {path}.")
    model_state = model.state_dict()
    first = next(iter(model_state), "")
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    prefix = max(["", *prefixes], key=lambda prefix: sum(prefix + key in state for key in model_state))
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    sizes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in model_state.items()
        if isinstance(state.get(key), Tensor) and state[key].shape != value.shape
    ]
    missing, unexpected = ([], []) if sizes else model.load_state_dict(state, strict=False)
    if prefix:  # a checkpoint may hold a teacher and a student, or averaged weights
        print(f"Weights: those under {prefix!r} in {path}.", file=sys.stderr)
    faults = {"other sizes": sizes, "missing": missing, "unexpected": unexpected}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {_first_few(keys)}" for fault, keys in faults.items() if keys)
        raise WrongArgumentError(f"Expected --weights to fit --model (and --num-classes), got in {path} {listed}.")


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a file of another kind may raise anything
        raise WrongArgumentError(
            f"Expected --weights to be a file of tensors, as `torch.save(model.state_dict(), path)` writes it, got "
            f"{path}: {type(error).__name__}: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _first_few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
