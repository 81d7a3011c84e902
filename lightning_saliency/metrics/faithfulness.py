"""How much the model itself relies on what heatmaps mark: metrics of its scores for changed images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lightning_saliency._checks import check_count, check_shape, check_type, refuse
from lightning_saliency.attribution import Explanation
from lightning_saliency.data import over_axes, shorter_lengths, spatial_axes
from lightning_saliency.evidence import (
    Forward,
    as_forward,
    check_classes,
    forward_logits_in_chunks,
)
from lightning_saliency.metrics._maps import at_least_float32
from lightning_saliency.metrics.metric import Metric

_BLUR_SIGMA, _BLUR_RADIUS, _BLUR_SIDE = 5, 5, 224
"""σ and reach of the blur, in pixels, as the authors of RISE have them, and the side of their images."""


def average_drop(before: Tensor, after: Tensor) -> Tensor:
    """Return the fraction of its confidence that the model loses when it sees only what the heatmap marks.

    max(0, before − after) / before, Chattopadhyay et al. 2018, "Grad-CAM++". The paper's figure is the
    mean over the images, in percent. Lower is better: the heatmap has kept what mattered.

    Args:
        before: `(N,)`, the explained class's probability for the full image.
        after: `(N,)`, that for the image times its heatmap.

    Returns:
        `(N,)` in [0, 1], if these are probabilities; NaN where `before` is not positive, or one is NaN.

    Raises:
        ValueError: They are not `(N,)`, both.

    Example:
        >>> average_drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([0.2500, 0.0000])
    """
    before, after = _checked(before, after)
    return torch.where(before > 0, (before - after).clamp(min=0) / before, torch.nan)


def increase_in_confidence(before: Tensor, after: Tensor) -> Tensor:
    """Return whether the model is more confident when it sees only what the heatmap marks.

    after > before, Chattopadhyay et al. 2018, "Grad-CAM++". The paper's figure is the percentage of
    the images. Higher is better: the heatmap has left out what confused.

    Args:
        before: `(N,)`, the explained class's probability for the full image.
        after: `(N,)`, that for the image times its heatmap.

    Returns:
        `(N,)` bool, True is better; NaN is no increase.

    Raises:
        ValueError: They are not `(N,)`, both.

    Example:
        >>> increase_in_confidence(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([False,  True])
    """
    before, after = _checked(before, after)
    return after > before


def area_under_curve(curves: Tensor) -> Tensor:
    """Return the area under each curve of scores, such as those of deletion and insertion, by the trapezoidal rule.

    Petsiuk et al. 2018, "RISE", take an image's pixels away, the most important
    first, or put them in, and note the explained class's probability at each step. Deletion: lower is better, it falls
    early. Insertion: higher is better, it rises early.

    Args:
        curves: `(N, S)`, the scores at S ≥ 2 equally spaced steps from none of the pixels (0) to all of them (1).

    Returns:
        `(N,)`, in the scores' range: [0, 1] for probabilities; NaN where one is NaN.

    Raises:
        ValueError: The curves are not `(N, S)` with S ≥ 2.

    Example:
        >>> area_under_curve(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.0]]))
        tensor([0.5000, 0.2500])
    """
    if curves.dim() != 2 or curves.shape[1] < 2:
        refuse("curves", "(N, S) with 2 steps or more", f"shape {tuple(curves.shape)}")
    return torch.trapezoid(at_least_float32(curves), dx=1 / (curves.shape[1] - 1), dim=1)


def _checked(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    check_shape("before", before, ("N",))
    check_shape("after", after, tuple(before.shape), "as `before`")
    return at_least_float32(before), at_least_float32(after)


AREA_UNDER_CURVE = Metric(
    "area_under_curve", area_under_curve, "area under the curve of scores", inputs=(), range=(0, 1),
    higher_is_better=None, worst=0,
)  # fmt: skip

_of_scores = partial(Metric, inputs=(), range=(0, 1), section="with `faithfulness`")
_GRAD_CAM_PLUS_PLUS = "[Chattopadhyay 2018](https://arxiv.org/abs/1710.11063)"
_RISE = "[Petsiuk 2018](https://arxiv.org/abs/1806.07421)"

ROWS: tuple[Metric, ...] = (
    _of_scores(
        "average_drop", average_drop, higher_is_better=False, worst=1, paper=_GRAD_CAM_PLUS_PLUS,
        description="fraction of the class's probability that is lost where the image is multiplied by the map",
    ),
    _of_scores(
        "increase_in_confidence", increase_in_confidence, higher_is_better=True, worst=0, paper=_GRAD_CAM_PLUS_PLUS,
        description="fraction of the images where the class's probability rises by that instead",
    ),
    _of_scores(
        "deletion", area_under_curve, higher_is_better=False, worst=1, paper=_RISE,
        description="area under the curve of the probability while pixels are deleted, the most important first",
    ),
    _of_scores(
        "insertion", area_under_curve, higher_is_better=True, worst=0, paper=_RISE,
        description="area under the same curve while pixels are inserted into a blurred copy",
    ),
)  # fmt: skip


def measure_faithfulness(
    model: nn.Module | Forward,
    explanation: Explanation,
    *,
    heatmaps: Mapping[str, Tensor] | None = None,
    steps: int = 16,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """Measure what the explained class's probability does when the image is changed as a heatmap says.

    Y is the explained class's probability for the image x, as in `Explanation.probabilities`, and H the heatmap at the
    image's size. Of each image:

    - `average_drop` (Chattopadhyay et al. 2018, "Grad-CAM++", section 4.1): max(0, Y − O) / Y, where O is the
      probability for x ⊙ H. In [0, 1], lower is better; NaN where Y is 0.
    - `increase_in_confidence` (the same): 1 where O > Y, else 0; higher is better.
    - `deletion` (Petsiuk et al. 2018, "RISE"): the area under the curve of the probability while pixels are set to 0,
      those with the highest H first. In [0, 1], lower is better.
    - `insertion` (the same): the area under the curve while pixels of the image take the place of those of its blurred
      copy, those with the highest H first. In [0, 1], higher is better.

    0 is the mean color where the input is normalized. The blur is Gaussian, as by the authors of RISE: σ = 5 pixels,
    cut off at 5 pixels to either side, and in proportion more where the image's shorter side is longer than 224 (along
    the depth of a volume, where that is). A
    curve has `steps + 1` points, at equal shares of the pixels; pixels of the same value go row by row. A heatmap that
    is blank, the same everywhere or not finite marks nothing: all four are NaN.

    It takes forward passes alone. Through the model go 2N + 1 images (each whole, each blurred, one empty) and for each
    heatmap N · (2 · `steps` − 1), `batch_size` of them in a forward; the result does not depend on `batch_size`. The
    model is run in eval mode and left exactly as it was, as by `explain`.

    Args:
        model: The model that was explained, which is run as it was for the explanation; or how it is run.
        explanation: What `explain` found, for classes that it knows (its target was no callable).
        heatmaps: By name, of each image one in [0, 1] at its size, `(N, 1, H, W)`: `explanation.heatmaps()` by default.
        steps: In how many equal parts the pixels are deleted and inserted.
        batch_size: How many images at most go through the model at a time.

    Returns:
        By heatmap, by metric, a value per image: `(N,)`, on the model's device, at least float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: The explanation knows no classes, or the model does not have them; the heatmaps do not fit the
            images; `steps` or `batch_size` is not a positive int.

    Example:
        >>> from lightning_saliency import explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> explanation = explain(model, torch.randn(2, 3, 32, 32), methods=["grad_cam", "saliency"])
        >>> measured = measure_faithfulness(model, explanation, steps=8)
        >>> list(measured), list(measured["saliency"])
        (['grad_cam', 'saliency'], ['average_drop', 'increase_in_confidence', 'deletion', 'insertion'])
        >>> measured["saliency"]["deletion"].shape
        torch.Size([2])
    """
    classes = _check(model, explanation, steps, batch_size)
    call = explanation.call
    # what else the model is called with may differ from sample to sample: then so does what it says of the empty image
    empty_rows = range(len(call) if len(call.per_sample) > 1 else 1)
    with explanation.settings.forward_of(model).undisturbed() as isolated:
        images = explanation.inputs
        images = images.to(torch.promote_types(images.dtype, torch.float32))  # for the blur is a sum
        maps = _parse_heatmaps(explanation.heatmaps(images.shape[2:]) if heatmaps is None else heatmaps, images)
        copies = _copies(images, maps.values(), steps, empty_rows)
        logits = forward_logits_in_chunks(isolated, call, copies, batch_size=batch_size)
    check_classes(classes, logits, explanation.task)
    # of each row, the probability of each image's class
    probabilities = explanation.task.probabilities(logits)
    if probabilities is None:
        raise ValueError(
            "Expected an explanation of classes, whose probability faithfulness measures, got one of values "
            f"({explanation.task.name})."
        )
    return _measured(probabilities[:, classes.to(logits.device)], maps, steps, len(empty_rows))


def _measured(
    probabilities: Tensor, heatmaps: Mapping[str, Tensor], steps: int, num_empty: int
) -> dict[str, dict[str, Tensor]]:
    """The metrics, from the probabilities of what `_copies` made, in that order, for the classes of the N images."""
    num_images = probabilities.shape[1]
    shared = [num_images, num_images, num_empty]
    *every_whole, every_empty, changed = probabilities.split([*shared, len(probabilities) - sum(shared)])
    whole, blurred = (rows.diagonal() for rows in every_whole)
    empty = every_empty[0] if num_empty == 1 else every_empty.diagonal()
    changed = changed.view(len(heatmaps), num_images, 2 * steps - 1, num_images)
    found = {}
    for (name, maps), rows in zip(heatmaps.items(), changed, strict=True):
        marked, *partly = rows.diagonal(dim1=0, dim2=2)
        deleted, inserted = [whole, *partly[: steps - 1], empty], [blurred, *partly[steps - 1 :], whole]
        measured = {
            "average_drop": average_drop(whole, marked),
            "increase_in_confidence": increase_in_confidence(whole, marked).to(whole.dtype),
            "deletion": area_under_curve(torch.stack(deleted, dim=1)),
            "insertion": area_under_curve(torch.stack(inserted, dim=1)),
        }
        low, high = maps.flatten(1).aminmax(dim=1)
        blank = ~(high > low)  # the same everywhere, or NaN
        found[name] = {metric: values.masked_fill(blank, torch.nan) for metric, values in measured.items()}
    return found


def _check(model: nn.Module | Forward, explanation: Explanation, steps: int, batch_size: int) -> Tensor:
    """The explained classes, where the arguments can be what they are."""
    as_forward(model)
    check_type("explanation", explanation, Explanation)
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    if explanation.classes is None:
        raise ValueError(
            "Expected `explanation` to be of classes, which have a probability, got one of a callable target."
        )
    return explanation.classes


def _parse_heatmaps(heatmaps: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The heatmaps on the images' device."""
    size = (len(images), 1, *images.shape[2:])
    for name, maps in heatmaps.items():
        if maps.shape != size:
            raise ValueError(f"Expected `heatmaps` to be {size} as the images, got {tuple(maps.shape)} of {name!r}.")
        if (maps < 0).any() or (maps > 1).any():
            low, high = float(maps.min()), float(maps.max())
            raise ValueError(f"Expected `heatmaps` to be in [0, 1], got {low:.3g} to {high:.3g} of {name!r}.")
    return {name: maps.detach().to(images.device) for name, maps in heatmaps.items()}


