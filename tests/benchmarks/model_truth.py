"""What is true of a layer that was chosen, measured with hooks of this file and nothing of the library's.

A layer is right if its map is the end of the network's trunk, or all that the last attention reads: see `shortcoming`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from model_kinds import Size, random_images
from model_watching import Reading, Watched
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_IMAGES = 2
_PAIRS = 3
_CHANGE = 0.03
_DOUBTFUL = ("weak", "mixed", "lost")

_SHIFTED = 0.02
"""How much better a map that is shifted by a token may be before it is taken for the right one."""

_SPREAD = 0.05
"""The spread up to which all positions answer to both halves alike, so that they have no order to measure."""

_NOTHING = 2e-3
"""Gradient times activation, of its most, that is as good as none: a random map has about 4e-2."""

_FEW = 8
"""The number of places up to which a module does not work on a map: it has class tokens, or what was pooled."""

_BEHIND = 0.1
"""The most of the weights that may come after the end of the trunk, such as those of an attention pooling."""


@dataclass(frozen=True)
class Order:
    """How the positions of a map answer to a change of one half of the image.

    Attributes:
        upper: How well the positions in the upper half can be told from those in the lower half by whether they answer
            to a change of the image's upper half: the area under the ROC curve, 0.5 for chance.
        left: The same for the left half.
        exact: Whether each position answers to its own half alone.
        shifted: How much better, both together, the map is that is shifted by one position.
        spread: How far the positions differ in which half they answer to: the larger of the two standard deviations.
    """

    upper: float
    left: float
    exact: bool
    shifted: float
    spread: float

    def __str__(self) -> str:
        least, most = sorted((self.upper, self.left))
        if self.exact:
            return "exact"
        if most < 0.6:
            return "lost" if self.spread > _SPREAD else "mixed"
        return "clear" if least >= 0.9 else "soft" if least >= 0.6 else "weak"


@dataclass(frozen=True)
class Truth:
    """What was measured of a layer.

    Attributes:
        calls: How often it runs in one forward.
        images: The length of its batch axis, for two images.
        channels: Its channels.
        grid: (h, w) of its map.
        order: Whether its positions are in the image's order.
        gradient: The share of its positions to which the score has a gradient.
        weight: The mean over the positions of how much gradient times activation is, summed over the channels, of its
            most. It is nothing where the map is read through a norm alone, which is blind to its scale.
        beside: The gradient of the score to the image that does not pass through the map, of all.
        behind: The share of weights that come after the map or beside it, of all that are used at many positions.
        is_last: Whether no module returns a map after it.
        attentions: The number of the attentions, their modules, that read its map, or what comes of it.
        feeds_last: Whether the last of all attentions is among these, and they read nothing else of the image.
    """

    calls: int
    images: int
    channels: int
    grid: Size
    order: Order
    gradient: float
    weight: float
    beside: float
    behind: float
    is_last: bool
    attentions: int
    feeds_last: bool


def measure(model: nn.Module, reading: Reading, size: Size) -> Truth:
    """Measure a layer of a model in eval mode, for images of a size."""
    images = random_images(_IMAGES, size).requires_grad_()
    whole = Watched(model, reading, images)
    tensor = whole.outputs[-1]
    batch = tensor.shape[1 if reading.axes == "LND" else 0]
    patches = reading.positions(tensor)

    score = best(whole.logits)
    image_gradient, map_gradient = torch.autograd.grad(score, (images, tensor), retain_graph=True, allow_unused=True)
    gradients = torch.zeros_like(patches) if map_gradient is None else reading.positions(map_gradient)

    cut = Watched(model, reading, images, cut=True)
    beside = size_of(gradient_of(best(cut.logits), images)) / size_of(image_gradient)
    before, all_used = leaves(tensor), leaves(whole.logits)
    after = leaves(cut.logits) - before
    weights = {
        parameter: parameter.numel()
        for name, module in model.named_modules()
        if whole.places.get(name, 0) > _FEW
        for parameter in module.parameters(recurse=False)
        if parameter in all_used
    }
    behind = sum(count for parameter, count in weights.items() if parameter in after) / max(sum(weights.values()), 1)

    behind_it = [
        (attention, of_cut.output, depends(attention.output, tensor))
        for attention, of_cut in zip(whole.attentions, cut.attentions, strict=True)
        if attention.is_behind
        and attention.reads >= patches.shape[1]  # of two images, half of the positions
        and depends(attention.output, images)
        and serves(attention.output, whole.logits)
    ]
    readers = [(attention, of_cut) for attention, of_cut, reads_map in behind_it if reads_map]
    return Truth(
        calls=len(whole.outputs),
        images=batch,
        channels=patches.shape[2],
        grid=reading.grid(tensor, size),
        order=order_of(model, reading, size),
        gradient=float((gradients != 0).any(2).float().mean()),
        weight=weight_of(patches.detach().double(), gradients.double()),
        beside=beside,
        behind=behind,
        is_last=max(whole.later, default=0) <= _FEW,
        attentions=len({attention.module for attention, _ in readers}),
        feeds_last=bool(behind_it) and behind_it[-1][2] and not any(depends(output, images) for _, output in readers),
    )


def weight_of(activations: Tensor, gradients: Tensor) -> float:
    """Return the mean of |Σ g A| over its most, |g| |A|, over all positions that have any."""
    most = activations.norm(dim=2) * gradients.norm(dim=2)
    weights = (activations * gradients).sum(2).abs() / most
    return float(weights[most > 0].mean()) if (most > 0).any() else 0.0


def orders_of(model: nn.Module, readings: Sequence[Reading], size: Size, pairs: int = _PAIRS) -> list[Order | None]:
    """Return how well the positions of maps answer to changes of the upper and of the left half; None for no map.

    The changes are small: after large ones the answers of a deep random network are alike wherever they come from.
    """
    images = random_images(pairs, size, seed=1)
    change = _CHANGE * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    is_upper = (torch.arange(size[0]) < size[0] / 2)[:, None]
    is_left = torch.arange(size[1]) < size[1] / 2
    changed = [images + change * part for part in (is_upper, ~is_upper, is_left, ~is_left)]
    found: dict[Reading, Order | None] = {}

    def listen(reading: Reading) -> RemovableHandle:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found[reading] = order_in(reading, reading.tensor(output), size)

        return model.get_submodule(reading.layer).register_forward_hook(hook)

    handles = [listen(reading) for reading in readings]
    with torch.no_grad():
        model(torch.cat([images, *changed]))
    for handle in handles:
        handle.remove()
    return [found[reading] for reading in readings]


def order_in(reading: Reading, tensor: Tensor, size: Size) -> Order | None:
    """Return the order of a map of images, of these with the upper half changed, the lower, the left and the right."""
    patches, grid = reading.positions(tensor), reading.grid(tensor, size)
    if len(patches) % 5 or math.prod(grid) != patches.shape[1]:
        return None
    plain, *others = patches.double().unflatten(1, grid).chunk(5)
    upper, lower, left, right = ((other - plain).square().sum(3) for other in others)
    of_upper = (upper / (upper + lower).clamp(min=1e-30)).mean(0)
    of_left = (left / (left + right).clamp(min=1e-30)).mean(0)
    exact = all(
        bool((own > 1 - 1e-6).all() and (other < 1e-6).all())
        for own, other in (split_halves(of_upper), split_halves(of_left.T))
    )
    here, *shifted = (
        (ranked(*split_halves(rolled(of_upper, by))), ranked(*split_halves(rolled(of_left, by).T))) for by in (0, 1, -1)
    )
    return Order(*here, exact, max(map(sum, shifted)) - sum(here), float(max(of_upper.std(), of_left.std())))


def order_of(model: nn.Module, reading: Reading, size: Size) -> Order:
    """Return the order of one map."""
    (order,) = sure_orders_of(model, [reading], size)
    return order or Order(0.0, 0.0, False, 0.0, 1.0)


def sure_orders_of(model: nn.Module, readings: Sequence[Reading], size: Size) -> list[Order | None]:
    """Return the orders of maps, from more images where few leave a doubt."""
    orders = orders_of(model, readings, size)
    doubtful = [reading for reading, order in zip(readings, orders, strict=True) if str(order) in _DOUBTFUL]
    surer = dict(zip(doubtful, orders_of(model, doubtful, size, pairs=4 * _PAIRS), strict=True)) if doubtful else {}
    return [surer.get(reading, order) for reading, order in zip(readings, orders, strict=True)]


def misread(model: nn.Module, readings: Sequence[Reading], truth: Truth, size: Size) -> str | None:
    """Return which of the attentions' inputs is no map as it is said to be read, or None.

    Their positions must be in the image's order, if those of the chosen layer, which comes late, still are.
    """
    for reading, order in zip(readings, sure_orders_of(model, readings, size), strict=True):
        if order is None:
            return f"`{reading.layer}` has not one map an image"
        if str(order) == "lost" or (str(order) == "mixed" and str(truth.order) in ("exact", "clear")):
            return f"`{reading.layer}` is not in the image's order: {order.upper:.2f}, {order.left:.2f}"
    return None


def rolled(values: Tensor, by: int) -> Tensor:
    """Return the values `(h, w)` with each moved by one in the sequence of tokens."""
    return values.flatten().roll(by).view_as(values)


def ranked(own: Tensor, other: Tensor) -> float:
    """Return the area under the ROC curve: how often one of the first is larger than one of the others."""
    return float((own[:, None] > other).double().mean() + (own[:, None] == other).double().mean() / 2)


def split_halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of the first rows and of the last, without the middle row of an odd number."""
    half = len(values) // 2
    return values[:half].flatten(), values[len(values) - half :].flatten()


