"""`with_forward`: whether a module's `forward` is what its step computes, without being called as a module."""

from __future__ import annotations

from typing import Any

from lightning_saliency.callbacks.part_choice import SAME_RUN, Step
from lightning_saliency.data import Call, find_images, make_call
from lightning_saliency.evidence import CallRecorder, Forward, RecordedCall, same_outputs


def with_forward(step: Step, forward: Forward) -> Step:
    """Return a step with the call `forward(images)`, if that makes the calls that the step has made.

    The images are those of the first recorded call, which the step may have normalized; or those of the batch, if it is
    `forward` that changes them.

    Args:
        step: The step, in which `forward` was not called as a module.
        forward: How the whole module is run.

    Raises:
        ValueError: The step calls none of its modules with images, and its batch has none.
    """
    given = [recorded.call.given for recorded in step.recorded.values() if recorded.call is not None]
    calls = [make_call((images,), {}, signals=True) for images in given[:1]]
    try:
        calls.append(call_of_batch(step.batch))
    except ValueError:  # the step takes its images from elsewhere
        if not calls:
            raise
    runs = (_run(step, forward, call) for call in calls)
    return next((run for run in runs if run is not None), step)


def call_of_batch(batch: Any) -> Call:
    """Return the call `forward(images)` with the images of a batch.

    Raises:
        ValueError: The batch holds no images.
    """
    return make_call((find_images(batch, signals=True),), {}, signals=True)


def _run(step: Step, forward: Forward, call: Call) -> Step | None:
    try:
        with forward.undisturbed() as isolated:
            recorder = CallRecorder({name: isolated.model.get_submodule(name) for name in step.recorded})
            recorder.start()
            recorder.begin_step()
            output = isolated.output(call)
            made = recorder.end_step()
    except Exception:  # `forward` is not what the step computes, and may not even take images
        return None
    is_same = all(same_outputs(made[name].output, step.recorded[name].output, SAME_RUN) for name in made)
    if not is_same or (step.recorded and not made):
        return None
    return Step(step.batch, {"": RecordedCall("", call, output, None), **step.recorded}, tuple(made) or ("",))