def _copies(
    images: Tensor, heatmaps: Iterable[Tensor], steps: int, empty_rows: Iterable[int]
) -> Iterator[tuple[int, Tensor]]:
    """The images that go through the model, each with the row of the image that it is a changed copy of.

    Whole, blurred, empty; then for each heatmap those changed as it says.
    """
    blurred = gaussian_blurred(images)
    yield from enumerate(images)
    yield from enumerate(blurred)
    for row in empty_rows:
        yield row, torch.zeros_like(images[0])
    pixels = images.shape[2:].numel()
    counts = torch.tensor([pixels * step // steps for step in range(1, steps)], device=images.device)
    for maps in heatmaps:
        for row, (image, blur, heatmap) in enumerate(zip(images, blurred, maps, strict=True)):
            yield row, image * heatmap
            # a stable sort: which of two equal pixels goes first is not left to chance
            ranks = heatmap.flatten().argsort(descending=True, stable=True).argsort().view(heatmap.shape)
            first = ranks < over_axes(counts, image[None])
            for changed in (*torch.where(first, 0.0, image), *torch.where(first, image, blur)):
                yield row, changed


def gaussian_blurred(images: Tensor) -> Tensor:
    """Return the images under a Gaussian blur, mirrored at their borders, as the authors of RISE do."""
    for axis, length in zip(spatial_axes(images), shorter_lengths(images.shape[2:]), strict=True):
        scale = max(1.0, length / _BLUR_SIDE)
        radius = min(round(_BLUR_RADIUS * scale), length - 1)  # mirrored can be no more than there is
        rows = images.movedim(axis, -1)
        columns = rows.reshape(-1, 1, rows.shape[-1], 1)  # one image a row, blurred along its height
        blurred: Tensor = gaussian_blur(columns, [1, 2 * radius + 1], [1.0, _BLUR_SIGMA * scale])
        images = blurred.view(rows.shape).movedim(-1, axis)
    return images
