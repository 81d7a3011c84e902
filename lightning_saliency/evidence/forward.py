"""How a model is run: one value that is called with a call's inputs and returns logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_saliency.data import Call, channels_first, like_layout, plain_call
from lightning_saliency.evidence.isolation import undisturbed
from lightning_saliency.evidence.outputs import LogitsReader

ForwardContext: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which the model's forward runs, for instance autocast."""

_SMALL = 3 * 224 * 224
"""Of the images that go through a model together, in pixels: of fewer, a ResNet is slower channels last."""

_NEEDS_ORDER: WeakSet[nn.Module] = WeakSet()
"""Models that have failed on images that were laid out channels last, as by a `view` of what a convolution returns."""

T = TypeVar("T")


@dataclass(frozen=True)
class Forward:
    """How a model is run on a call's inputs.

    Attributes:
        model: Any module that returns logits, or something that holds them.
        output_fn: Takes the logits out of what the model returns, where they are not found by themselves.
        context: Makes the context for the forward, for instance `lambda: torch.autocast("cuda", torch.bfloat16)`.
        memory_format: How images are laid out for the model; as they come, or on a CPU as it is fastest, if not said.

    Raises:
        TypeError: `model` is no module, or a function is none.

    Example:
        >>> forward = Forward(nn.Flatten(), output_fn=lambda output: 2 * output)
        >>> forward(plain_call(torch.ones(1, 2, 1, 1)))
        tensor([[2., 2.]])
    """

    model: nn.Module
    output_fn: Callable[[Any], Tensor] | None = None
    context: ForwardContext = nullcontext
    memory_format: torch.memory_format = torch.preserve_format

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"Expected `model` to be a torch.nn.Module, got {type(self.model).__name__}.")
        for option, function in (("output_fn", self.output_fn), ("context", self.context)):
            if function is not None and not callable(function):
                raise TypeError(f"Expected `{option}` to be a function, got {type(function).__name__}.")
        if isinstance(self.context, AbstractContextManager):
            raise TypeError(
                "Expected `context` to be a function that makes a context manager, got the context manager "
                f"{type(self.context).__name__} itself: write `lambda:` before it."
            )
        # the module inside a compiled one, whose layers have their own names
        object.__setattr__(self, "model", getattr(self.model, "_orig_mod", self.model))

    def __call__(self, call: Call, images: Tensor | None = None, *, warns: bool = False) -> Tensor:
        """Return the logits `(N, K)`, in the precision in which the model makes them.

        Args:
            call: What the model is called with; it gets a copy.
            images: `(N, C, H, W)` floating point, in the place of the call's.
            warns: Whether to say so where the model returns probabilities.

        Raises:
            ValueError: The model returns no logits.
        """
        with ExitStack() as stack:
            stack.enter_context(self.context())
            laid_out = None if images is None else images.clone(memory_format=self.memory_format)
            if call.is_floating_point or laid_out is None:
                copied = call.copied(laid_out)
            else:
                copied = call.copied()
                stack.enter_context(_FirstFloatingPoint(copied, laid_out))
            reader = LogitsReader(len(call), self.output_fn, warns=warns)
            stack.enter_context(reader)
            output = self.model(*copied.args, **copied.kwargs)
        logits: Tensor = reader.read(output)
        return logits

    def on_device(self, call: Call) -> Call:
        """Return the call with its tensors on the model's device."""
        parameter = self._parameter
        return call if parameter is None else call.to(parameter.device)

    def call_of(self, images: Tensor) -> Call:
        """Return the call `model(images)`, with the images on the model's device and in its precision."""
        parameter = self._parameter
        return plain_call(images if parameter is None else images.to(parameter))

    def floating_point_images(self, call: Call) -> Tensor:
        """Return the images `(N, C, H, W)` as floating-point numbers.

        Where the model converts them itself, they are the first such map that it makes of them, from a run of it.

        Raises:
            ValueError: It does not show how they are converted.
        """
        if call.is_floating_point:
            return call.images
        copied = call.copied()
        conversion = _FirstFloatingPoint(copied)
        with undisturbed(self.model), self.context(), conversion:
            self.model(*copied.args, **copied.kwargs)
        if conversion.images is None:
            raise ValueError(
                f"Expected {type(self.model).__name__} to convert its {call.images.dtype} images to floating point "
                "by a torch function, but the run shows none. Explain the submodule that takes them converted."
            )
        return conversion.images

    def in_fastest_layout(self, images: Tensor, at_once: int, run: Callable[[Forward], T]) -> T:
        """Run something with the images laid out as it is fastest: channels last on a CPU, where that can be.

        Most convolutions are faster by it, by a tenth to a half, if they have much to do: their weights are laid out
        anew each time. The results differ by rounding alone. A model that fails is run again on images laid out as
        they are, and remembered if that helps. A layout that was asked for is kept.

        Args:
            images: `(N, C, H, W)`, on the model's device and in its precision.
            at_once: How many such images go through it together, at the most.
            run: Of how the model is run; may run twice, and is to leave no trace.
        """
        is_fast = images.device.type == "cpu" and images.dtype in (torch.float32, torch.bfloat16)
        is_free = self.memory_format == torch.preserve_format
        if is_free and is_fast and at_once * images.shape[2:].numel() >= _SMALL and self.model not in _NEEDS_ORDER:
            with suppress(RuntimeError):  # a fault of the model's own shows again, below
                return run(replace(self, memory_format=torch.channels_last))
            result = run(self)
            _NEEDS_ORDER.add(self.model)
            return result
        return run(self)

    @property
    def _parameter(self) -> Tensor | None:
        """The model's first floating-point parameter, which tells its device and precision."""
        return next((parameter for parameter in self.model.parameters() if parameter.is_floating_point()), None)


class _FirstFloatingPoint(TorchFunctionMode):
    """Reads the first floating-point images that a model makes of the integer ones in a call, or replaces them.

    Args:
        call: What the model is called with inside this context.
        replacement: `(N, C, H, W)`, what the model goes on with.
    """

    def __init__(self, call: Call, replacement: Tensor | None = None) -> None:
        super().__init__()
        self.images: Tensor | None = None
        self._replacement = replacement
        self._count = len(call)
        self._derived: list[Tensor] = [call.leaf]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.images is not None or not self._reads_derived((*args, *(kwargs or {}).values())):
            return result
        self._derived += [part for part in _flat([result]) if isinstance(part, Tensor)]
        if not (isinstance(result, Tensor) and result.is_floating_point()):
            return result
        if result.dim() != 4 or len(result) != self._count:
            return result
        if self._replacement is None:
            self.images = channels_first(result).detach().clone()  # the model may go on to write on it
            return result
        self.images = like_layout(self._replacement.to(result), result)
        return self.images

    def _reads_derived(self, inputs: Sequence[Any]) -> bool:
        return any(value is derived for value in _flat(inputs) for derived in self._derived)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    """The values, and those in the lists and tuples among them."""
    for value in values:
        yield from value if isinstance(value, list | tuple) else [value]


def as_forward(model: nn.Module | Forward) -> Forward:
    """Return how a model is run: as it is, where nothing else is said."""
    return model if isinstance(model, Forward) else Forward(model)
