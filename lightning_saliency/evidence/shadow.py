"""`Shadow`: a copy of a module for a pass, whose tensors are shared until one is written, and all else is its own."""

from __future__ import annotations

import copy
import copyreg
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from threading import Lock, RLock
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.jit import ScriptModule
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_saliency.evidence.lazy_memory import LazyMemory

T = TypeVar("T")

_ATOMIC = frozenset((
    type(None), bool, int, float, complex, str, bytes, type, range, slice, type(...), type(NotImplemented),
    ModuleType, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
    type(Lock()), type(RLock()),
))  # fmt: skip
"""Types whose objects hold no state that a forward could change, so that they need no copy."""

_CACHED = type(lru_cache(len))
"""The type of functions whose results are cached."""

_LEFT_OUT = (Dataset, DataLoader, Sampler, Node)
"""Types whose objects a shadow shares: data, which may be large, and nodes of graphs, which a forward does not change.
"""

_PLAIN_TENSORS = (Tensor, nn.Parameter)
"""The types of tensors that are copied lazily; others, such as uninitialized parameters, know how they are copied."""

_lock = Lock()
"""The first lazy copy of a tensor converts its memory, which two threads must not do at once."""

_said: set[str] = set()
"""What has been said of attributes that cannot be copied."""


class Shadow:
    """A copy of a module with which a pass can do what it likes: nothing of it reaches the module.

    Tensors (parameters, buffers, any others) are shared with the module until one side writes to them, and only then
    copied, so that a shadow takes no memory for weights. Everything else is the shadow's own: flags, hooks,
    attributes, containers, helper objects, random generators, metrics, modules that are not registered, and what bound
    methods and closures of hooks and attributes refer to. Copies of tensors have no graph. Data sets, loaders and nodes
    of graphs are shared. The weights of scripted parts are copied at once, by torch.

    What cannot be copied, such as an open file, is shared, and that is said once. Beyond its reach is what a forward
    changes elsewhere: class attributes, globals of Python modules, files.

    Args:
        module: Any module.
        stand_ins: Pairs: an object that the module refers to, and what the shadow refers to in its place.

    Attributes:
        module: The copy.
        uncopied: Modules in it that cannot be copied, and are the originals.

    Example:
        >>> module = nn.Sequential(nn.Linear(2, 2))
        >>> shadow = Shadow(module)
        >>> _ = shadow.module[0].weight.data.zero_()
        >>> bool(module[0].weight.any()), shadow.of(module[0]) is shadow.module[0]
        (True, True)
    """

    def __init__(self, module: nn.Module, stand_ins: Iterable[tuple[Any, Any]] = ()) -> None:
        copier = _Copier(stand_ins)
        with _lock, torch.inference_mode(False), torch.no_grad():
            self.module: nn.Module = copier.child(module)
        self.uncopied: tuple[nn.Module, ...] = tuple(copier.uncopied)
        self._copier = copier
        for text in copier.problems:
            if text not in _said:
                _said.add(text)
                warnings.warn(text, stacklevel=2)

    def of(self, original: T) -> T:
        """Return the shadow's copy of an object that the module refers to; the object itself if there is none."""
        copied: T = self._copier.memo.get(id(original), original)
        return copied

    def release(self) -> None:
        """Let go of the shared tensors: the module's memory is its own again, so that training copies none of it."""
        with _lock:
            self._copier.memory.release()


