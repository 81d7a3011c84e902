"""`Chain`: modules that a step calls one after the other, as one model; and finding them in the recorded calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.data.trees import Path, at_path, leaves
from lightning_saliency.evidence.recorder import RecordedCall

_ROUNDING = 16
"""How far two tensors that are the same may be from each other, in the precision of their type."""

GLUES: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda output: output,
    "flattened": lambda output: output.flatten(1),
    "pooled": lambda output: output.flatten(2).mean(2),
    "pooled maps": lambda output: output.mean(tuple(range(2, output.dim())), keepdim=True),
    "first token": lambda output: output[:, 0],
    "mean token": lambda output: output.mean(1),
    "mean token but the first": lambda output: output[:, 1:].mean(1),
    "rectified": F.relu,
    "rectified and flattened": lambda output: F.relu(output).flatten(1),
    "rectified and pooled": lambda output: F.relu(output).flatten(2).mean(2),
    "normalized": lambda output: F.normalize(output, dim=1),
    "flattened and normalized": lambda output: F.normalize(output.flatten(1), dim=1),
}
"""What steps usually do between two modules, by name; the likely ones first."""

_LEAST_AXES = {"pooled": 3, "pooled maps": 3, "first token": 3, "mean token": 3, "mean token but the first": 3,
               "rectified and pooled": 3}  # fmt: skip
"""The number of axes from which on a glue makes sense; two for the others."""


@dataclass(frozen=True)
class Link:
    """How a module is called with the output of the one before it.

    Attributes:
        name: The module's name.
        path: Where in that output its input stands.
        glue: What is done to it, a key of `GLUES`.
        keyword: The argument that takes it; None for the first one.
    """

    name: str
    path: Path
    glue: str
    keyword: str | None = None

    def arguments(self, output: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the module's arguments for the output of the one before it."""
        value = GLUES[self.glue](at_path(output, self.path))
        return ((value,), {}) if self.keyword is None else ((), {self.keyword: value})


@dataclass(frozen=True)
class Stages:
    """The modules through which images go, one after the other, by their names in a whole module.

    Attributes:
        first: The one that is called with the images; the empty name is the whole module's own.
        links: The others.
    """

    first: str
    links: tuple[Link, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modules."""
        return (self.first, *(link.name for link in self.links))

    def __str__(self) -> str:
        return " → ".join(name or "forward" for name in self.names)

    def module(self, owner: nn.Module) -> nn.Module:
        """Return the one module, or a `Chain` of them."""
        return Chain(owner, self) if self.links else owner.get_submodule(self.first)

    def call(self, recorded: Mapping[str, RecordedCall]) -> RecordedCall:
        """Return the recorded calls of the stages as one call."""
        return replace(recorded[self.first], output=recorded[self.names[-1]].output, name=str(self))

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        links = [[link.name, list(link.path), link.glue, link.keyword] for link in self.links]
        return {"name": self.first, "links": links}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Stages:
        """Return the stages that `state_dict` returned."""
        links = (Link(name, tuple(path), glue, keyword) for name, path, glue, keyword in state.get("links", ()))
        return cls(state["name"], tuple(links))


class Chain(nn.Module):
    """Modules of a whole one that are called one after the other, under the names that they have in it.

    They are shared with the whole module, which itself is not changed.

    Args:
        owner: The whole module.
        stages: Which modules.

    Example:
        >>> owner = nn.ModuleDict({"body": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, 5), "spare": nn.Linear(1, 1)})
        >>> chain = Chain(owner, Stages("body", (Link("head", (), "pooled"),)))
        >>> chain(torch.zeros(2, 3, 8, 8)).shape, [name for name, _ in chain.named_children()]
        (torch.Size([2, 5]), ['body', 'head'])
    """

    def __init__(self, owner: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.stages = stages
        self.train(owner.training)
        # not as a child, whose layers would have other names
        self._whole = [owner] if "" in stages.names else []
        for name in stages.names:
            for child in [name] if name else [key for key, _ in owner.named_children()]:
                self._place(child, owner.get_submodule(child))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the last module returns."""
        output = self._stage(self.stages.first)(*args, **kwargs)
        for link in self.stages.links:
            args, kwargs = link.arguments(output)
            output = self._stage(link.name)(*args, **kwargs)
        return output

    def _stage(self, name: str) -> nn.Module:
        return self.get_submodule(name) if name else self._whole[0]

    def _place(self, name: str, module: nn.Module) -> None:
        """Register a module under its dotted name."""
        *outer, last = name.split(".")
        parent: nn.Module = self
        for key in outer:
            if key not in parent._modules:
                parent.add_module(key, nn.Module())
            parent = parent.get_submodule(key)
        if last not in parent._modules:
            parent.add_module(last, module)


