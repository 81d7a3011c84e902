"""What each method costs, in forward passes of the same batch.

    python examples/method_costs.py            # some minutes on two CPU cores
    python examples/method_costs.py --small    # seconds, to see that everything works

Each method alone on a network with random weights, its layers given; the medians of several rounds in which all methods
and the forward take turns, so that a busy machine slows all alike. Those that read attentions run on a transformer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torchvision.models import get_model

from lightning_saliency import METHODS, explain
from lightning_saliency.attribution import explain_call
from lightning_saliency.data import plain_call


def costs(name: str, batch: int, size: int, rounds: int, methods: Sequence[str] = tuple(METHODS)) -> dict[str, float]:
    """Return for each method its time over that of one forward."""
    torch.manual_seed(0)
    options = {"image_size": size} if name.startswith("vit") else {}
    model, images = get_model(name, weights=None, **options).eval(), torch.randn(batch, 3, size, size)
    settings = {method: explain(model, images[:1], methods=method, progress=False).settings for method in methods}

    def forward() -> Any:
        with torch.no_grad():
            return model(images)

    def explaining(method: str) -> Callable[[], Any]:
        return lambda: explain_call(settings[method], plain_call(images))

    runs = {"forward": forward} | {method: explaining(method) for method in methods}
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for round_number in range(rounds + 1):  # the first warms up
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            if round_number:
                seconds[key].append(time.perf_counter() - start)
    return {key: median(taken) / median(seconds["forward"]) for key, taken in seconds.items()}


def all_costs(cnn: str, transformer: str, batch: int, size: int, rounds: int) -> dict[str, float]:
    """Return the costs of all methods, of those that read attentions on the transformer."""
    of_attention = [key for key, row in METHODS.items() if row.reads_attentions]
    return {
        **costs(cnn, batch, size, rounds, [key for key in METHODS if key not in of_attention]),
        **costs(transformer, batch, size, rounds, of_attention),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the costs."""
    parser = argparse.ArgumentParser(description="What each method costs, in forward passes of the same batch.")
    parser.add_argument("--small", action="store_true", help="a batch of 2 at 64×64: seconds, for a test")
    parser.add_argument(
        "--model", default="resnet18", help="a torchvision model with a GAP head, for cam (default: %(default)s)"
    )
    parser.add_argument(
        "--transformer", default="vit_b_16", help="a torchvision model, for attentions (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    batch, size, rounds = (2, 64, 1) if args.small else (4, 224, 3)
    relative = all_costs(args.model, args.transformer, batch, size, rounds)
    print(f"{args.model} and {args.transformer}, {batch} images of {size}×{size}, in forward passes of this batch:")
    for method in METHODS:
        print(f"{method:28}{relative[method]:8.3g}")
    return relative


if __name__ == "__main__":
    main()
