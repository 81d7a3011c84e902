"""The functional face: a model and images in, raw attributions and heatmaps out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import METHODS, Normalize, blank_reasons, parse_methods, to_heatmaps
from lightning_saliency.evidence import (
    ForwardContext,
    Need,
    as_model_input,
    bare_module,
    collect,
    find_target_layer,
    undisturbed,
)
from lightning_saliency.layers import TargetLayer, name_layer
from lightning_saliency.targets import Target, Task, class_probabilities, parse_target, predicted_classes


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        images: The images as they were given, `(N, C, H, W)`, without their graph.
        logits: `(N, K)`, at least float32; K = 1 for a binary model with a single logit.
        scores: The explained logit per image, `(N,)`.
        classes: The explained class per image, `(N,)` int64; None where the target was a callable.
        attributions: The raw attributions of each method, `(N, 1, h, w)` float32, not normalised.
        layer: The target layer's name, which `explain` takes as `layer`; `:activated` behind it says that it was read
            after the activation function that follows it. None where no method needed a layer.
        task: What probabilities are made of the logits: softmax, or for `"multilabel"` each class's sigmoid.
        all_class_weights: For `class_maps`, where `cam` is among the methods; see `Evidence`.
        pooled_activations: The same.
    """

    images: Tensor
    logits: Tensor
    scores: Tensor
    classes: Tensor | None
    attributions: dict[str, Tensor]
    layer: str | None
    task: Task = "multiclass"
    all_class_weights: Tensor | None = None
    pooled_activations: Tensor | None = None

    @property
    def predictions(self) -> Tensor:
        """The predicted class per image, `(N,)` int64."""
        return predicted_classes(self.logits)

    @property
    def probabilities(self) -> Tensor:
        """The probability of each class, `(N, K)`; `(N, 2)` for a single logit."""
        return class_probabilities(self.logits, self.task)

    def heatmaps(self, size: Sequence[int] | None = None, normalize: Normalize = "max") -> dict[str, Tensor]:
        """The attributions as heatmaps in [0, 1], `(N, 1, H, W)` float32.

        Args:
            size: (H, W); the images' own by default.
            normalize: See `lightning_saliency.attribution.to_heatmaps`.
        """
        size = size or self.images.shape[2:]
        return {method: to_heatmaps(raw, size, normalize) for method, raw in self.attributions.items()}

    def class_maps(self, classes: Tensor | None = None) -> Tensor:
        """The CAMs of several classes of each image, from the same forward; where `cam` is among the methods.

        Args:
            classes: `(N, k)` int64; all classes by default.

        Returns:
            `(N, k, h, w)` float32, signed.

        Raises:
            ValueError: `cam` is not among the methods.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
            >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods="cam", layer="0")
            >>> explanation.class_maps(explanation.logits.topk(3).indices).shape
            torch.Size([2, 3, 30, 30])
        """
        if self.all_class_weights is None or self.pooled_activations is None:
            raise ValueError("Expected `cam` among the methods, for the maps of several classes: it is not.")
        if classes is None:
            return torch.einsum("kd,ndhw->nkhw", self.all_class_weights, self.pooled_activations).float()
        return torch.einsum("nkd,ndhw->nkhw", self.all_class_weights[classes], self.pooled_activations).float()

    def blanks(self, normalize: Normalize = "max") -> dict[str, list[str | None]]:
        """For each map the reason why its heatmap is blank, or None."""
        return {method: blank_reasons(raw, normalize) for method, raw in self.attributions.items()}


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    methods: str | Iterable[str] = ("grad_cam",),
    target: Target = None,
    layer: str | nn.Module | TargetLayer | None = None,
    output_fn: Callable[[Any], Tensor] | None = None,
    task: Task = "multiclass",
    chunk_size: int | None = None,
    forward_context: ForwardContext = nullcontext,
) -> Explanation:
    """Explain what a model sees in images, by any set of methods from one shared pass.

    One forward, and one backward if a method needs a gradient. The model is run in eval mode and left exactly as it
    was: modes, gradients, buffers, random states and hooks. It works under `no_grad` and `inference_mode`, and on
    frozen models.

    Args:
        model: Any module that returns logits: `(N, K)`, or `(N,)` / `(N, 1)` for a binary model, whose class 1 is
            explained by the logit and class 0 by its negative; or a tuple, dict or object that holds them.
        images: `(N, C, H, W)`, as the model takes them; moved to its device and precision.
        methods: Keys of `lightning_saliency.METHODS`.
        target: Which class is explained: None (the predicted one), an int, one class per image `(N,)`, or a callable
            from logits `(n, K)` to scores `(n,)`, which sees one chunk at a time.
        layer: Whose activations the CAM methods read: None (found from a run of one image, as the papers choose it), a
            dotted name, a module of the model, or what `find_target_layer` returned, which saves that run.
        output_fn: Takes the logits out of what the model returns, where that is not found by itself.
        task: For the probabilities only: `"multiclass"` (softmax), or `"multilabel"` (each class's sigmoid).
        chunk_size: At most so many images at a time, which bounds the memory; the result does not depend on it.
        forward_context: Makes the context for the forward, for instance
            `lambda: torch.autocast("cuda", torch.bfloat16)`.

    Returns:
        The explanation; its tensors are on the model's device and carry no graph.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit; the model has no such layer; a method's condition does not hold (`cam` on
            a model without global average pooling before its linear layer).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> explanation.layer
        '1'
        >>> {method: tuple(maps.shape) for method, maps in explanation.heatmaps().items()}
        {'grad_cam': (2, 1, 32, 32), 'saliency': (2, 1, 32, 32)}
    """
    keys = parse_methods(methods)
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected `model` to be a torch.nn.Module, got {type(model).__name__}.")
    check_images(images)
    if task not in get_args(Task):
        raise ValueError(f"Expected `task` to be one of {', '.join(get_args(Task))}, got {task!r}.")
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"Expected `chunk_size` to be a positive int or None, got {chunk_size!r}.")
    images = images.detach()
    parsed = parse_target(target, len(images))
    needs = frozenset[Need]().union(*(METHODS[key].needs for key in keys))
    model = bare_module(model)
    if layer is not None and not isinstance(layer, TargetLayer):
        layer = name_layer(model, layer)
    if needs == {"input_grads"}:
        layer = None

    inputs = as_model_input(model, images)
    with undisturbed(model):
        if layer is None and needs != {"input_grads"}:
            layer = find_target_layer(model, inputs, output_fn=output_fn, forward_context=forward_context)

        def explain_chunk(chunk: slice) -> Explanation:
            evidence = collect(
                model,
                inputs[chunk],
                target=parsed[chunk] if isinstance(parsed, Tensor) else parsed,
                needs=needs,
                layer=layer,
                output_fn=output_fn,
                forward_context=forward_context,
            )
            return Explanation(
                images=images[chunk],
                logits=evidence.logits,
                scores=evidence.scores,
                classes=evidence.classes,
                attributions={key: METHODS[key].function(evidence).float() for key in keys},
                layer=str(layer) if layer else None,
                task=task,
                all_class_weights=evidence.all_class_weights,
                pooled_activations=evidence.pooled_activations,
            )

        step = chunk_size or len(images)
        parts = [explain_chunk(slice(start, start + step)) for start in range(0, len(images), step)]
    return _joined(images, parts)


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images.

    Raises:
        TypeError: `images` is not a floating-point tensor.
        ValueError: It is not of shape `(N, C, H, W)`, or empty.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Expected `images` to be a tensor (N, C, H, W), got {type(images).__name__}.")
    if images.dim() != 4 or not images.numel():
        hint = " For one image pass `image[None]`." if images.dim() == 3 else ""
        raise ValueError(f"Expected `images` to be (N, C, H, W), got shape {tuple(images.shape)}.{hint}")
    if not images.is_floating_point():
        raise TypeError(
            f"Expected `images` to be floating point, as the model takes them, got {images.dtype}. "
            "Convert and normalise them as in training."
        )


def _joined(images: Tensor, parts: Sequence[Explanation]) -> Explanation:
    classes = [part.classes for part in parts if part.classes is not None]
    pooled = [part.pooled_activations for part in parts if part.pooled_activations is not None]
    return Explanation(
        images=images,
        logits=torch.cat([part.logits for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        classes=torch.cat(classes) if classes else None,
        attributions={key: torch.cat([part.attributions[key] for part in parts]) for key in parts[0].attributions},
        layer=parts[0].layer,
        task=parts[0].task,
        all_class_weights=parts[0].all_class_weights,
        pooled_activations=torch.cat(pooled) if pooled else None,
    )
