"""What the methods for transformers cost: `python tests/benchmarks/transformer_costs.py` prints their time and memory.

FB is a forward and a backward to the images, in eval mode, without gradients of the parameters; each figure is the
median of interleaved rounds over that of FB, the layers found before, as the callback has them after its first look.
Memory is the most that torch holds beyond the model and the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measuring import medians, peak_bytes
from torch import Tensor, nn
from torchvision import models

from lightning_saliency import explain
from lightning_saliency.attribution import explain_call
from lightning_saliency.data import plain_call

CHOICES = {
    "attention_relevance": ["attention_relevance"],
    "attention_rollout": ["attention_rollout"],
    "summed_hires_cam": ["summed_hires_cam"],
    "grad_cam": ["grad_cam"],
    "saliency": ["saliency"],
    "the defaults": ["attention_relevance", "grad_cam", "saliency"],
    "the defaults and lrp": ["attention_relevance", "grad_cam", "saliency", "lrp"],
    "lrp": ["lrp"],
}


def forward_backward(model: nn.Module, images: Tensor) -> None:
    leaf = images.detach().requires_grad_()
    torch.autograd.grad(model(leaf).amax(1).sum(), leaf)


def explaining(model: nn.Module, images: Tensor, methods: list[str]) -> Callable[[], Any]:
    settings = explain(model, images[:1], methods=methods, progress=False).settings
    return lambda: explain_call(settings, plain_call(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="vit_b_16", help="a torchvision model (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = models.get_model(args.model).eval().to(device)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)  # the head begins at 0, where nothing has a gradient
    print("| batch | methods | time / FB | memory / FB |\n|---|---|---|---|")
    for batch in args.batches:
        images = torch.randn(batch, 3, 224, 224, device=device)
        runs = {"FB": lambda images=images: forward_backward(model, images)}
        runs |= {name: explaining(model, images, methods) for name, methods in CHOICES.items()}
        seconds = medians(runs, args.rounds, device)
        memory = {name: peak_bytes(run, device) for name, run in runs.items()}
        for name in CHOICES:
            time, space = seconds[name] / seconds["FB"], memory[name] / memory["FB"]
            print(f"| {batch} | {name} | {time:.2f} | {space:.2f} |")


if __name__ == "__main__":
    main()
