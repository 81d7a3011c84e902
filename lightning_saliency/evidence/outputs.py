"""Reading a model's output: which of its tensors is explained, and what it means, also behind a softmax or sigmoid."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import OptionError, call_option, refuse, shown
from lightning_saliency.data import children, describe
from lightning_saliency.data.trees import Path, dotted, leaves
from lightning_saliency.evidence.detection_tasks import Detection
from lightning_saliency.evidence.detections import best_boxes, boxes_beside, detections, is_list_of_detections
from lightning_saliency.evidence.task import Reading, Task, TaskName
from lightning_saliency.evidence.tasks import TASKS, Embedding, Regression, Segmentation
from lightning_saliency.evidence.value_maps import map_beside

OutputChoice: TypeAlias = Callable[[Any], Any] | str | Path | None
"""Which part of a model's output is explained: a function of it, its key (keys joined by dots), its path, or found."""

_USUAL = ("logits", "out")
"""The keys under which models return their logits."""

_KEPT = 16
"""How many softmaxes and sigmoids are remembered: the last ones of a forward, of which one may be its end."""

_BY_FORM = (TASKS["multiclass"], TASKS["segmentation"])
"""What an output's form alone may say of it, the likely ones first."""

_ENDS: dict[str, TaskName] = {
    **dict.fromkeys(["softmax", "log_softmax"], "multiclass"),
    **dict.fromkeys(["sigmoid", "sigmoid_"], "multilabel"),
}
"""The functions that make probabilities, and what they say of the task."""

