"""`Forward`: how a model is run on a recorded call and its logits are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency._checks import check_type, refuse, shown
from lightning_saliency.data import Call, channels_first, like_layout, plain_call, plain_tensors
from lightning_saliency.evidence.call_notes import noting_call
from lightning_saliency.evidence.isolation import Surroundings, Undisturbed
from lightning_saliency.evidence.normalizations import NormalizationReader
from lightning_saliency.evidence.outputs import OutputChoice, OutputReader, check_output_choice
from lightning_saliency.evidence.task import Reading, Task
from lightning_saliency.evidence.tasks import TASKS, Embedding

ForwardContext: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""A function that returns the context in which the model's forward runs, for instance autocast."""

_CHANNELS_LAST_PIXELS = 3 * 224 * 224
"""The number of pixels in a forward below which a ResNet is slower with its images laid out channels last."""

_FAILED_CHANNELS_LAST: WeakSet[nn.Module] = WeakSet()
"""Models that failed on images laid out channels last, for instance by a `view` of a convolution's output."""

T = TypeVar("T")


@dataclass(frozen=True)
class Forward:
    """How a model is run: the model, the context of its forward, and the function that reads the logits.

    It is called with a `Call`, and returns logits.

    Attributes:
        model: Any module that returns logits, or something that holds them.
        output_fn: A function that returns the logits of the model's output, or their key in it; by default found.
        task: What the output means; by default found, as far as its form tells. One of `TASKS`.
        context: Returns the context for the forward, for instance `lambda: torch.autocast("cuda", torch.bfloat16)`.
        memory_format: The layout in memory of the model's images; by default their own, or on a CPU the fastest.
        surroundings: What the model is a part of; see `undisturbed`.

    Raises:
        TypeError: `model` is not a module, or `output_fn` or `context` is not a function.

    Example:
        >>> forward = Forward(nn.Flatten(), output_fn=lambda output: 2 * output)
        >>> forward(plain_call(torch.ones(1, 2, 1, 1)))
        tensor([[2., 2.]])
    """

    model: nn.Module
    output_fn: OutputChoice = None
    task: Task | None = None
    context: ForwardContext = nullcontext
    memory_format: torch.memory_format = torch.preserve_format
    surroundings: Surroundings = field(default_factory=Surroundings)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"Expected `model` to be a torch.nn.Module, got {type(self.model).__name__}.")
        if not isinstance(self.output_fn, tuple):  # a path, which may be empty: the output itself
            check_output_choice("output_fn", self.output_fn)
        if self.task not in (None, *TASKS.values()):
            refuse("task", "one of `TASKS`", shown(self.task), error=TypeError)
        if not callable(self.context):
            raise TypeError(f"Expected `context` to be a function, got {type(self.context).__name__}.")
        check_type("memory_format", self.memory_format, torch.memory_format)
        check_type("surroundings", self.surroundings, Surroundings)
        if isinstance(self.context, AbstractContextManager):
            raise TypeError(
                "Expected `context` to be a function that makes a context manager, got the context manager "
                f"{type(self.context).__name__} itself: write `lambda:` before it."
            )
        # the module inside a compiled one, whose layers have their own names
        object.__setattr__(self, "model", getattr(self.model, "_orig_mod", self.model))

    def __call__(self, call: Call, images: Tensor | None = None, *, warns: bool = False) -> Tensor:
        """Return the logits `(N, K)`, in the precision in which the model computes them; see `read`."""
        logits: Tensor = self.read(call, images, warns=warns).logits
        return logits

    def read(self, call: Call, images: Tensor | None = None, *, warns: bool = False) -> Reading:
        """Run the model, and return what its output says.

        Args:
            call: What the model is called with; the model gets a copy.
            images: `(N, C, H, W)` floating point, in place of the call's.
            warns: Whether to warn if the model returns probabilities.

        Raises:
            ValueError: The model returns nothing that can be explained.
        """
        with ExitStack() as stack:
            stack.enter_context(self.context())
            laid_out = None if images is None else images.clone(memory_format=self.memory_format)
            if call.is_floating_point or laid_out is None:
                copied = call.copied(laid_out)
            else:
                copied = call.copied()
                stack.enter_context(_FirstFloatingPoint(copied, laid_out))
            reader = OutputReader(len(call), self.output_fn, self.task, like=call.first_repeated, warns=warns)
            stack.enter_context(reader)
            is_embedding = isinstance(self.task, Embedding)
            normalizations = stack.enter_context(NormalizationReader(len(call))) if is_embedding else None
            output = self._run(copied)
        reading = reader.read(output)
        if normalizations is None:
            return reading
        return replace(reading, unnormalized=normalizations.before(reading.logits))

    def output(self, call: Call) -> Any:
        """Run the model without a graph, and return its output as it is; to be called inside `undisturbed`."""
        copied = call.copied()
        with torch.no_grad(), self.context():
            return self._run(copied)

    def _run(self, call: Call) -> Any:
        """Call the model; its own error is told of the call."""
        with noting_call(self.model, call):
            return self.model(*call.args, **call.kwargs)

    def undisturbed(self) -> Undisturbed[Forward]:
        """Return a context for a pass, which yields how a shadow of the model is run; see `Undisturbed`.

        Example:
            >>> forward = Forward(nn.Dropout(), output_fn=lambda output: output.flatten(1))
            >>> with forward.undisturbed() as isolated:
            ...     print(isolated(plain_call(torch.ones(1, 2, 1, 1))))
            tensor([[1., 1.]])
        """
        return Undisturbed(
            self.model,
            self.surroundings,
            lambda shadow: replace(self, model=shadow.of(self.model), surroundings=Surroundings()),
        )

    def on_device(self, call: Call) -> Call:
        """Return the call with its tensors on the model's device."""
        parameter = self._parameter
        return call if parameter is None else call.to(parameter.device)

    def call_of(self, images: Tensor) -> Call:
        """Return the call `model(images)`, with the images on the model's device and in its precision."""
        parameter = self._parameter
        images = plain_tensors(images)
        return plain_call(images if parameter is None else images.to(parameter))

    def floating_point_images(self, call: Call) -> Tensor:
        """Return the images `(N, C, H, W)` as floating-point numbers.

        Where the model converts them itself, it is run once, and they are the first floating-point map that it
        computes from them.

        Raises:
            ValueError: The run does not show how they are converted.
        """
        if call.is_floating_point:
            return call.images
        copied = call.copied()
        conversion = _FirstFloatingPoint(copied)
        with self.undisturbed() as isolated, self.context(), conversion:
            isolated._run(copied)
        if conversion.images is None:
            raise ValueError(
                f"Expected {type(self.model).__name__} to convert its {call.images.dtype} images to floating point "
                "by a torch function, but the run shows none. Explain the submodule that takes them converted."
            )
        return conversion.images

    def in_fastest_layout(self, images: Tensor, at_once: int, run: Callable[[Forward], T]) -> T:
        """Run a function with the images' fastest memory layout: channels last on a CPU, where the model allows it.

        Most convolutions are faster by it, by a tenth to a half, on large enough inputs: their weights are converted in
        every call. The results differ by rounding alone. A model that fails is run a second time on images in their own
        layout, and remembered if that helps. A layout that the user asked for is kept.

        Args:
            images: `(N, C, H, W)`, on the model's device and in its precision.
            at_once: The most images that go through the model together.
            run: The function, of how the model is run; it may run twice, so it must have no side effects.
        """
        is_fast = images.device.type == "cpu" and images.dtype in (torch.float32, torch.bfloat16) and images.dim() == 4
        is_free = self.memory_format == torch.preserve_format
        is_large = at_once * images.shape[2:].numel() >= _CHANNELS_LAST_PIXELS
        if is_free and is_fast and is_large and self.model not in _FAILED_CHANNELS_LAST:
            with suppress(RuntimeError):  # an error for another reason is raised again, below
                return run(replace(self, memory_format=torch.channels_last))
            result = run(self)
            _FAILED_CHANNELS_LAST.add(self.model)
            return result
        return run(self)

    @property
    def _parameter(self) -> Tensor | None:
        """The model's first floating-point parameter, whose device and precision are the model's."""
        return next((parameter for parameter in self.model.parameters() if parameter.is_floating_point()), None)