def grad_cam(model: nn.Module, reading: Reading, images: Tensor) -> Tensor:
    """Return Grad-CAM of the predicted classes, `(N, 1, h, w)`."""
    watched = Watched(model, reading, images.clone().requires_grad_())
    tensor = watched.outputs[-1]
    activations = reading.positions(tensor)
    gradients = reading.positions(torch.autograd.grad(best(watched.logits), tensor)[0])
    maps = (activations * gradients.mean(1, keepdim=True)).sum(2).relu().detach()
    return maps.unflatten(1, reading.grid(tensor, tuple(images.shape[2:])))[:, None]


def best(logits: Tensor) -> Tensor:
    """Return the sum of the predicted classes' scores."""
    return logits.amax(1).sum()


def gradient_of(score: Tensor, images: Tensor) -> Tensor | None:
    """Return a score's gradient to the images, or None where no path leads to them."""
    if not score.requires_grad:
        return None
    return torch.autograd.grad(score, images, retain_graph=True, allow_unused=True)[0]


def depends(tensor: Tensor, source: Tensor) -> bool:
    """Whether a tensor's values depend on another's."""
    return size_of(gradient_of(tensor.square().sum(), source)) > 0


def serves(tensor: Tensor, logits: Tensor) -> bool:
    """Whether the logits depend on a tensor: a model may run a head whose result it does not use."""
    gradient = torch.autograd.grad(best(logits), tensor, retain_graph=True, allow_unused=True)[0]
    return gradient is not None


