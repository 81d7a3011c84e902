"""Options of this package's own callbacks, in all of which training must stay what it is."""

from typing import Any

from networks import CNN_METHODS
from tiny import data

from lightning_saliency.callbacks import (
    CAMCallback,
    ClassModelCallback,
    Execution,
    FoolingCallback,
    History,
    Metrics,
    SaliencyCallback,
    Samples,
    Style,
)

from .batches import squares
from .forwards import LogsAndKeeps
from .recipe import STRICT, Recipe


def strict(**options: Any) -> Execution:
    return Execution(on_error="raise", audit=True, **options)


def own(name: str, **options: Any) -> Recipe:
    """Return the recipe of a module that is easily disturbed, with options of the callback."""
    recipe = {key: options.pop(key) for key in ("pictures", "methods", "more", "more_tags", "daily") if key in options}
    return Recipe(name, LogsAndKeeps, options=options, **recipe)


def class_models() -> list:
    return [ClassModelCallback(steps=3, name="saliency/class_model", execution=STRICT)]


def fooling() -> list:
    return [FoolingCallback(max_steps=3, name="saliency/fooling", samples=3, execution=STRICT)]


HARDEST = Samples(num=2, choose="hardest")


def two_more() -> list:
    return [
        CAMCallback(name="saliency/train", samples=2, execution=STRICT),
        SaliencyCallback("saliency", name="saliency/hardest", samples=HARDEST, execution=STRICT),
    ]


TWO_LAYERS = ["backbone.0", "backbone.6"]

ROWS = [
    own(
        "all that can be measured",
        samples=Samples(num=4, objects=squares),
        metrics=Metrics(samples=6, faithfulness=True, randomization_every_n_epochs=1),
        history=History(animation_every_n_epochs=1),
    ),
    Recipe(
        "a time budget, which this tiny training overruns",
        pictures=None,
        options={"execution": strict(max_fraction=0.5)},
    ),
    own("every method", methods=tuple(CNN_METHODS), samples=2),
    own("SmoothGrad and integrated gradients", methods=("smooth_grad", "integrated_gradients")),
    own("every second epoch", every_n_epochs=2, pictures=2),
    own("not before training", execution=strict(log_initial=False), pictures=2),
    own("mirrored samples too, one image at once", execution=strict(flip=True, chunk_size=1), daily=True),
    own("faithfulness", metrics=Metrics(faithfulness=True)),
    own("a randomized head", metrics=Metrics(randomization_every_n_epochs=1), daily=True),
    own("measured on more samples", metrics=Metrics(samples=9)),
    own("neither numbers nor record", metrics=False, history=False),
    own("samples per class", samples=Samples(num=5, choose="per_class")),
    own("the hardest samples", samples=HARDEST),
    own("chosen samples", samples=[3, 11]),
    own("given images", samples=data()[:5]),
    own(
        "the predicted class, and the class maps of three",
        target="predicted",
        style=Style(top_k=3, cards="all"),
        more_tags=["class_maps"],
    ),
    own("a score of the user's", target=lambda logits: logits.logsumexp(1), methods=("grad_cam", "saliency")),
    own("two layers", layer=TWO_LAYERS, methods=("grad_cam", "saliency"), pictures=None),
    own("two layers as one", layer=TWO_LAYERS, execution=strict(fuse="max"), methods=("grad_cam", "saliency")),
    own("class models", more=class_models, more_tags=["class_model/0", "class_model/1", "class_model/2"]),
    own("fooling images", more=fooling, more_tags=["fooling/samples"]),
    own("three callbacks", more=two_more, more_tags=["train/cam", "train/class_maps", "hardest/saliency"]),
]