_LINEAR = frozenset({"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "conv1d", "conv2d", "conv3d"})
"""The functions of a linear layer."""

_ADDS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
"""The functions that may add its bias."""


def check_output_choice(name: str, choice: Any) -> OutputChoice:
    """Refuse what is neither a function, nor a key of a model's output, nor None."""
    if not (choice is None or callable(choice) or (isinstance(choice, str) and choice)):
        refuse(name, "a function, a key of the model's output, or None", shown(choice), error=TypeError)
    checked: OutputChoice = choice
    return checked


def find_output(
    output: Any, num_samples: int, choice: OutputChoice = None, task: Task | None = None, like: Tensor | None = None
) -> tuple[Tensor, Task]:
    """Return the tensor of a model's output that is explained, and what it means.

    Args:
        output: A tensor, or a tuple, list, mapping or object that holds one: a value for each sample beside which there
            is a map of values; else under `logits`, then under `out`, else the first that has scores for each sample,
            else the first that has maps of scores.
        num_samples: N, the number of samples that went in.
        choice: A function that returns the tensor of `output`, or its key, in place of this search.
        task: What it means, where that is known.
        like: The images that went in: an output of their own shape may be images as well as scores of pixels.

    Raises:
        ValueError: The output holds no such tensor, or it is not clear what it means.

    Example:
        >>> tensor, task = find_output({"features": torch.zeros(2, 8, 4, 4), "logits": torch.zeros(2, 5)}, 2)
        >>> tensor.shape, task.name
        (torch.Size([2, 5]), 'multiclass')
    """
    found = call_option("output_fn", choice, output) if callable(choice) else output
    if isinstance(found, Tensor) and num_samples == 1 and found.dim() < 2:
        found = found.reshape(1, -1)  # of a model that ends in `squeeze()`
    tensors = output_tensors(found, num_samples, None if callable(choice) else choice)
    if task is None and any(boxes_beside(found, tensor) is not None for tensor in tensors.values()):
        raise OptionError(
            "Expected to know what the class scores of the model's boxes are, which only the training's loss tells. "
            "Name it: `task='detection'` for a sigmoid of each class, `task='detection_softmax'` for a softmax whose "
            'last class is "no object"; or pass an `output_fn` that returns one score for each class, (N, K).',
            "methods",
        )
    if task is None and like is not None:
        valued = [tensor for tensor in tensors.values() if map_beside(found, tensor, like) is not None]
        if valued:
            return valued[0], TASKS["regression"]
    for meaning in (task,) if task is not None else _BY_FORM:
        for tensor in tensors.values():
            if read_as(meaning, tensor.detach(), like) is None or (
                task is None and not _is_likely(meaning, tensor, like)
            ):
                continue
            if task is None and like is not None and tensor.shape == like.shape:
                raise OptionError(
                    f"Expected to know what the model's output {tuple(tensor.shape)} means, which has the shape of "
                    "the images themselves. Name the task, `task='segmentation'` for scores of pixels or "
                    "`task='regression'` for values; or the tensor that is explained (`output_fn`).",
                    "methods",
                )
            return tensor, meaning
    are_maps = like is not None and any(tensor.dim() == like.dim() > 3 for tensor in tensors.values())
    of_pixels = "If these are scores of pixels, name the task, `task='segmentation'`. " if are_maps else ""
    source = "the model" if choice is None else "`output_fn`" if callable(choice) else f"the model, under {choice!r},"
    raise OptionError(
        f"Expected {source} to return logits of shape ({num_samples}, classes), got {describe(found)}. "
        f"{of_pixels}Pass an `output_fn` that takes the logits out of what the model returns, or their key in it.",
        "methods" if choice is None else "output_fn",
    )


def read_output(
    output: Any, num_samples: int, choice: OutputChoice = None, task: Task | None = None, like: Tensor | None = None
) -> Reading:
    """Return what a model's output says, as it is: probabilities are not undone. The arguments are `find_output`'s."""
    output, task = _as_tensors(output, num_samples, choice, task)
    tensor, meaning = find_output(output, num_samples, choice, task, like)
    return _read(meaning, tensor, output, like)


class OutputReader(TorchFunctionMode):
    """Reads a model's output; where the model returns probabilities, what went into their softmax or sigmoid.

    A saturated probability has no gradient that could be shown. If a softmax cannot be intercepted (it is written out,
    or inside a scripted module), the logits are the logarithm of the probabilities. What a linear layer returns is
    none, whatever its sum: as of a ridge regression on classes.

    Args:
        num_samples: N.
        choice: Which part of the output is explained; see `find_output`.
        task: What it means; by default found.
        like: The images that go in.
        warns: Whether to warn about probabilities: the first pass does, repeated ones need not.
    """

    def __init__(
        self,
        num_samples: int,
        choice: OutputChoice = None,
        task: Task | None = None,
        *,
        like: Tensor | None = None,
        warns: bool = False,
    ) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.choice = choice
        self.task = task
        self.like = like
        self.warns = warns
        self._ends: deque[tuple[str, Tensor, Tensor]] = deque(maxlen=_KEPT)
        self._linear: deque[Tensor] = deque(maxlen=_KEPT)

    def read(self, output: Any) -> Reading:
        """Return what the output of a model says that ran inside this context."""
        output, task = _as_tensors(output, self.num_samples, self.choice, self.task)
        tensor, task = find_output(output, self.num_samples, self.choice, task, self.like)
        if isinstance(task, Regression | Detection | Embedding):  # whose values are what they are, also between 0 and 1
            return _read(task, tensor, output, self.like)
        for function, before, after in reversed(self._ends):
            if after.numel() == tensor.numel() and _are_same(after.reshape(tensor.shape), tensor):
                self._warn(f"what goes into its {function.strip('_').removeprefix('log_')} is explained instead")
                is_of_several = self.task is None and task.name == "multiclass" and tensor.shape[1:].numel() > 1
                meaning = TASKS[_ENDS[function]] if is_of_several else task
                return _read(meaning, before.reshape(tensor.shape), like=self.like)
        reading = _read(task, tensor, like=self.like)
        is_linear = any(
            end.numel() == tensor.numel() and _are_same(end.view_as(tensor), tensor) for end in self._linear
        )
        are_classes = task.name == "multiclass" and reading.logits.shape[1] > 1 and not is_linear
        if are_classes and _are_probabilities(reading.logits.detach()):
            self._warn("their logarithm is explained instead; better return the logits (`output_fn`)")
            rows = reading.logits
            return Reading(task, rows.clamp(min=torch.finfo(rows.dtype).tiny).log())
        return reading

    def _warn(self, what: str) -> None:
        if self.warns:
            warnings.warn(
                f"The model returns probabilities, whose gradient vanishes where it is sure: {what}.", stacklevel=2
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        function = getattr(func, "__name__", "")
        if function in _LINEAR or (function in _ADDS and _adds_bias(args)):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and len(result.shape) > 1 and result.shape[2:].numel() == 1:
                self._linear.append(result)
            return result
        if function not in _ENDS:
            return func(*args, **(kwargs or {}))
        before: Tensor = args[0] if args else (kwargs or {})["input"]
        if function.endswith("_"):
            before = before.clone()  # which the function is about to overwrite
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() and len(result) in (self.num_samples, result.numel()):
            self._ends.append((function, before, result))
        return result


def read_as(task: Task, tensor: Tensor, like: Tensor | None) -> Reading | None:
    """Return what a tensor of an output says if it means this; None where it has not the form.

    Args:
        task: What it may mean.
        tensor: `(N, …)`.
        like: The images that went in: of signals, the maps of a segmentation have one spatial axis.
    """
    if like is None or not isinstance(task, Segmentation):
        return task.read(tensor)
    maps = tensor[:, None] if tensor.shape[1:] == like.shape[2:] else tensor
    if like.dim() != 3 or maps.dim() != 3:
        return task.read(maps)
    reading = task.read(maps[:, :, None])
    return None if reading is None or reading.masks is None else replace(reading, masks=reading.masks[:, 0])


def _is_likely(task: Task, tensor: Tensor, like: Tensor | None) -> bool:
    """Whether an output of a task's form has its usual size too: as many pixels as the images, where it is maps."""
    if task.name != "segmentation":
        return True
    if like is None or like.dim() == 3:  # of signals, scores of each time cannot be told from one map of an image
        return False
    return tensor.shape[2 - (tensor.dim() < like.dim()) :] == like.shape[2:]


def _as_tensors(output: Any, num_samples: int, choice: OutputChoice, task: Task | None) -> tuple[Any, Task | None]:
    """Return an output and its task; where it lists the detections of each image, as tensors for all."""
    if callable(choice) or not is_list_of_detections(output, num_samples):
        return output, task
    return detections(output, num_samples), TASKS["detection_list"]


def _read(task: Task, tensor: Tensor, output: Any = None, like: Tensor | None = None) -> Reading:
    reading = read_as(task, tensor, like)
    assert reading is not None  # the tensor was chosen by its form
    if like is None:
        return reading
    if task.name == "regression":
        maps = map_beside(output, tensor, like)
        return replace(reading, value_maps=None if maps is None else maps.detach())
    boxes = boxes_beside(output, tensor) if isinstance(task, Detection) else None
    if not isinstance(task, Detection) or boxes is None:
        return reading
    return replace(reading, boxes=best_boxes(task.odds(tensor), boxes, tuple(like.shape[2:])))


def _adds_bias(operands: Sequence[Any]) -> bool:
    """Whether one of what is added is the same for all samples."""
    return sorted(operand.dim() for operand in operands if isinstance(operand, Tensor)) == [1, 2]


def _are_same(tensor: Tensor, other: Tensor) -> bool:
    return tensor is other or torch.allclose(tensor, other, rtol=0, atol=0, equal_nan=True)


def _are_probabilities(rows: Tensor) -> bool:
    """Whether all finite rows are probabilities: not negative, and of sum 1 up to the rounding of a softmax."""
    tolerance = min(50 * torch.finfo(rows.dtype).eps, 0.02)  # in half precision 50 eps would be 0.05, and 0.4
    wide = rows[rows.isfinite().all(1)].to(torch.promote_types(rows.dtype, torch.float32))
    return len(wide) > 0 and bool((wide >= 0).all() and ((wide.sum(1) - 1).abs() < tolerance).all())


def output_tensors(output: Any, num_samples: int, key: str | Path | None = None) -> dict[Path, Tensor]:
    """Return the floating-point tensors of a model's output that have a row for each sample, the likely ones first.

    Args:
        output: What the model returned.
        num_samples: N.
        key: Of these, the one of this path, or those under this key: keys joined by dots.
    """
    found = {
        path: value
        for path, value in _by_likelihood(output)
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and value.numel()
        and value.shape[:1] == (num_samples,)
    }
    if isinstance(key, tuple):
        return {path: value for path, value in found.items() if path == key}
    return {path: value for path, value in found.items() if key is None or f".{key}." in f".{dotted(path)}."}


def _by_likelihood(output: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of an output with their paths, those under usual keys first, each once."""
    # the fields of a named tuple are attributes too, so its `logits` are read by `getattr`
    entries = children(output)
    usual = {}
    for name in _USUAL:
        value = entries[name] if isinstance(output, Mapping) and name in entries else getattr(output, name, None)
        if value is not None:
            usual[name] = value
    if isinstance(output, Tensor) or not (entries or usual):
        yield from leaves(output, path=path)
        return
    for name, value in (usual | {name: value for name, value in entries.items() if name not in usual}).items():
        yield from _by_likelihood(value, (*path, name))
