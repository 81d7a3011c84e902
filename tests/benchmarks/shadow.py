"""What a shadow costs: `python tests/benchmarks/shadow.py` prints time and memory of a copy beside those of a pass.

FB is a forward of eight images and a backward to them, in eval mode, without gradients of the parameters.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models

from lightning_saliency.evidence import Shadow

BATCH = 8
ROUNDS = 7


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forward_backward(model: nn.Module, images: torch.Tensor) -> None:
    leaf = images.detach().requires_grad_()
    torch.autograd.grad(model(leaf).amax(1).sum(), leaf)


def copy_and_release(model: nn.Module) -> None:
    Shadow(model).release()


def main() -> None:
    print("| model | shadow, ms of CPU | FB, ms of CPU | shadow / FB | weights, MiB | memory of a shadow, MiB |")
    print("|---|---|---|---|---|---|")
    for name in ("resnet50", "vit_b_16"):
        model, images = models.get_model(name).eval(), torch.randn(BATCH, 3, 224, 224)
        copy_and_release(model)
        peak_before = peak_mib()
        shadow = Shadow(model)
        grown = peak_mib() - peak_before
        shadow.release()
        forward_backward(model, images)
        copies, passes = [], []
        for _ in range(ROUNDS):
            copies.append(cpu_seconds(partial(copy_and_release, model)))
            passes.append(cpu_seconds(partial(forward_backward, model, images)))
        copy, whole = statistics.median(copies), statistics.median(passes)
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 2**20
        print(f"| {name} | {1e3 * copy:.1f} | {1e3 * whole:.0f} | {copy / whole:.2%} | {weights:.0f} | {grown:.1f} |")


if __name__ == "__main__":
    main()
