"""`probe`: how the outputs of a model's layers are read as maps, found from their answers to a changed image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.data import Call, spatial_axes
from lightning_saliency.data.trees import Path
from lightning_saliency.evidence.forward import Forward
from lightning_saliency.evidence.layout import Axes, Layout, TokenGrid, different_axes, grids_of, has_aspect
from lightning_saliency.evidence.trace import Site, hooked

_TOKEN_AXES: tuple[Axes, ...] = ("NLD", "LND")

_FRAME_AXES: tuple[Axes, ...] = ("NCHW", "NHWC")
"""The orders of the axes of maps of frames one by one."""

_UNUSUAL = 0.5
"""How well a sequence with its channels first must answer to the image's halves, to be taken for one."""

_NO_ANSWER = 0.1
"""How well the halves of a map must answer to those of a volume at least."""

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
    half; on five volumes, and on three signals: x, y, and x with y's first half along each of the spatial axes. The
    batch's axis is the one whose size is that of the batch. Tokens that are the same for x and y, where a
    sequence of their number is first seen, are no patches (class, distillation and register tokens); the others must
    be a grid of the image's aspect. Where a shape can be read in several ways, the one is chosen in which the upper
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
    changed = torch.cat([images, other, *(_with_first_half(images, other, axis) for axis in spatial_axes(images))])
    reader = _Reader(images.shape[2:], shapes)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs a transformer's layers without calling their modules
    try:
        with torch.no_grad(), hooked(forward.model, reader.before, reader.after):
            forward(call[[0] * len(changed)], changed)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return Probed(reader.layouts, reader.orders)


def _another_image(images: Tensor) -> Tensor:
    """Return noise of the images' range."""
    low, high = images.amin(), images.amax()
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(images.shape, generator=generator, dtype=torch.float64, device="cpu").to(images)
    return low + noise * torch.where(high > low, high - low, 1.0)


def _with_first_half(images: Tensor, other: Tensor, axis: int) -> Tensor:
    """Return the images with the first half of others along an axis."""
    half = images.shape[axis] // 2
    return torch.cat([other.narrow(axis, 0, half), images.narrow(axis, half, images.shape[axis] - half)], axis)


