"""Files of weights in any usual form, loaded into a model; what does not fit is refused, or left out and said."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_saliency._checks import shown
from lightning_saliency._names import printable
from lightning_saliency.models.errors import WrongArgumentError, describe_raised, user_code

_STATES = ("state_dict", "model_state_dict", "model_state", "model", "state_dict_ema", "model_ema", "net", "weights")
"""The weights' keys in checkpoints; the first is Lightning's and timm's."""

_SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Arguments:
    """What the arguments are called in errors.

    Attributes:
        weights: The argument of the file.
        model: The argument of the model.
        sizes: What else decides the sizes of the model's parameters, in parentheses.
        unsafe: What to do with a file that holds more than tensors and plain values.
    """

    weights: str
    model: str
    sizes: str
    unsafe: str


COMMAND_LINE = Arguments(
    "--weights", "--model", " (and --num-classes)", "--unsafe-weights loads it all, and runs the code in it"
)
GAP_MODEL = Arguments(
    "`weights`", "`backbone`", "", "load it with `torch.load(..., weights_only=False)`, which runs the code in it"
)


def existing_file(weights: Any, choices: str = "", arguments: Arguments = COMMAND_LINE) -> Path:
    """Return the path of a file of weights.

    Raises:
        WrongArgumentError: It is no file.
    """
    if not isinstance(weights, str | PathLike) or not Path(weights).is_file():
        got = shown(str(weights) if isinstance(weights, PathLike) else weights)
        raise WrongArgumentError(f"Expected {arguments.weights} to be {choices}an existing file, got {got}.")
    return Path(weights)


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        path: The file.
        content: What is in it.
        arguments: What the arguments are called in errors.
    """

    path: Path
    content: Any
    arguments: Arguments = COMMAND_LINE

    @classmethod
    def open(cls, path: Path, *, unsafe: bool = False, arguments: Arguments = COMMAND_LINE) -> WeightFile:
        """Read a file of torch's or of safetensors.

        Args:
            path: The file.
            unsafe: Whether it may hold more than tensors and plain values, which runs the code in it.
            arguments: What the arguments are called in errors.

        Raises:
            WrongArgumentError: It cannot be read, or holds code.
        """
        is_safetensors = path.suffix == _SAFETENSORS
        content = _read_safetensors(path, arguments) if is_safetensors else _torch_load(path, unsafe, arguments)
        return cls(path, content, arguments)

    @property
    def is_lightning_checkpoint(self) -> bool:
        """Whether it is a checkpoint of Lightning with the hyperparameters of its module."""
        return isinstance(self.content, Mapping) and "hyper_parameters" in self.content

    def load_into(self, model: nn.Module, remake: Callable[[int], nn.Module] | None = None) -> nn.Module:
        """Return the model with the weights, under whatever prefix they fit.

        Where the classifier alone is of another size, the model is made again with as many classes; else the file's
        classifier is left out. A file without one, of a backbone, fits where the user has said how many classes there
        are. That, and what the model has no place for, is said in a line each.

        Args:
            model: The model.
            remake: Makes the same model with another number of classes; None where the user has said how many.

        Raises:
            WrongArgumentError: The weights are not the model's.
        """
        match = self._match(self._state_of(model))
        count = match.num_classes
        if count is not None and remake is not None:
            try:
                remade = remake(count)
            except Exception:  # somebody else's function, which has perhaps no such argument
                remade = model
            rematch = self._match(self._state_of(remade))
            if rematch.num_classes is None:
                _say(f"Classes: {count}, as the classifier in {self._name} has.")
                model, match = remade, rematch
        is_backbone = remake is None and match.lacks_classifier_alone
        self._refuse_misfit(
            match,
            [] if match.num_classes is not None else match.described_sizes,
            [] if is_backbone else match.missing,
        )
        self._load(match, model)
        return model

    def load_into_backbone(self, backbone: nn.Module, whole: Collection[str]) -> None:
        """Load the weights of a whole model into its backbone; the file's classifier does not matter.

        Args:
            backbone: The first parts of a model, under the model's own names.
            whole: The keys of the whole model's state dict.

        Raises:
            WrongArgumentError: The weights are not the backbone's.
        """
        state = self._state_of(backbone)
        match = self._match(state)
        parts = {key.partition(".")[0] for key in state}
        file = {
            key: value
            for key, value in match.file.items()
            if key in state or (key.partition(".")[0] in parts and key not in whole)
        }
        match = replace(match, file=file)
        self._refuse_misfit(match, match.described_sizes, match.missing)
        self._load(match, backbone)

    @property
    def _name(self) -> str:
        return printable(str(self.path))

    def _state_of(self, model: nn.Module) -> dict[str, Tensor]:
        with user_code(f"{self.arguments.model} to have a state dict"):
            return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}

    def _match(self, model: Mapping[str, Tensor]) -> _Match:
        state = _find_state(self.content)
        if not state:
            raise WrongArgumentError(
                f"Expected {self.arguments.weights} to hold a state dict with tensors, got a "
                f"{type(self.content).__name__} in {self._name}."
            )
        prefix, wrapper = _find_prefixes(state, model)
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        return _Match(model, {f"{wrapper}{key}": value for key, value in inner.items()}, prefix)

    def _refuse_misfit(self, match: _Match, other_sizes: Sequence[str], missing: Sequence[str]) -> None:
        faults = {
            "other sizes": other_sizes,
            "no tensors": [key for key in match.model if key in match.file and not isinstance(match.file[key], Tensor)],
            "missing": missing,
            "unexpected": match.unexpected if missing or match.is_mostly_unexpected else [],
        }
        if any(faults.values()):
            listed = "; ".join(f"{fault}: {_first_few(keys)}" for fault, keys in faults.items() if keys)
            names = self.arguments
            raise WrongArgumentError(
                f"Expected {names.weights} to fit {names.model}{names.sizes}, got in {self._name} {listed}."
            )

    def _load(self, match: _Match, model: nn.Module) -> None:
        with user_code(f"{self.arguments.weights} to be loaded into {self.arguments.model}, from {self._name}"):
            model.load_state_dict(match.fitting, strict=False)
        match.say_left_out(self._name)


@dataclass(frozen=True)
class _Match:
    """A model's state beside a file's, without the prefix of its keys."""

    model: Mapping[str, Tensor]
    file: Mapping[str, Any]
    prefix: str

    @property
    def missing(self) -> list[str]:
        """What the file lacks."""
        return [key for key in self.model if key not in self.file]

    @property
    def unexpected(self) -> list[str]:
        """What the model has no place for."""
        return [key for key in self.file if key not in self.model]

    @property
    def is_mostly_unexpected(self) -> bool:
        """Whether that is more than what the model has a place for: then it is another model's file."""
        return self._count(self.unexpected) > self._count(self.file.keys() & self.model.keys())

    def _count(self, keys: Iterable[str]) -> int:
        tensors = (self.file[key] for key in keys)
        return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))

    @property
    def other_sizes(self) -> list[str]:
        """What is of another size in the file."""
        return [
            key
            for key, value in self.model.items()
            if isinstance(self.file.get(key), Tensor) and not is_lazy(value) and self.file[key].shape != value.shape
        ]

    @property
    def described_sizes(self) -> list[str]:
        """The same in words."""
        return [
            f"{key} is {tuple(self.file[key].shape)} in the file and {tuple(self.model[key].shape)} in the model"
            for key in self.other_sizes
        ]

    @property
    def num_classes(self) -> int | None:
        """How many classes the file's classifier has, where that alone is of another size than the model's.

        It is what differs in the number of its rows alone, from one to another; and all else fits.
        """
        keys = self.other_sizes
        sizes = [(self.file[key].shape, self.model[key].shape) for key in keys]
        counts = {(in_file[:1], in_model[:1]) for in_file, in_model in sizes}
        are_rows = all(in_file[1:] == in_model[1:] and len(in_model) for in_file, in_model in sizes)
        is_rest = len(keys) < len(self.model) and not self.missing
        return int(next(iter(counts))[0][0]) if len(counts) == 1 and are_rows and is_rest else None

    @property
    def lacks_classifier_alone(self) -> bool:
        """Whether the file lacks the parameters of the model's last layer, and holds all else: that of a backbone."""
        last = next(reversed(list(self.model)), "").rpartition(".")[0]
        return bool(last) and self.missing == [key for key in self.model if key.rpartition(".")[0] == last]

    @property
    def fitting(self) -> dict[str, Any]:
        """What is loaded of the file."""
        left_out = self.other_sizes
        return {key: value for key, value in self.file.items() if key in self.model and key not in left_out}

    def say_left_out(self, name: str) -> None:
        """Say what is not loaded of a file."""
        if self.prefix:  # a checkpoint may hold a teacher and a student, or averaged weights
            _say(f"Weights: those under {self.prefix!r} in {name}.")
        if self.other_sizes:
            _say(
                f"Weights: the classifier in {name} is left out, as it is of another size: "
                f"{_first_few(self.described_sizes)}. The model's own is untrained, and so are its classes."
            )
        if self.missing:
            _say(
                f"Weights: {name} has no classifier ({_first_few(self.missing)}). The model's own is untrained, and so "
                "are its classes."
            )
        if self.unexpected:
            _say(f"Weights: of {name} the model has no place for {_first_few(self.unexpected)}.")


