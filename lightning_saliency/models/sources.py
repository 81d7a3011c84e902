"""Where a model comes from: torchvision by name, a callable by its import path, weights from a file."""

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

_STATES = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights; the first is Lightning's


class WrongArgumentError(ValueError):
    """An argument that is of no use; its message is all that a person is to see."""


def torchvision_model(name: str, weights: Any = None, **options: Any) -> nn.Module:
    """A classification model of torchvision."""
    # these two would spend a minute on initial values that torch's own replace as well
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") and weights is None else {}
    model: nn.Module = get_model(name, weights=weights, **slow, **options)
    return model


def check_torchvision_name(name: str, argument: str) -> None:
    """Refuse what torchvision has no classification model of."""
    names = list_models(module=torchvision.models)
    if name not in names:
        near = ", ".join(get_close_matches(name, names, n=5) or names[:5])
        raise WrongArgumentError(
            f"Expected {argument} to name a classification model of torchvision, got {name!r}. Nearest: {near}."
        )


def load_model(source: str, weights: str | None, num_classes: int | None) -> tuple[nn.Module, Any]:
    """The model, and torchvision's weights where they were named."""
    place, _, name = source.partition(":")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if not place or not name:
        raise WrongArgumentError(f"Expected --model as torchvision:NAME or package.module:callable, got {source!r}.")
    if place == "torchvision":
        return _from_torchvision(name, weights, options)
    return _from_import(place, name, weights, options), None


def _from_torchvision(name: str, weights: str | None, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    check_torchvision_name(name, "--model")
    if weights is None:
        print("Without --weights the network is untrained, and its maps show nothing learnt.", file=sys.stderr)
        return torchvision_model(name, **options), None
    known = get_model_weights(name).__members__
    if weights not in known:
        path = _file_of(weights, f"one of {', '.join(known)}, or ")
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


def _from_import(place: str, name: str, weights: str | None, options: Mapping[str, Any]) -> nn.Module:
    function = _found(place, name)
    if weights is None:
        return _called(function, place, name, options)
    path = _file_of(weights)
    if hasattr(function, "load_from_checkpoint"):
        loaded = _from_checkpoint(function, path, options)
        if loaded is not None:
            return loaded
    model = _called(function, place, name, options)
    _load_weights(model, path)
    return model


def _file_of(weights: str, choices: str = "") -> Path:
    if not Path(weights).is_file():
        raise WrongArgumentError(f"Expected --weights to be {choices}an existing file, got {weights!r}.")
    return Path(weights)


def _found(place: str, name: str) -> Any:
    try:
        return attrgetter(name)(import_module(place))
    except (ImportError, AttributeError) as error:
        raise WrongArgumentError(f"Expected --model to be {name} of {place}, got {error!r}.") from error


def _from_checkpoint(function: Any, path: Path, options: Mapping[str, Any]) -> nn.Module | None:
    """A LightningModule as its checkpoint says that it was made; None for a file without that."""
    found = _torch_load(path)
    if not isinstance(found, Mapping) or "hyper_parameters" not in found:
        return None
    try:
        model: nn.Module = function.load_from_checkpoint(path, map_location="cpu", **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WrongArgumentError(
            f"Expected --weights to fit --model as the checkpoint's hyperparameters make it, got {first_line(error)}"
        ) from error
    return model


def _called(function: Any, place: str, name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        model = function(**options)
    except (ImportError, AttributeError, TypeError) as error:
        call = f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"
        raise WrongArgumentError(f"Expected --model to be called as {call} of {place}, got {error!r}.") from error
    if not isinstance(model, nn.Module):
        raise WrongArgumentError(f"Expected --model {place}:{name} to return a model, got {type(model).__name__}.")
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict, or a checkpoint that holds one, under whatever prefix it fits."""
    found = _torch_load(path)
    named: Any = found if isinstance(found, Mapping) else {}
    state: Any = next((named[key] for key in _STATES if isinstance(named.get(key), Mapping)), named)
    if not state or not all(isinstance(key, str) for key in state):
        raise WrongArgumentError(f"Expected --weights to hold a state dict, got a {type(found).__name__} in {path}.")
    own = model.state_dict()
    first = next(iter(own), "")
    ends = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    prefix = max(["", *ends], key=lambda prefix: sum(prefix + key in state for key in own))
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    sizes = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(value.shape)} in the model"
        for key, value in own.items()
        if isinstance(state.get(key), Tensor) and state[key].shape != value.shape
    ]
    missing, unexpected = ([], []) if sizes else model.load_state_dict(state, strict=False)
    if prefix:  # a checkpoint may hold a teacher and a student, or averaged weights
        print(f"Weights: those under {prefix!r} in {path}.", file=sys.stderr)
    faults = {"other sizes": sizes, "missing": missing, "unexpected": unexpected}
    if any(faults.values()):
        told = "; ".join(f"{what}: {_few(keys)}" for what, keys in faults.items() if keys)
        raise WrongArgumentError(f"Expected --weights to fit --model (and --num-classes), got in {path} {told}.")


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a file of another kind may raise
        raise WrongArgumentError(
            f"Expected --weights to be a file of tensors, as `torch.save(model.state_dict(), path)` writes it, got "
            f"{path}: {type(error).__name__}: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    return str(error).strip().partition("\n")[0]


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