@dataclass
class _Reader:
    """Reads each tensor of the run as soon as its module returns it, so that none is kept."""

    image_size: Sequence[int]
    shapes: Mapping[Site, Sequence[int]]
    layouts: dict[Site, Layout] = field(default_factory=dict)
    orders: dict[Site, float] = field(default_factory=dict)
    tokens: dict[int, TokenGrid] = field(default_factory=dict)  # by the length of the sequence
    seen: set[Any] = field(default_factory=set)  # of a signal's maps the lengths, and the axes by the shapes
    counts: Counter[str] = field(default_factory=Counter)
    open: list[tuple[str, int]] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        """The number of images in the run."""
        return 2 + len(self.image_size)

    def before(self, name: str, module: nn.Module, inputs: Iterable[Tensor]) -> None:
        self.open.append((name, self.counts[name]))
        self.counts[name] += 1
        for tensor in inputs:
            if tensor.dim() == 3 and tensor.is_floating_point():
                for axes in _TOKEN_AXES:
                    if tensor.shape[Layout(axes).batch_axis] == self.num_images:
                        self._find_tokens(Layout(axes).sequence(tensor))

    def after(self, name: str, module: nn.Module, outputs: Mapping[Path, Tensor]) -> None:
        name, count = self.open.pop()
        for path, tensor in outputs.items():
            shape = self.shapes.get((name, count, path))
            if shape is not None and tensor.is_floating_point():
                order, layout = self._read(tensor, shape, path)
                if layout is not None:
                    self.layouts[name, count, path], self.orders[name, count, path] = layout, order

    def _read(self, tensor: Tensor, single: Sequence[int], path: Path) -> tuple[float, Layout | None]:
        """Return order and layout of a tensor of all the images; `single` is its shape for the first alone."""
        readings: list[tuple[float, float, Layout]] = []  # how likely it is, its order, the layout
        for axes in different_axes(self.image_size):
            batch = Layout(axes).batch_axis
            if not Layout(axes).fits(tensor.shape, self.image_size) or single[batch] != 1:
                continue
            if tuple(tensor.shape) != (*single[:batch], self.num_images, *single[batch + 1 :]):
                continue
            layout = self._layout(tensor, axes, path)
            if layout is not None:
                maps = layout.read(tensor, self.image_size)
                # any axis of a signal's map may be time: it is likely that of maps of this shape, or of this length
                earlier = (layout.axes, tuple(single)), maps.shape[2:].numel()
                order = _order(maps)
                readings.append((order + _UNUSUAL * sum(map(self.seen.__contains__, earlier)), order, layout))
        readings += [(order, order, layout) for order, layout in self._frames(tensor, single, path)]
        likely = [reading for reading in readings if reading[2].axes != "NDL" or reading[0] > _UNUSUAL]
        if not likely:
            return 0.0, None
        _, order, best = max(likely, key=lambda reading: reading[0])
        if len(self.image_size) == 1:
            self.seen |= {(best.axes, tuple(single)), *best.token_grid(tensor.shape, self.image_size).grid}
        return order, best

    def _frames(self, tensor: Tensor, single: Sequence[int], path: Path) -> Iterator[tuple[float, Layout]]:
        """Yield order and layout of a tensor that holds the maps of the frames of a volume one by one.

        These are the maps of each frame alone, and no others, where a frame is changed.
        """
        num_frames, *size = self.image_size
        is_of_all = single[0] == num_frames and tuple(tensor.shape) == (self.num_images * num_frames, *single[1:])
        if len(size) != 2 or len(single) != 4 or not is_of_all:
            return
        for axes in _FRAME_AXES:
            layout = Layout(axes, element=path, frames=num_frames)
            _, *grid = layout.token_grid(tensor.shape, self.image_size).grid
            if max(grid) > 1 and min(grid) > 0 and has_aspect(grid, size):
                maps = layout.read(tensor, self.image_size).float()
                changed = (maps[0] - maps[2]).flatten(2).abs().amax((0, 2)) > 0
                if not changed[num_frames // 2 :].any() and (num_frames < 2 or changed[: num_frames // 2].all()):
                    yield _order(maps), layout

    def _layout(self, tensor: Tensor, axes: Axes, path: Path) -> Layout | None:
        layout = Layout(axes, element=path)
        if not layout.is_tokens:
            grid = layout.token_grid(tensor.shape, self.image_size).grid
            is_vector = tensor.dim() == 3 and tensor.shape[1] == 1  # pooled, (N, 1, D): no signal's map of one channel
            is_map = min(grid) > 0 and max(grid) > 1 and has_aspect(grid, self.image_size) and not is_vector
            return layout if is_map else None
        sequence = layout.sequence(tensor)
        if axes in _TOKEN_AXES:
            self._find_tokens(sequence)
        tokens = self.tokens.get(sequence.shape[1]) or self._likeliest_grid(sequence, 0, 0)
        if tokens is None or max(tokens.grid) < 2:
            return None
        stride = self.image_size[0] / tokens.grid[0] if len(tokens.grid) > 2 else None
        return Layout(axes, tokens.prefix, tokens.suffix, path, stride)

    def _find_tokens(self, sequence: Tensor) -> None:
        """Remember which tokens are the patches, where a sequence `(4, T, D)` of this length is first seen."""
        length = sequence.shape[1]
        if length in self.tokens or length < 2:
            return
        change = (sequence[0] - sequence[1]).float().abs().mean(1)
        is_patch = (change > _UNCHANGED * change.median()).tolist()
        if not any(is_patch) or not bool(change.isfinite().all()):
            return
        extra = (is_patch.index(True), is_patch[::-1].index(True))
        # where every token depends on the image already: as many as other sequences have
        others = [(other.prefix, other.suffix) for other in self.tokens.values()] if all(is_patch) else []
        for prefix, suffix in (extra, *others):
            tokens = self._likeliest_grid(sequence, prefix, suffix)
            if tokens is not None:
                self.tokens[length] = tokens
                return

    def _likeliest_grid(self, sequence: Tensor, prefix: int, suffix: int) -> TokenGrid | None:
        """Return the grid of the patches; None for none.

        Of a volume several may fit: it is the one whose halves answer best to the volume's, and none where even these
        do not answer, as where the times of a place follow each other rather than the places of a time.
        """
        patches = sequence[:, prefix : sequence.shape[1] - suffix]
        grids = grids_of(patches.shape[1], tuple(self.image_size))
        if not grids or len(self.image_size) < 3:
            return TokenGrid(prefix, suffix, grids[0]) if grids else None
        answers = [_order(patches.unflatten(1, grid).movedim(-1, 1)) for grid in grids]
        best = max(answers)
        return TokenGrid(prefix, suffix, grids[answers.index(best)]) if best > _NO_ANSWER else None


def _order(maps: Tensor) -> float:
    """Return how far the halves of the map `(4, D, h, w)` answer to those of the image: 1 for them alone, 0 for all."""
    values = maps.float()

    def contrast(axis: int) -> float:
        change = (values[0] - values[2 + axis]).abs().mean(0)
        inside, outside = change.tensor_split([(change.shape[axis] + 1) // 2], axis)
        total = inside.mean() + outside.mean()
        return float((inside.mean() - outside.mean()) / total) if total > 0 else 0.0

    # an axis of one position has no halves
    return min((contrast(axis) for axis in range(values.dim() - 2) if values.shape[2 + axis] > 1), default=0.0)
