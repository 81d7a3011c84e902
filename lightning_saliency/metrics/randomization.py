"""Whether heatmaps see what the model has learned: what is left of them when its head is random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Explanation, explain_call
from lightning_saliency.data import Call
from lightning_saliency.evidence import Forward, Shadow, as_forward, find_head, own_parameters, replace_parameters
from lightning_saliency.metrics.metric import Metric
from lightning_saliency.metrics.similarity import RANK_CORRELATION, coarse, rank_correlation

_STD = 0.02
"""Of the weights that are drawn where there is nothing to shuffle: what networks are often initialized with."""


def randomized_head(model: nn.Module | Forward, images: Tensor | Call, *, seed: int = 0) -> Forward:
    """Return how a model is run with random weights in its head, the layer that computes the logits.

    The first step of the cascading randomization of Adebayo et al. 2018, "Sanity Checks for Saliency Maps". The values
    of each of the layer's parameters are shuffled, which keeps their scale and needs no rule for initializing; weights
    that are all equal are drawn from a normal distribution of standard deviation 0.02 instead. The layer is found by
    `lightning_saliency.evidence.find_head`, which costs one forward of one image.

    The model itself keeps its weights: each pass runs a shadow of it, and the shadow's head is random.

    Args:
        model: Any model of images that returns logits, or how it is run.
        images: `(N, C, H, W)`, or what the model is called with; the first shows which layer computes the logits.
        seed: The seed of the shuffling, which draws nothing from the global random state.

    Returns:
        What `lightning_saliency.explain` takes as its model.

    Raises:
        TypeError: `seed` is not an int.
        ValueError: The logits depend on no weight.

    Example:
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> images = torch.randn(2, 3, 32, 32)
        >>> randomized = explain(randomized_head(model, images), images)
        >>> torch.equal(randomized.logits, model(images))
        False
    """
    if not isinstance(seed, int):
        raise TypeError(f"Expected `seed` to be an int, got {seed!r}.")
    forward = as_forward(model)
    name = find_head(forward, images)

    def randomize(shadow: Shadow) -> None:
        head = shadow.of(forward.model).get_submodule(name)
        replace_parameters(head, _shuffled(own_parameters(head), seed))

    prepare = (*forward.surroundings.prepare, randomize)
    return replace(forward, surroundings=replace(forward.surroundings, prepare=prepare))


def measure_head_randomization(
    model: nn.Module | Forward, explanation: Explanation, *, heatmaps: Mapping[str, Tensor] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Compare the heatmaps with those of the same model whose last layer has random weights; lower is better.

    Adebayo et al. 2018, "Sanity Checks for Saliency Maps": Spearman's rank correlation of each heatmap with that of the
    same image, class and method where `randomized_head` has taken from the model what its head has learned. 1: the map
    is the same; it may show what is in the image, but nothing of why the model decides for this class. Around 0: the
    map comes from what was learned. Heatmaps of more than 32 pixels a side are averaged down to that before.

    It costs what `explain` of these methods costs, without the search for the layer, and one forward of one image.

    Args:
        model: The model that was explained, in the same state; or how it is run.
        explanation: What `explain` found; its target was no callable. Of embeddings, those of the random head are
            compared with themselves.
        heatmaps: By method, `(N, 1, H, W)`, where they are there: `explanation.heatmaps()` by default.
        seed: Of the random weights.

    Returns:
        By the keys of `explanation.attributions`, of each image the correlation: `(N,)` float32 in [-1, 1]; NaN where
        one of the two heatmaps is blank.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: The target was a callable, or the explanation has no map of a heatmap's name; the logits depend on
            no weight; or what `explain` raises.

    Example:
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["eigen_cam", "saliency"])
        >>> similarity = measure_head_randomization(model, explanation)
        >>> similarity["eigen_cam"]  # which reads the activations alone
        tensor([1., 1.])
        >>> similarity["saliency"] < 1
        tensor([True, True])
    """
    if not isinstance(explanation, Explanation):
        raise TypeError(f"Expected `explanation` to be what `explain` returned, got {type(explanation).__name__}.")
    if explanation.settings.target.is_function:
        raise ValueError(
            "Expected `explanation` to be of classes, which a random head can be asked for too, got one of a callable "
            "target."
        )
    chosen = explanation.heatmaps() if heatmaps is None else heatmaps
    for key in chosen:
        if key not in explanation.attributions:
            raise ValueError(f"Expected `heatmaps` of {', '.join(explanation.attributions)}, got {key!r}.")
    forward = randomized_head(explanation.settings.forward_of(model), explanation.call, seed=seed)
    settings = replace(explanation.settings, forward=forward, progress=False)
    randomized = explain_call(settings, explanation.call, explanation.classes).heatmaps()
    return {key: rank_correlation(coarse(maps), coarse(randomized[key])) for key, maps in chosen.items()}


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


ROWS: tuple[Metric, ...] = (
    replace(
        RANK_CORRELATION, name="rank_correlation_random_head", higher_is_better=False,
        description="Spearman's rank correlation with the map of the network with a random head; "
        "from 0.6 on, a warning",
        section="with `randomization_every_n_epochs`",
    ),
)  # fmt: skip
