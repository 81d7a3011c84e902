"""`in_whole`: of a step that calls the model window by window, one call on the whole images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_saliency.callbacks.part_choice import Step
from lightning_saliency.data import Call, find_images
from lightning_saliency.data.trees import at_path, leaves, mapped
from lightning_saliency.data.windows import Windows, find_windows
from lightning_saliency.evidence import Forward, RecordedCall

_NOTE = "the validation step calls the model on windows of the images, of size "


def find_step_windows(step: Step) -> Windows | None:
    """Return where the images of a step's first call were cut out of those of its batch; None where they were not."""
    call = next((recorded.call for recorded in step.recorded.values() if recorded.call is not None), None)
    if call is None or not isinstance(call.given, Tensor):
        return None
    try:
        images = find_images(step.batch, signals=True)
    except ValueError:  # the step takes its images from elsewhere
        return None
    return find_windows(call.given, images)


def goes_by_windows(recorded: RecordedCall, windows: Windows) -> bool:
    """Whether a call is one of several for the windows of an image, rather than one for a part of each image."""
    assert recorded.call is not None
    tensors = [leaf for _, leaf in leaves(recorded.output) if isinstance(leaf, Tensor)]
    is_of_pixels = any(leaf.shape[2:].numel() > 1 for leaf in tensors if leaf.dim() > 2)
    return not windows.is_one_of_each or (recorded.times > 1 and is_of_pixels)


def in_whole(recorded: RecordedCall, windows: Windows, forward: Forward) -> tuple[RecordedCall | None, str]:
    """Return the call on whole images of a model that was called on windows of them, and what to say of it.

    Args:
        recorded: The recorded call.
        windows: Its windows.
        forward: How the model is run.

    Returns:
        The call, or None where the windows of the recorded call are the samples; and a note.
    """
    whole = _run_whole(recorded, windows, forward)
    size = "×".join(map(str, windows.size))
    if isinstance(whole, str):
        return None, f"{_NOTE}{size}. The samples are those of its first call: {whole}"
    return whole, f"{_NOTE}{size}. What is shown is what it says of the whole images, in one call"


def _run_whole(recorded: RecordedCall, windows: Windows, forward: Forward) -> RecordedCall | str:
    """Return the call on whole images, or why there is none."""
    call = recorded.call
    assert call is not None
    if call.per_sample != {call.image}:
        return "the model has other inputs for each of them, too"
    if windows.whole[0].numel() > call.given.numel():
        return "an image takes more memory than those of a call"
    whole = _with_images(call, windows.whole.to(call.given))
    try:
        with forward.undisturbed() as isolated:
            outputs = [isolated.output(whole[row : row + 1]) for row in range(len(whole))]
        output = mapped(outputs[0], lambda path, value: _joined([at_path(one, path) for one in outputs], value))
    except Exception as fault:  # a network of a fixed size
        return f"the model cannot be called on whole images ({type(fault).__name__})"
    return replace(recorded, call=whole, output=output)


def _with_images(call: Call, images: Tensor) -> Call:
    return replace(call, arguments=mapped(call.arguments, lambda path, value: images if path == call.image else value))


def _joined(values: list[object], first: object) -> object:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(values) and tensors[0].dim() else first
