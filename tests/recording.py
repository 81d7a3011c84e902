"""Looks, samples and writers for the tests of the record."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from lightning_saliency.history import RecordedLook, RecordedSamples, RecordWriter

SHAPES = {"grad_cam": ((7, 7), (7, 7), (5, 9)), "saliency": ((16, 16), (16, 16), (12, 20))}
SIZES = ((16, 16), (16, 16), (12, 20))


def make_look(epoch=0, step=0, *, seed=0, shapes=SHAPES, num_classes=10, **facts):
    generator = np.random.default_rng(seed)
    maps = {
        method: tuple(generator.standard_normal(shape).astype(np.float32) for shape in of)
        for method, of in shapes.items()
    }
    num = len(next(iter(shapes.values())))
    given = {
        "positions": tuple(range(num)),
        "predictions": tuple(range(1, num + 1)),
        "probabilities": tuple(1 / (place + 3) for place in range(num)),
        "classes": (None, *range(num - 1)),
        "reasons": {method: ("all zero", *[None] * (num - 1)) for method in shapes},
    }
    logits = generator.standard_normal((num, num_classes)).astype(np.float32)
    return RecordedLook(epoch=epoch, step=step, attributions=maps, logits=logits, **(given | facts))


def make_samples(positions=(0, 1, 2), *, seed=0, sizes=SIZES, labels=(4, None, 2), class_names=None):
    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]
    return RecordedSamples(
        tuple(positions),
        tuple(images[position] for position in positions),
        tuple(labels[position] for position in positions),
        class_names,
    )


def make_writer(folder, **options):
    return RecordWriter(folder, options.pop("samples", make_samples()), **options)


def same(one, other):
    """Whether two looks say the same, to the 8 bits of a map."""
    facts = ("epoch", "step", "positions", "predictions", "probabilities", "classes", "reasons", "scalars", "layers")
    return (
        all(getattr(one, name) == getattr(other, name) for name in (*facts, "explained", "shapes"))
        and np.array_equal(one.logits, other.logits)
        and all(
            (np.abs(mine - its) <= (mine.max() - mine.min()) / 509).all()
            for method in one.attributions
            for mine, its in zip(one.attributions[method], other.attributions[method], strict=True)
        )
    )


def contents(folder):
    """The files of a folder, by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def start_process(script, *arguments):
    """Start Python code that knows this module."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, env=environment)
