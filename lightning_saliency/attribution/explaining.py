"""`explain`: the raw attributions of a model's scores for images, by any set of methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_saliency._checks import (
    check_choice,
    check_count,
    check_each,
    check_flag,
    check_function,
    check_text,
    describe_error,
    optional,
    refuse,
    shown,
)
from lightning_saliency.attribution.explanation import Explanation
from lightning_saliency.attribution.inputs import parse_inputs
from lightning_saliency.attribution.methods import MethodChoice, parse_methods
from lightning_saliency.attribution.running import explain_call
from lightning_saliency.attribution.settings import Fuse, Settings
from lightning_saliency.data import Call, find_class_names
from lightning_saliency.evidence import (
    TASKS,
    Forward,
    Target,
    TargetChoice,
    TargetLayer,
    TaskName,
    as_forward,
    call_note,
    name_layer,
)

Layer: TypeAlias = str | nn.Module | TargetLayer
"""A dotted name, a module of the model, or what `find_target_layer` returned."""


def explain(
    model: nn.Module | Forward,
    images: Any,
    *,
    methods: MethodChoice | None = ("grad_cam",),
    target: TargetChoice | Target = None,
    layer: Layer | Sequence[Layer] | None = None,
    transform: Callable[..., Any] | None = None,
    weights: Any = None,
    class_names: Sequence[str] | None = None,
    fuse: Fuse | None = None,
    flip: bool = False,
    task: TaskName | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Explanation:
    """Explain a model's scores for images: attributions by any set of methods, from one shared pass.

    Each image goes forward once, and backward once if a method needs a gradient. The model is run in eval mode and left
    exactly as it was: modes, gradients, buffers, random states and hooks. It works under `no_grad` and
    `inference_mode`, and on frozen models.

    Args:
        model: Any module that returns logits: `(N, K)`, or `(N,)` / `(N, 1)` for a binary model, whose class 1 is
            explained by the logit and class 0 by its negative; or a tuple, dict or object that holds them. Or how it is
            run: `Forward(model, output_fn=..., context=...)`.
        images: `(N, C, H, W)` or one `(C, H, W)`, as the model takes them; moved to its device and precision. Or
            volumes and videos `(N, C, D, H, W)`; or signals `(N, C, T)`, which are told from one image by whether the
            model takes them. Or a list of images `(C, H, W)` of one size. Or a photograph, or a list of them, with
            `transform` or `weights`: a path, an image of Pillow, an array `(H, W, C)` or a tensor `(C, H, W)` of uint8.
            Or any of these with labels: a batch of a loader, `(images, labels)`, or an entry of a data set. Or for a
            model that takes more than images what it is called with: a pair of positional and keyword arguments,
            `((image, metadata), {})`, or what `lightning_saliency.data.make_call` returns. Maps have as many spatial
            axes as the images.
        methods: Keys of `lightning_saliency.METHODS`, however they are spelled: `"Grad-CAM++"`, `"ig"`; or by key
            options of its function in `lightning_saliency.attribution`, such as
            `{"smooth_grad": {"num_samples": 50}, "grad_cam": {"principal": True}, "saliency": {"reduce": "signed"}}`.
            None for Grad-CAM.
        target: Which class is explained: an index, from the end where it is negative; a name, `"tiger cat"`, where
            case, underscores and hyphens do not matter; one of these per image; `"label"`, the true class, where labels
            came with the images; `"predicted"`; or a callable from logits `(n, K)` to scores `(n,)`, called with one
            chunk at a time. Default: the label where it is known, else the predicted one. Beside the map of a label
            stands that of the predicted class, where this is another one. Of embeddings, it is the similarity to
            themselves (see `lightning_saliency.evidence.Embedding`), and that to a reference
            `target=lambda embeddings: embeddings @ reference`.
        layer: The target layer, whose activations the CAM methods read: None (chosen as the papers do, by a run of one
            image), a dotted name, a module of the model, or what `find_target_layer` returned, which saves that
            run. Several layers are read from the same pass.
        transform: What turns a photograph, an RGB image of Pillow, into a tensor `(C, H, W)`: that of the validation.
        weights: torchvision's weights of the model, `ResNet50_Weights.DEFAULT`, for their transform and class names.
        class_names: The names of the classes. Default: those of `weights`, or that the model has in its config, if any.
        fuse: How the maps of several layers become one: the `"mean"` or `"max"` of their heatmaps; None for one map per
            layer.
        flip: Explain the images mirrored along their last axis too, and take the mean: every pass is run twice, for
            smoother maps.
        task: What the model's output means: `"multiclass"` (softmax), `"multilabel"` (each class's sigmoid),
            `"ordinal"` (K logits of exceeding each but the last of K + 1 ranks), `"regression"` (values, of which
            `target` is one, by default the first), `"segmentation"` (scores of pixels, `(N, K, H, W)`: a class's mean
            over its pixels), `"multilabel_segmentation"` (overlapping classes, each with a sigmoid of its own),
            `"detection"` or `"detection_softmax"` (class scores of boxes, `(N, Q, K)`: the odds of a class's best box),
            or `"embedding"` (a vector `(N, K)` whose similarity to itself is explained). Default: found, as far as the
            output's form tells; that lists of detections are such, `"detection_list"`, always is.
        chunk_size: The most images that go through the model together, which bounds the memory; but for rounding, the
            result does not depend on it. On a CPU it is about eight of 224×224 in any case, which is faster.
        progress: Whether to show a progress bar for methods that take many passes and more than a few seconds.

    Returns:
        The explanation; its tensors are on the model's device and carry no graph.

    Raises:
        TypeError: An argument is of the wrong kind.
        RuntimeError: The model itself fails on the images; its own error is the cause.
        ValueError: An argument does not fit; labels are not one for each image; the model has no such layer; a method's
            condition does not hold (`cam` on a model without global average pooling before its linear layer).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> explanation.layer
        '1'
        >>> {method: tuple(maps.shape) for method, maps in explanation.heatmaps().items()}
        {'grad_cam': (2, 1, 32, 32), 'saliency': (2, 1, 32, 32)}
    """
    parsed = parse_methods("grad_cam" if methods is None else methods)
    transform = check_function("transform", transform) or _transform_of(weights)
    check_choice("task", task, (*get_args(TaskName), None))
    check_choice("fuse", fuse, (*get_args(Fuse), None))
    flip, progress = check_flag("flip", flip), check_flag("progress", progress)
    chunk_size = optional(check_count)("chunk_size", chunk_size)
    forward = as_forward(model)
    forward = forward if task is None else replace(forward, task=TASKS[task])
    given_names = optional(partial(check_each, check=check_text, of="names"))("class_names", class_names)
    inputs = parse_inputs(forward, images, transform)
    names = given_names or _names_of(weights) or find_class_names(forward.model)
    of_target = _parse_target(target, inputs.labels, names)
    settings = Settings(
        forward,
        parsed,
        of_target,
        _parse_layers(forward.model, layer),
        fuse=fuse,
        flip=flip,
        chunk_size=chunk_size,
        progress=progress,
        compares=of_target.choice == "label",
    )
    chosen = settings.target.resolve(len(inputs.call), labels=inputs.labels)
    with _told_of_images(inputs.call):
        explanation = explain_call(settings, inputs.call, chosen)
    fitting = _names_that_fit(given_names, _names_of(weights), forward.model, explanation.num_classes)
    return replace(explanation, labels=inputs.labels, class_names=fitting, transform=inputs.transform)


@contextmanager
def _told_of_images(call: Call) -> Iterator[None]:
    """Within the context raise an error that a model itself raises as one of the images that it was called with."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError):  # which callers answer by smaller chunks
        raise
    except Exception as error:
        note = call_note(error)
        if note is None:
            raise
        raise RuntimeError(
            f"The model failed on images of shape {tuple(call.first_repeated.shape)}. "
            f"{describe_error(error).rstrip('.')}. {note} Pass the images as in training, of the channels and the size "
            "that the model takes, and for a model that takes more than images what it is called with, a pair "
            "`(args, kwargs)`."
        ) from error


def _parse_target(target: TargetChoice | Target, labels: Tensor | None, names: Sequence[str] | None) -> Target:
    """Return the target, with its classes by index; the default is the label where it is known."""
    parsed = target if isinstance(target, Target) else Target(target)
    if isinstance(target, str) and target == "label" and labels is None:
        raise ValueError(
            "Expected `target` to be the labels themselves, got 'label': pass a batch with them, `(images, labels)`, "
            "or `target=labels`."
        )
    return Target("label") if parsed.choice is None and labels is not None else parsed.named(names)


def _names_of(weights: Any) -> tuple[str, ...] | None:
    """Return the names of the classes of torchvision's weights."""
    names = getattr(weights, "meta", {}).get("categories")
    return None if names is None else tuple(names)


def _names_that_fit(
    given: tuple[str, ...] | None, known: tuple[str, ...] | None, model: nn.Module, num_classes: int
) -> tuple[str, ...] | None:
    """Return the names of the classes: those that were passed, those of the weights, or the model's, if any.

    Raises:
        ValueError: There is another number of those that were passed; of weights that were fine-tuned, that is usual.
    """
    if given is not None and len(given) != num_classes:
        refuse("class_names", f"the names of the model's {num_classes} classes", f"{len(given)} names")
    if given is None and (known is None or len(known) != num_classes):
        known = tuple(find_class_names(model, num_classes=num_classes) or ()) or None
    return given or known


def _transform_of(weights: Any) -> Callable[..., Any] | None:
    """Return the transform that belongs to torchvision's weights.

    Raises:
        TypeError: They are no such weights.
    """
    if weights is None:
        return None
    if not callable(getattr(weights, "transforms", None)) or not isinstance(getattr(weights, "meta", None), Mapping):
        refuse(
            "weights",
            "an entry of one of torchvision's enums of weights",
            shown(weights),
            hint="A text does not say of which model: pass the entry of the model's own enum, such as "
            "`torchvision.models.ResNet50_Weights.DEFAULT` of `resnet50`. For any other model pass `transform=...` and "
            "`class_names=[...]`.",
            error=TypeError,
        )
    transform: Callable[..., Any] = weights.transforms()
    return transform


def _parse_layers(model: nn.Module, layer: Layer | Sequence[Layer] | None) -> tuple[TargetLayer, ...]:
    """Return the target layers that the user named; empty where the layer is to be chosen automatically.

    Raises:
        ValueError: A layer is named twice.
    """
    if layer is None:
        return ()
    chosen: Sequence[Any] = layer if isinstance(layer, list | tuple) else [layer]
    layers = tuple(item if isinstance(item, TargetLayer) else name_layer(model, item) for item in chosen)
    names = list(map(str, layers))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Expected `layer` to name different layers, got {names}.")
    return layers
