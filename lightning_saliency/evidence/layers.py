"""`find_layers`: which layers of a model the methods read, from runs of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.data import Call, times
from lightning_saliency.evidence.chosen_layers import Layers
from lightning_saliency.evidence.convolutional import is_class_scores, last_convolutional_map, read_as_features
from lightning_saliency.evidence.detection_tasks import Detection
from lightning_saliency.evidence.forward import Forward, as_forward
from lightning_saliency.evidence.head import own_parameters, replace_parameters
from lightning_saliency.evidence.layer_choice import LayerChoice, only_pools
from lightning_saliency.evidence.layout import Layout, has_aspect
from lightning_saliency.evidence.probe import probe
from lightning_saliency.evidence.pyramid import last_common_map, reads_attention
from lightning_saliency.evidence.target_layer import TargetLayer
from lightning_saliency.evidence.trace import LayerCall, Trace


def find_target_layer(
    model: nn.Module | Forward,
    images: Tensor | Call,
    *,
    size: tuple[int, ...] | None = None,
    can_be_cut: bool = False,
) -> TargetLayer:
    """Choose the layer that the CAM family reads, by runs of the first image.

    In a convolutional network it is the last convolutional map, as in the papers (see `last_convolutional_map`). Else
    it is the last map, of any layout, on most of whose patches the score depends; where that is a sequence of tokens,
    the input of the last attention, since behind it a class token has read the patches already. It leaves the model as
    it was.

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.
        size: (h, w) of a convolutional map, to choose an earlier layer than the last; None for any size.
        can_be_cut: Whether to choose only a convolutional map through which every path from the images to the logits
            goes.

    Returns:
        The target layer, which `explain` takes as `layer`.

    Raises:
        ValueError: The model has no such layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
        >>> find_target_layer(model, torch.randn(1, 3, 8, 8)).name
        '1'
    """
    if size is None and not can_be_cut:
        layers = find_layers(model, images)
        if layers.target is None:
            raise ValueError(layers.problem)
        return layers.target
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        trace = Trace.of(isolated, call, image)
        found = last_convolutional_map(trace, size, can_be_cut=can_be_cut)
        map_sizes = {tuple(call.output.shape[2:]) for call in trace.calls if call.output.dim() == image.dim()}
    if found is None:
        described = ", ".join(map(times, sorted(map_sizes, reverse=True)))
        wanted = "" if size is None else f" of {times(size)} at this image size"
        raise ValueError(
            f"Expected a model with a convolutional map{wanted} where it can be cut, but the run shows no convolutional"
            f" map like this; its maps are {described or 'none'}."
        )
    return TargetLayer(found.name, found.activated, Layout(element=found.element))


def find_layers(model: nn.Module | Forward, images: Tensor | Call) -> Layers:
    """Find which layers of a model the methods read, by runs of the first image.

    A convolutional network without attention costs one forward; another model a backward and four forwards more, five
    of volumes and three of signals (see `probe`).

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        >>> find_layers(model, torch.randn(1, 3, 8, 8)).is_convolutional
        True
    """
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        _fill_zero_parameters(isolated.model)
        trace = Trace.of(isolated, call, image)
        has_boxes = isinstance(trace.task, Detection)
        if has_boxes and not reads_attention(trace):
            return _layers_of_boxes(trace)
        convolutional = last_convolutional_map(trace)
        if convolutional is not None and not _has_later_map(trace, convolutional):
            if has_boxes:  # whose attentions are in the backbone
                choice = _choice(isolated, call, image, trace, convolutional)
                return _layers_of_boxes(trace, choice)
            target = TargetLayer(convolutional.name, convolutional.activated, Layout(element=convolutional.element))
            attentions = _choice(isolated, call, image, trace, convolutional).layers() if trace.attentions else Layers()
            return replace(attentions, target=target, pooled=target, is_convolutional=True, problem="")
        return _choice(isolated, call, image, trace, convolutional).layers()


def _layers_of_boxes(trace: Trace, choice: LayerChoice | None = None) -> Layers:
    """Return the layers of a detector that reads boxes from convolutional maps, and so from no whole one.

    Args:
        trace: The trace of one image.
        choice: The choice among the maps of all layers, of a detector whose backbone is a transformer.
    """
    layouts = {} if choice is None else choice.layouts
    attentions = Layers() if choice is None else choice.layers()
    found = last_common_map(trace, layouts)
    if found is None:
        return Layers(problem=LayerChoice(trace, {}, {}, None).problem(), has_boxes=True)
    target = TargetLayer(found.name, found.activated, layouts.get(found.site, Layout(element=found.element)))
    return replace(attentions, target=target, pooled=target, has_boxes=True, problem="")


def _choice(isolated: Forward, call: Call, image: Tensor, trace: Trace, convolutional: LayerCall | None) -> LayerChoice:
    """Return the choice among the maps of all layers, whose layouts are found by a further run."""
    shapes = {output.site: output.output.shape for output in trace.calls}
    probed = probe(isolated, call, image, shapes)
    if convolutional is None:  # of a volume, the frames may be seen one by one
        of_frames = last_convolutional_map(trace, num_axes=1 + len(trace.image_size))
        convolutional = of_frames if of_frames is not None and of_frames.site in probed.layouts else None
    return LayerChoice(trace, probed.layouts, probed.orders, convolutional)


def with_layout(model: nn.Module | Forward, layer: TargetLayer, images: Tensor | Call) -> TargetLayer:
    """Return a layer with the layout in which its output is a map, by runs of the first image.

    It is returned as it is, without a layout, if its output is no map.
    """
    forward, call, image = _one_image(model, images)
    with forward.undisturbed() as isolated:
        trace = Trace.of(isolated, call, image)
        shapes = {output.site: output.output.shape for output in trace.calls if output.name == layer.name}
        layouts = probe(isolated, call, image, shapes).layouts
    return replace(layer, layout=next(iter(layouts.values()), None))


def _one_image(model: nn.Module | Forward, images: Tensor | Call) -> tuple[Forward, Call, Tensor]:
    forward = as_forward(model)
    call = (forward.on_device(images) if isinstance(images, Call) else forward.call_of(images))[:1]
    return forward, call, forward.floating_point_images(call).detach()


def _fill_zero_parameters(shadow: nn.Module) -> None:
    """Fill parameters that are all 0 with small noise, in a shadow: through a head that begins at 0 nothing is seen."""
    generator = torch.Generator().manual_seed(0)
    for module in shadow.modules():
        zeros = {name: value for name, value in own_parameters(module).items() if value.numel() and not value.any()}
        for name, value in zeros.items():
            noise = 0.02 * torch.randn(value.shape, generator=generator, device="cpu")
            replace_parameters(module, {name: nn.Parameter(noise.to(value))})


def _has_later_map(trace: Trace, convolutional: LayerCall) -> bool:
    """Whether something learned is applied after the last convolutional map to what may be a map as well."""
    nodes = trace.nodes()
    later = read_as_features(trace) & set(nodes[nodes.index(convolutional.node) + 1 :])
    return any(
        call.node in later
        and _may_be_map(call.output.shape, trace.image_size)
        and not is_class_scores(trace, call)
        and not only_pools(convolutional, call)
        for call in trace.calls
    )


def _may_be_map(shape: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether a tensor for one image of this shape may be a map of more than one position."""
    if len(shape) == 3:
        return min(shape[:2]) == 1 and max(shape[:2]) > 1 and shape[2] > 1
    if len(shape) != 2 + len(image_size) or shape[0] != 1:
        return False
    return any(math.prod(grid) > 1 and has_aspect(grid, image_size) for grid in (shape[2:], shape[1:-1]))
