"""The installed Lightning packages, `pytorch_lightning`, `lightning.pytorch` or both, and the names used of them.

The two are the same code under two names, but a Trainer or LightningCLI of one accepts callbacks and modules of its own
only. The `Callback` here inherits from that of every installed package. A module cannot (Lightning would regard the
other package's hooks as overridden), so `LightningModule` is that of the package that the program imported before this
one.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from sys import modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

_NAMES = [
    f"{top}{rest}" for top, rest in (("pytorch_lightning", ""), ("lightning", ".pytorch")) if find_spec(top) is not None
]
_NAMES.sort(key=lambda name: name not in modules)
if not _NAMES:
    raise ImportError(
        "lightning-saliency needs Lightning: `pip install pytorch-lightning`, or `pip install lightning`."
    )
PACKAGES: list[ModuleType] = [import_module(name) for name in _NAMES]

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.callbacks import BaseFinetuning
    from pytorch_lightning.loggers.logger import DummyLogger
    from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
    from pytorch_lightning.utilities.memory import is_oom_error
else:
    LightningModule, Trainer = PACKAGES[0].LightningModule, PACKAGES[0].Trainer
    BaseFinetuning = PACKAGES[0].callbacks.BaseFinetuning
    DummyLogger = import_module(f"{_NAMES[0]}.loggers.logger").DummyLogger
    is_oom_error = import_module(f"{_NAMES[0]}.utilities.memory").is_oom_error
    _rank_zero = import_module(f"{_NAMES[0]}.utilities.rank_zero")
    rank_zero_info, rank_zero_warn = _rank_zero.rank_zero_info, _rank_zero.rank_zero_warn

    class Callback(*(package.Callback for package in PACKAGES)):
        """The base class of callbacks for every installed Lightning package."""


SHARDED_STRATEGIES: tuple[type, ...] = tuple(
    getattr(import_module(f"{name}.strategies"), strategy)
    for name in _NAMES
    for strategy in ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")
)


def overrides(pl_module: Any, method: str) -> bool:
    """Whether a LightningModule of either package defines a method itself."""
    implementation = getattr(type(pl_module), method)
    return all(implementation is not getattr(package.LightningModule, method) for package in PACKAGES)


__all__ = [
    "PACKAGES",
    "SHARDED_STRATEGIES",
    "BaseFinetuning",
    "Callback",
    "DummyLogger",
    "LightningModule",
    "Trainer",
    "is_oom_error",
    "overrides",
    "rank_zero_info",
    "rank_zero_warn",
]