def size_of(gradient: Tensor | None) -> float:
    """Return the norm of a gradient, 0 for none."""
    return 0.0 if gradient is None else float(gradient.double().norm())


def leaves(tensor: Tensor) -> set[Tensor]:
    """Return the parameters and inputs that a tensor depends on."""
    waiting, seen, found = [tensor.grad_fn], {tensor.grad_fn}, set()
    while waiting:
        node = waiting.pop()
        if node is not None:
            if hasattr(node, "variable"):
                found.add(node.variable)
            parents = {parent for parent, _ in node.next_functions} - seen
            seen |= parents
            waiting += parents
    return found


def shortcoming(truth: Truth, axes: str, size: Size) -> str | None:
    """Return what is wrong with a layer, or None.

    It is right if it is the end of the trunk: all of the gradient passes through its map, or it is the last map that a
    module returns; and little that works on positions comes after or beside it. Or if a single attention comes after it
    and reads nothing of the image but this map: the input of the last block.
    """
    if truth.calls != 1:
        return f"it runs {truth.calls} times"
    if truth.images != _IMAGES:
        return f"{truth.images} maps for {_IMAGES} images"
    if not has_aspect(truth.grid, size):
        return f"a map of {truth.grid[0]}×{truth.grid[1]} for images of {size[0]}×{size[1]}"
    if truth.gradient < 0.5:
        return f"the score has a gradient to {truth.gradient:.0%} of its positions"
    if truth.weight < _NOTHING:
        return "gradient times activation is nothing at all of its positions: it is read through a norm alone"
    is_end = (truth.beside == 0 or truth.is_last) and truth.behind <= _BEHIND
    is_input = truth.attentions == 1 and truth.feeds_last
    if not (is_end or is_input):
        return (
            f"{truth.beside:.0%} of the gradient passes it by, {truth.behind:.0%} of the weights come later or beside, "
            f"{truth.attentions} attentions read it"
        )
    order = truth.order
    is_shifted = str(order) != "mixed" and axes in ("NLD", "LND") and order.shifted > _SHIFTED
    if str(order) == "lost" or is_shifted:
        return (
            f"its positions do not answer to their halves of the image: {order.upper:.2f}, {order.left:.2f}, "
            f"{order.shifted:+.2f} if shifted by one"
        )
    return None


def has_aspect(grid: Size, size: Size) -> bool:
    """Whether one stride leads from the image's size to the grid's, each rounded up or down to whole positions."""
    least = max(length / (positions + 1) for length, positions in zip(size, grid, strict=True))
    most = min(length / max(positions - 1, 1e-9) for length, positions in zip(size, grid, strict=True))
    return least < most
