"""Whether heatmaps see what the model has learned: what is left of them when its head is random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency.attribution import MethodOptions
from lightning_saliency.evidence import ForwardContext, bare_module, find_head, own_parameters, replaced_parameters
from lightning_saliency.explain import Explanation, Fuse, explain
from lightning_saliency.metrics import rank_correlation

_SIDE = 32
"""Heatmaps are compared at so many pixels a side: the ranks of more say no more, and cost a sort."""

_STD = 0.02
"""Of the weights that are drawn where there is nothing to shuffle: what networks are often initialised with."""


@contextmanager
def randomised_head(
    model: nn.Module,
    images: Tensor,
    *,
    seed: int = 0,
    output_fn: Callable[[Any], Tensor] | None = None,
    forward_context: ForwardContext = nullcontext,
) -> Iterator[str]:
    """Let the layer that makes the logits have random weights for a while.

    The first step of the cascading randomisation of Adebayo et al. 2018, "Sanity Checks for Saliency Maps". The values
    of each of the layer's parameters are shuffled, which keeps their scale and needs no rule for initialising; weights
    that are all equal are drawn from a normal distribution of standard deviation 0.02 instead. The layer is found by
    `lightning_saliency.evidence.find_head`, which costs one forward of one image.

    For the duration the layer holds other parameters: the originals are not written to, and are back afterwards, also
    after an error. Do not train inside.

    Args:
        model: Any model of images that returns logits.
        images: `(N, C, H, W)`, of which the first shows which layer makes the logits.
        seed: Of the shuffling, which draws nothing from the global random state.
        output_fn: Takes the logits out of what the model returns.
        forward_context: Makes the context for that forward, for instance autocast.

    Yields:
        The layer's dotted name; empty where the weight is the model's own.

    Raises:
        TypeError: `seed` is no int.
        ValueError: The logits depend on no weight.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> images, learned = torch.randn(2, 3, 32, 32), model[4].weight
        >>> with randomised_head(model, images) as head:
        ...     print(head, torch.equal(model[4].weight, learned))
        4 False
        >>> model[4].weight is learned
        True
    """
    if not isinstance(seed, int):
        raise TypeError(f"Expected `seed` to be an int, got {seed!r}.")
    name = find_head(model, images, output_fn=output_fn, forward_context=forward_context)
    head = dict(bare_module(model).named_modules())[name]
    with replaced_parameters(head, _shuffled(own_parameters(head), seed)):
        yield name


def head_similarity(
    model: nn.Module,
    explanation: Explanation,
    *,
    seed: int = 0,
    fuse: Fuse | None = None,
    flip: bool = False,
    method_options: MethodOptions | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
    forward_context: ForwardContext = nullcontext,
) -> dict[str, Tensor]:
    """How alike the heatmaps stay when the layer that makes the logits is random; lower is better.

    Adebayo et al. 2018, "Sanity Checks for Saliency Maps": Spearman's rank correlation of each heatmap with that of the
    same image, class and method where `randomised_head` has taken from the model what its head has learned. 1: the map
    is the same; it may show what is in the image, but nothing of why the model decides for this class. Around 0: the
    map comes from what was learned. Heatmaps of more than 32 pixels a side are averaged down to that before.

    It costs what `explain` of these methods costs, without the search for the layer, and one forward of one image.

    Args:
        model: The model that was explained, in the same state.
        explanation: What `explain` found, for classes that it knows (its target was no callable).
        seed: Of the random weights.
        fuse: As the explanation was made.
        flip: As the explanation was made.
        method_options: As the explanation was made.
        output_fn: As the explanation was made.
        chunk_size: As for `explain`.
        progress: As for `explain`.
        forward_context: As the explanation was made.

    Returns:
        By the keys of `explanation.attributions`, of each image the correlation: `(N,)` float32 in [-1, 1]; NaN where
        one of the two heatmaps is blank.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: The explanation knows no classes, or was made with another `fuse`; the logits depend on no weight;
            or what `explain` raises.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["eigen_cam", "saliency"])
        >>> similarity = head_similarity(model, explanation)
        >>> similarity["eigen_cam"]  # which reads the activations alone
        tensor([1., 1.])
        >>> similarity["saliency"] < 1
        tensor([True, True])
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"Expected `explanation` to be what `explain` returned, got {type(explanation).__name__}.")
    if explanation.classes is None:
        raise ValueError(
            "Expected `explanation` to be of classes, which a random head can be asked for too, got one of a callable "
            "target."
        )
    run: dict[str, Any] = {"output_fn": output_fn, "forward_context": forward_context}
    with randomised_head(model, explanation.images, seed=seed, **run):
        randomised = explain(
            model,
            explanation.images,
            methods=[key.partition("@")[0] for key in explanation.attributions],
            target=explanation.classes,
            layer=explanation.layers or None,
            fuse=fuse,
            flip=flip,
            method_options=method_options,
            chunk_size=chunk_size,
            progress=progress,
            **run,
        )
    if set(randomised.attributions) != set(explanation.attributions):
        raise ValueError(
            f"Expected `fuse` to be what the explanation was made with, got {fuse!r}, with which the maps are "
            f"{', '.join(randomised.attributions)} and not {', '.join(explanation.attributions)}."
        )
    others = randomised.heatmaps()
    return {
        key: rank_correlation(_small(heatmaps), _small(others[key])) for key, heatmaps in explanation.heatmaps().items()
    }


def _small(heatmaps: Tensor) -> Tensor:
    height, width = heatmaps.shape[2:]
    return F.adaptive_avg_pool2d(heatmaps, (min(height, _SIDE), min(width, _SIDE)))


def _shuffled(parameters: Mapping[str, Tensor], seed: int) -> dict[str, nn.Parameter]:
    """Of each parameter another one, with its values at other places."""
    generator = torch.Generator().manual_seed(seed)
    weights = [parameter for parameter in parameters.values() if parameter.dim() >= 2]
    nothing_to_shuffle = all(bool(weight.min() == weight.max()) for weight in weights)

    def shuffled(parameter: Tensor) -> Tensor:
        if nothing_to_shuffle and parameter.dim() >= 2:
            return _STD * torch.randn(parameter.shape, generator=generator)
        order = torch.randperm(parameter.numel(), generator=generator)
        return parameter.flatten()[order.to(parameter.device)].view(parameter.shape)

    with torch.inference_mode(False), torch.no_grad():  # parameters made in inference mode would have no gradient
        return {
            name: nn.Parameter(shuffled(parameter).to(parameter), requires_grad=parameter.requires_grad)
            for name, parameter in parameters.items()
        }
