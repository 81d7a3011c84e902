"""`CallNote`: what an error inside a model's forward is told of the call that met it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import nn

from lightning_saliency.data import Call, describe

_PACKAGE_FOLDER = str(Path(__file__).parents[1])

_MODES = ("__torch_function__", "__torch_dispatch__")
"""The functions of a mode that run in place of a function of torch's."""


class CallNote(str):
    """A note of an error (PEP 678): that a model was called again by this package, and with what."""

    __slots__ = ()


def call_note(error: BaseException | None) -> CallNote | None:
    """Return the note of an error that the model itself has raised, or of what has caused it; None for any other."""
    while error is not None:
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, CallNote):
                return note
        error = error.__cause__
    return None


@contextmanager
def noting_call(model: nn.Module, call: Call) -> Iterator[None]:
    """Within the context, in which a model is called, give errors that the model itself raises a `CallNote`.

    The error stays the model's own. Python shows the note below it from 3.11 on.

    Args:
        model: The model.
        call: What it is called with.

    Example:
        >>> import torch
        >>> from lightning_saliency.data import plain_call
        >>> call = plain_call(torch.zeros(1, 3, 8, 8))
        >>> try:
        ...     with noting_call(nn.Linear(2, 2), call):
        ...         nn.Linear(2, 2)(*call.args)
        ... except RuntimeError as error:
        ...     print(call_note(error))
        It is raised inside Linear, which lightning-saliency called again, in eval mode, with input: a tensor of shape \
(1, 3, 8, 8) and dtype torch.float32.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        # what a pass watches goes through its modes, which call torch's function
        raising = next(frame for frame in reversed(frames) if frame.f_code.co_name not in _MODES)
        is_ours = raising.f_code.co_filename.startswith(_PACKAGE_FOLDER)  # a pass's hook
        if not is_ours and call_note(error) is None:
            names = {id(module): name for name, module in model.named_modules()}
            inner = [id(frame.f_locals["self"]) for frame in frames if id(frame.f_locals.get("self")) in names]
            note = CallNote(f"It is raised inside {_place(model, names, inner)}, {_describe_call(model, call)}.")
            vars(error)["__notes__"] = [*getattr(error, "__notes__", ()), note]
        raise


def _place(model: nn.Module, names: dict[int, str], inner: list[int]) -> str:
    """Return the name of the innermost of a model's modules that were running, and of the model."""
    name = names[inner[-1]] if inner else ""
    who = type(model).__name__
    return f"`{name}` ({type(model.get_submodule(name)).__name__}) of {who}" if name else who


def _describe_call(model: nn.Module, call: Call) -> str:
    """Return in words with which arguments the model was called."""
    parameters: list[str] = []
    with suppress(TypeError, ValueError):  # a forward that has no signature
        signature = inspect.signature(model.forward)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]
    described = []
    for key, value in call.arguments.items():
        name = parameters[key] if isinstance(key, int) and key < len(parameters) else key
        described.append(f"{'argument ' if isinstance(name, int) else ''}{name}: {describe(value)}")
    return f"which lightning-saliency called again, in eval mode, with {', '.join(described)}"