class _Copier:
    """Copies objects as `copy.deepcopy` does, with tensors copied lazily, and functions bound to the copies.

    Attributes:
        memo: The copies by the ids of the originals, as for `copy.deepcopy`.
        memory: The memory that copies of tensors share with the originals.
        uncopied: Modules that cannot be copied.
        problems: What cannot be copied, in words.
    """

    def __init__(self, stand_ins: Iterable[tuple[Any, Any]]) -> None:
        self.memo: dict[int, Any] = {id(original): stand_in for original, stand_in in stand_ins}
        self.memory = LazyMemory()
        self.uncopied: list[nn.Module] = []
        self.problems: list[str] = []
        self._rules: dict[Any, Callable[[Any], Any]] = {
            dict: self._dict,
            OrderedDict: self._dict,
            list: self._list,
            tuple: self._tuple,
            set: lambda value: {self.copy(item) for item in value},
            FunctionType: self._function,
            MethodType: lambda value: MethodType(self.copy(value.__func__), self.copy(value.__self__)),
            BuiltinMethodType: self._builtin_method,
            _CACHED: self._cached_function,
            weakref.ref: self._weak_reference,
            weakref.ProxyType: self._weak_proxy,
            weakref.CallableProxyType: self._weak_proxy,
            torch.Generator: _generator,
        }
        self._methods: dict[type, dict[str, Any]] = {}  # by class, those whose results it caches
        self._alive: list[Any] = []  # temporary originals, whose ids must not be given to others, and weak referents

    def copy(self, value: Any) -> Any:
        """Return the copy of any object.

        Raises:
            Exception: A part of it cannot be copied.
        """
        if type(value) in _ATOMIC or isinstance(value, type):
            return value
        key = id(value)
        if key in self.memo:
            return self.memo[key]
        self._alive.append(value)
        copied = self._rule(value)(value)
        return self.memo.setdefault(key, copied)

    def child(self, module: nn.Module) -> nn.Module:
        """Return the copy of a module; the module itself where it cannot be copied."""
        copied: nn.Module = self._copied_or_shared(module, type(module).__name__)
        if copied is module:
            self.uncopied.append(module)
        return copied

    def attribute(self, owner: str, name: str, value: Any) -> Any:
        """Return the copy of an attribute of a module; the attribute itself where it cannot be copied."""
        if name == "_modules":  # of which some may be None
            return {key: None if child is None else self.child(child) for key, child in value.items()}
        return self._copied_or_shared(value, f"{owner}.{name}")

    def _copied_or_shared(self, value: Any, name: str) -> Any:
        known = len(self.memo)
        try:
            return self.copy(value)
        except Exception as error:  # any object may refuse, each by an error of its own
            for key in list(self.memo)[known:]:  # the parts of half a copy
                del self.memo[key]
            self.memo[id(value)] = value
            self.problems.append(
                f"{name} ({type(value).__name__}) cannot be copied ({type(error).__name__}: {error}), so the model and "
                "its explanation share it: if the model's forward changes it, training sees that."
            )
            return value

    def _rule(self, value: Any) -> Callable[[Any], Any]:
        """Return the function that copies an object of this type."""
        kind = type(value)
        if kind in self._rules:
            return self._rules[kind]
        if isinstance(value, Tensor):
            return self._tensor
        if isinstance(value, (*_LEFT_OUT, Enum)):
            return lambda value: value
        if hasattr(kind, "__deepcopy__"):
            return self._by_its_own_rule
        return self._object

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        copied = type(value)()
        self.memo[id(value)] = copied
        for key, item in value.items():
            copied[self.copy(key)] = self.copy(item)
        return copied

    def _list(self, value: list[Any]) -> list[Any]:
        if all(type(item) in _ATOMIC for item in value):
            return list(value)
        copied: list[Any] = []
        self.memo[id(value)] = copied
        copied.extend(self.copy(item) for item in value)
        return copied

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        copied = tuple(self.copy(item) for item in value)
        is_same = all(item is other for item, other in zip(value, copied, strict=True))
        result: tuple[Any, ...] = self.memo.get(id(value), value if is_same else copied)
        return result

    def _tensor(self, value: Tensor) -> Tensor:
        if type(value) not in _PLAIN_TENSORS:
            if isinstance(value, nn.UninitializedBuffer):
                return cast(Tensor, _empty(value))
            result: Tensor = self._by_its_own_rule(value) if value.is_leaf else value.detach().clone()
            return result
        copied = self.memory.copy(value.detach())
        if isinstance(value, nn.Parameter):
            copied = nn.Parameter(copied, requires_grad=value.requires_grad)
        elif value.is_leaf:
            copied.requires_grad_(value.requires_grad)
        self.memo[id(value)] = copied
        self.memory.hold(copied)
        for name, attribute in vars(value).items():
            setattr(copied, name, self.copy(attribute))
        return copied

    def _by_its_own_rule(self, value: Any) -> Any:
        if isinstance(value, nn.Module) and not isinstance(value, ScriptModule):
            for tensor in (*value.parameters(), *value.buffers()):
                self.copy(tensor)  # else its rule would copy the weights at once
        return copy.deepcopy(value, self.memo)

    def _function(self, value: FunctionType) -> Any:
        """Return the function itself, or with its closure and defaults bound to copies where these are others."""
        eager = getattr(value, "_torchdynamo_orig_callable", None)
        if eager is not None:  # a compiled function: the pass runs eagerly
            return self.copy(eager)
        self.memo[id(value)] = value  # where its closure refers to itself
        cells = {name: cell for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)}
        contents = {name: cell.cell_contents for name, cell in cells.items() if _is_filled(cell)}
        copies = {name: self.attribute(value.__qualname__, name, item) for name, item in contents.items()}
        defaults, keyword_defaults = self.copy(value.__defaults__), self.copy(value.__kwdefaults__)
        has_same_closure = all(copies[name] is item for name, item in contents.items())
        if has_same_closure and defaults is value.__defaults__ and keyword_defaults is None:
            return value
        closure = tuple(CellType(copies[name]) if name in copies else cell for name, cell in cells.items())
        bound = FunctionType(value.__code__, value.__globals__, value.__name__, defaults, closure)
        bound.__kwdefaults__ = keyword_defaults
        bound.__dict__.update(value.__dict__)
        bound.__qualname__, bound.__module__ = value.__qualname__, value.__module__
        self.memo[id(value)] = bound
        return bound

    def _builtin_method(self, value: Any) -> Any:
        owner = value.__self__
        return value if isinstance(owner, ModuleType | None) else getattr(self.copy(owner), value.__name__)

    def _cached_function(self, value: Any) -> Any:
        wrapped = self.copy(value.__wrapped__)
        return value if wrapped is value.__wrapped__ else lru_cache(**value.cache_parameters())(wrapped)

    def _weak_reference(self, value: weakref.ref[Any]) -> weakref.ref[Any]:
        referent = value()
        if referent is None:
            return value
        copied = self.copy(referent)
        self._alive.append(copied)
        return weakref.ref(copied)

    def _weak_proxy(self, value: Any) -> Any:
        try:
            referent = value.__repr__.__self__
        except ReferenceError:  # which is gone
            return value
        copied = self.copy(referent)
        self._alive.append(copied)
        return weakref.proxy(copied)

    def _object(self, value: Any) -> Any:
        """Copy an object as it says that it is pickled; of a module, attribute by attribute."""
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):  # a global
            return value
        make, arguments, state, items, entries = (*reduced, None, None, None)[:5]
        copied = make(*(self.copy(argument) for argument in arguments))
        self.memo[id(value)] = copied
        if state is not None:
            self._alive.append(state)
            _set_state(copied, self._state(value, state))
        if isinstance(value, nn.Module):
            if type(value) not in self._methods:
                self._methods[type(value)] = _cached_methods(type(value))
            for name, method in self._methods[type(value)].items():
                cached = lru_cache(**method.cache_parameters())(method.__wrapped__)
                vars(copied)[name] = MethodType(cached, copied)
        for item in items or ():
            copied.append(self.copy(item))
        for key, item in entries or ():
            copied[self.copy(key)] = self.copy(item)
        return copied

    def _state(self, owner: Any, state: Any) -> Any:
        if isinstance(owner, nn.Module) and isinstance(state, Mapping):
            return {name: self.attribute(type(owner).__name__, name, value) for name, value in state.items()}
        return self.copy(state)


def _cached_methods(kind: type) -> dict[str, Any]:
    """Return the methods whose results a class caches, for all its objects together, by their names."""
    members = {name: member for base in reversed(kind.__mro__) for name, member in vars(base).items()}
    return {name: member for name, member in members.items() if type(member) is _CACHED}


def _set_state(copied: Any, state: Any) -> None:
    if hasattr(copied, "__setstate__"):
        copied.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        vars(copied).update(attributes)
    for name, value in (slots or {}).items():
        setattr(copied, name, value)


def _generator(generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).set_state(generator.get_state())


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _empty(buffer: nn.UninitializedBuffer) -> Any:
    """Copy an uninitialized buffer, which torch cannot."""
    return cast(Any, type(buffer))(buffer.requires_grad, buffer.data.device, buffer.data.dtype, buffer.persistent)