def find_stages(
    recorded: Mapping[str, RecordedCall], takes_images: Callable[[str, RecordedCall], bool]
) -> tuple[dict[str, Stages], frozenset[str]]:
    """Return for each module of a step through which modules the images have come to it.

    Where a module's input is what another one returned, after one of the usual `GLUES`, it follows that one. That is
    told by the numbers. What has the form of the images themselves, such as images that are augmented, is images again.

    Args:
        recorded: The calls of the step.
        takes_images: Whether a module's call is one with images, if it follows no other.

    Returns:
        The stages by the names of the modules; and the names of those that another module follows.
    """
    found: dict[str, Stages] = {}
    followed = set()
    names = list(recorded)
    for number, (name, call) in enumerate(recorded.items()):
        links = ((other, find_link(recorded[other], call)) for other in reversed(names[:number]) if other in found)
        source, link = next(((other, link) for other, link in links if link is not None), ("", None))
        if link is not None and not _returns_images(recorded[source]):
            found[name] = replace(found[source], links=(*found[source].links, link))
            followed.add(source)
        elif takes_images(name, call):
            found[name] = Stages(name)
    return found, frozenset(followed)


def find_link(source: RecordedCall, call: RecordedCall) -> Link | None:
    """Return how a call's only argument is made of another one's output; None where it is not."""
    args, kwargs = call.given
    if len(args) + len(kwargs) != 1:
        return None
    keyword, value = (None, args[0]) if args else next(iter(kwargs.items()))
    candidates = _glued(source.output, value) if isinstance(value, Tensor) else iter([((), "itself", source.output)])
    return next(
        (Link(call.name, path, glue, keyword) for path, glue, made in candidates if same_outputs(made, value)), None
    )


def same_tensors(tensor: Tensor, other: Tensor, tolerance: float | None = None) -> bool:
    """Whether two tensors of one shape have the same values.

    Args:
        tensor: A tensor.
        other: Another one.
        tolerance: How far they may be from each other, relative to the largest; by default the rounding of their type.
    """
    if tensor.shape != other.shape or tensor.dtype != other.dtype or not tensor.numel():
        return False
    if not tensor.is_floating_point():
        return torch.equal(tensor, other)
    tolerance = _ROUNDING * torch.finfo(tensor.dtype).eps if tolerance is None else tolerance
    scale = float(tensor.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(tensor, other, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def same_outputs(output: Any, other: Any, tolerance: float | None = None) -> bool:
    """Whether two trees hold the same tensors at the same places, and nothing else; see `same_tensors`."""
    ours, theirs = dict(leaves(output)), dict(leaves(other))
    if not ours or ours.keys() != theirs.keys():
        return False
    return all(
        isinstance(leaf, Tensor) and isinstance(theirs[path], Tensor) and same_tensors(leaf, theirs[path], tolerance)
        for path, leaf in ours.items()
    )


def _glued(output: Any, like: Tensor) -> Iterator[tuple[Path, str, Tensor]]:
    """Yield what the glues make of an output's tensors, where it has the shape of another tensor."""
    for path, tensor in leaves(output):
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
            shape = torch.empty_like(tensor, device="meta")
            for name, glue in GLUES.items():
                if tensor.dim() >= _LEAST_AXES.get(name, 2) and glue(shape).shape == like.shape:
                    yield path, name, glue(tensor)


def _returns_images(call: RecordedCall) -> bool:
    """Whether what a module has returned has the form of the images that it was called with."""
    if call.call is None or not isinstance(call.output, Tensor):
        return False
    images = call.call.first_repeated
    return call.output.dim() == images.dim() and call.output.shape[1] == images.shape[1]