class _FirstFloatingPoint(TorchFunctionMode):
    """Reads, or replaces, the first floating-point images that a model computes from integer ones.

    Of a list of images the model may convert one after the other, or all together.

    Args:
        call: The call with which the model is run inside this context.
        replacement: `(N, C, H, W)`, what the model continues with.
    """

    def __init__(self, call: Call, replacement: Tensor | None = None) -> None:
        super().__init__()
        self._replacement = replacement
        self._count = len(call)
        self._num_axes = call.first_repeated.dim()
        given = call.given
        rows = enumerate([] if isinstance(given, Tensor) else given)
        # of each tensor that is made of the images the row of the one image that it is made of, or None for all
        self._derived: list[tuple[Tensor, int | None]] = [(image, row) for row, image in rows]
        self._derived += [(given, None)] if isinstance(given, Tensor) else []
        self._converted: dict[int | None, Tensor] = {}

    @property
    def images(self) -> Tensor | None:
        """The converted images, `(N, C, H, W)`; None as long as they are not known."""
        if None in self._converted:
            return self._converted[None]
        return torch.cat([self._converted[row] for row in range(self._count)]) if self._is_complete else None

    @property
    def _is_complete(self) -> bool:
        return None in self._converted or len(self._converted) == self._count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        rows = set() if self._is_complete else self._rows((*args, *(kwargs or {}).values()))
        if not rows:
            return result
        row = rows.pop() if len(rows) == 1 else None
        self._derived += [(value, row) for value in _flat([result]) if isinstance(value, Tensor)]
        if not (isinstance(result, Tensor) and result.is_floating_point()) or row in self._converted:
            return result
        is_single = row is not None and result.dim() == self._num_axes - 1
        batch = result[None] if is_single else result
        if batch.dim() != self._num_axes or len(batch) != (self._count if row is None else 1):
            return result
        if self._replacement is None:
            self._converted[row] = channels_first(batch).detach().clone()  # the model may write into it later
            return result
        replacement = self._replacement if row is None else self._replacement[row : row + 1]
        laid_out = like_layout(replacement.to(batch), batch)
        self._converted[row] = laid_out
        return laid_out[0] if is_single else laid_out

    def _rows(self, inputs: Sequence[Any]) -> set[int | None]:
        """Return of which images the inputs of a function are made."""
        return {row for value in _flat(inputs) for derived, row in self._derived if value is derived}


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    """Yield the values, with lists and tuples among them flattened by one level."""
    for value in values:
        yield from value if isinstance(value, list | tuple) else [value]


def as_forward(model: nn.Module | Forward) -> Forward:
    """Return a `Forward` unchanged, and a model as a `Forward` with the default settings."""
    return model if isinstance(model, Forward) else Forward(model)
