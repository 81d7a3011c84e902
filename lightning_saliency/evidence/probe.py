"""`probe`: how the outputs of a model's layers are read as maps, found from their answers to a changed image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from lightning_saliency.data import Call
from lightning_saliency.data.trees import Path
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.layout import Axes, Layout, grid_of, has_aspect
from lightning_saliency.evidence.trace import Site, hooked

_TOKEN_AXES: tuple[Axes, ...] = ("NLD", "LND")

_UNUSUAL = 0.5
"""How well a sequence with its channels first must answer to the image's halves, to be taken for one."""

_UNCHANGED = 1e-3
"""The change of a token, relative to the median change of all, below which it is said not to depend on the image."""


@dataclass(frozen=True)
class Probed:
    """What a run has shown of the outputs of a model's layers that are maps.

    Attributes:
        layouts: How each is read.
        orders: How far its halves answer to those of the image: 1 for them alone, 0 for both alike.
    """

    layouts: Mapping[Site, Layout]
    orders: Mapping[Site, float]


def probe(forward: Forward, call: Call, images: Tensor, shapes: Mapping[Site, Sequence[int]]) -> Probed:
    """Find how the outputs of a model's layers are read as maps, from numbers alone.

    The model is run, without a graph, on four images: x, another one y, x with y's upper half, and x with y's left
    half. The batch's axis is the one whose size is that of the batch. Tokens that are the same for x and y, where a
    sequence of their number is first seen, are no patches (class, distillation and register tokens); the others must
    be a grid of the image's aspect. Where a shape can be read in two ways, the one is chosen in which the upper
    half of the map answers to the upper half of the image, and the left to the left.

    To be called inside `Forward.undisturbed`.

    Args:
        forward: How the model is run.
        call: A call of one image.
        images: Its image x, `(1, C, H, W)`.
        shapes: The shapes of the tensors that modules return for this one image.

    Returns:
        The layouts of those that are maps, and how far each answers to the image's halves where the image does.
    """
    other = _another_image(images)
    upper, left = images.clone(), images.clone()
    upper[:, :, : images.shape[2] // 2] = other[:, :, : images.shape[2] // 2]
    left[:, :, :, : images.shape[3] // 2] = other[:, :, :, : images.shape[3] // 2]
    reader = _Reader(images.shape[2:], shapes)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs a transformer's layers without calling their modules
    try:
        with torch.no_grad(), hooked(forward.model, reader.before, reader.after):
            forward(call[[0, 0, 0, 0]], torch.cat([images, other, upper, left]))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return Probed(reader.layouts, reader.orders)


def _another_image(images: Tensor) -> Tensor:
    """Return noise of the images' range."""
    low, high = images.amin(), images.amax()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator, dtype=torch.float64, device="cpu").to(images)
    return low + noise * torch.where(high > low, high - low, 1.0)


@dataclass
class _Reader:
    """Reads each tensor of the run as soon as its module returns it, so that none is kept."""

    image_size: Sequence[int]
    shapes: Mapping[Site, Sequence[int]]
    layouts: dict[Site, Layout] = field(default_factory=dict)
    orders: dict[Site, float] = field(default_factory=dict)
    extra_tokens: dict[int, tuple[int, int]] = field(default_factory=dict)  # by the length of the sequence
    counts: Counter[str] = field(default_factory=Counter)
    open: list[tuple[str, int]] = field(default_factory=list)

    def before(self, name: str, module: nn.Module, inputs: Iterable[Tensor]) -> None:
        self.open.append((name, self.counts[name]))
        self.counts[name] += 1
        for tensor in inputs:
            if tensor.dim() == 3 and tensor.is_floating_point():
                for axes in _TOKEN_AXES:
                    if tensor.shape[Layout(axes).batch_axis] == 4:
                        self._find_extra_tokens(Layout(axes).sequence(tensor))

    def after(self, name: str, module: nn.Module, outputs: Mapping[Path, Tensor]) -> None:
        name, count = self.open.pop()
        for path, tensor in outputs.items():
            shape = self.shapes.get((name, count, path))
            if shape is not None and tensor.is_floating_point():
                order, layout = self._read(tensor, shape, path)
                if layout is not None:
                    self.layouts[name, count, path], self.orders[name, count, path] = layout, order

    def _read(self, tensor: Tensor, single: Sequence[int], path: Path) -> tuple[float, Layout | None]:
        """Return order and layout of a tensor of the four images; `single` is its shape for the first alone."""
        readings: list[tuple[float, Layout]] = []
        for axes in get_args(Axes):
            batch = Layout(axes).batch_axis
            if tensor.dim() != len(axes) or tuple(tensor.shape) != (*single[:batch], 4, *single[batch + 1 :]):
                continue
            if single[batch] != 1:
                continue
            layout = self._layout(tensor, axes, path)
            if layout is not None:
                readings.append((_order(layout.read(tensor, self.image_size)), layout))
        likely = [reading for reading in readings if reading[1].axes != "NDL" or reading[0] > _UNUSUAL]
        return max(likely, key=lambda reading: reading[0]) if likely else (0.0, None)

    def _layout(self, tensor: Tensor, axes: Axes, path: Path) -> Layout | None:
        layout = Layout(axes, element=path)
        if not layout.is_tokens:
            grid = layout.token_grid(tensor.shape, self.image_size).grid
            return layout if min(grid) > 0 and max(grid) > 1 and has_aspect(grid, self.image_size) else None
        sequence = layout.sequence(tensor)
        if axes in _TOKEN_AXES:
            self._find_extra_tokens(sequence)
        prefix, suffix = self.extra_tokens.get(sequence.shape[1], (0, 0))
        patches = grid_of(sequence.shape[1] - prefix - suffix, self.image_size)
        return None if patches is None or max(patches) < 2 else Layout(axes, prefix, suffix, path)

    def _find_extra_tokens(self, sequence: Tensor) -> None:
        """Remember which tokens are no patches, where a sequence `(4, T, D)` of this length is first seen."""
        length = sequence.shape[1]
        if length in self.extra_tokens or length < 2:
            return
        change = (sequence[0] - sequence[1]).float().abs().mean(1)
        is_patch = (change > _UNCHANGED * change.median()).tolist()
        if not any(is_patch) or not bool(change.isfinite().all()):
            return
        prefix, suffix = is_patch.index(True), is_patch[::-1].index(True)
        # where every token depends on the image already: as many as other sequences have
        known = [(prefix, suffix), *(self.extra_tokens.values() if all(is_patch) else ())]
        for extra in known:
            if grid_of(length - sum(extra), self.image_size) is not None:
                self.extra_tokens[length] = extra
                return


def _order(maps: Tensor) -> float:
    """Return how far the halves of the map `(4, D, h, w)` answer to those of the image: 1 for them alone, 0 for all."""
    values = maps.float()
    height, width = (values.shape[2] + 1) // 2, (values.shape[3] + 1) // 2
    upper, left = ((values[0] - values[row]).abs().mean(0) for row in (2, 3))

    def contrast(inside: Tensor, outside: Tensor) -> float:
        total = inside.mean() + outside.mean()
        return float((inside.mean() - outside.mean()) / total) if outside.numel() and total > 0 else 0.0

    return min(contrast(upper[:height], upper[height:]), contrast(left[:, :width], left[:, width:]))