def _find_prefixes(file: Collection[str], model: Collection[str]) -> tuple[str, str]:
    """Return what stands before the keys that a file and a model share, in each of them; mostly nothing."""
    first = next(iter(model), "")
    wrappers = [first[: dot.end()] for dot in re.finditer(r"\.", first)]  # of a model whose part the weights are of
    pairs = [("", "")]
    for wrapper in ["", *wrappers]:
        inner = first.removeprefix(wrapper)
        pairs += [(key.removesuffix(inner), wrapper) for key in file if f".{key}".endswith(f".{inner}")]

    def num_shared(pair: tuple[str, str]) -> int:
        prefix, wrapper = pair
        return sum(key.startswith(wrapper) and prefix + key.removeprefix(wrapper) in file for key in model)

    return max(pairs, key=num_shared)


def _find_state(content: Any) -> dict[str, Any]:
    """Return the state dict that a file holds; empty where there is none with tensors."""
    if isinstance(content, nn.Module):  # a whole model, which only `unsafe` loads
        content = content.state_dict()
    entries: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    state = next((entries[key] for key in _STATES if isinstance(entries.get(key), Mapping)), entries)
    has_tensors = all(isinstance(key, str) for key in state) and any(isinstance(v, Tensor) for v in state.values())
    return cast(dict[str, Any], dict(state)) if has_tensors else {}


def _read_safetensors(path: Path, arguments: Arguments) -> Any:
    if find_spec("safetensors") is None:
        raise WrongArgumentError(
            f"Expected the package safetensors to be installed for {arguments.weights} "
            f"{printable(str(path))}: `pip install safetensors`."
        )
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # whatever its reader raises for a file of another kind
        raise WrongArgumentError(
            f"Expected {arguments.weights} to be a file of safetensors, got {printable(str(path))}: "
            f"{describe_raised(error)}."
        ) from error


def _torch_load(path: Path, unsafe: bool, arguments: Arguments) -> Any:
    expected = (
        f"Expected {arguments.weights} to be a file of tensors, as `torch.save(model.state_dict(), path)` writes it, "
        f"got {printable(str(path))}"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's format
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except UnpicklingError as error:
        name = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        reason = f"it holds {name[1]}" if name else "it is no file of tensors alone"
        hint = "" if unsafe else f". If you trust it, {arguments.unsafe}"
        raise WrongArgumentError(f"{expected}: UnpicklingError: {reason}{hint}.") from error
    except (Exception, SystemExit) as error:  # unpickling a file of another kind may raise anything
        raise WrongArgumentError(f"{expected}: {describe_raised(error)}.") from error


def _first_few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
