"""Modules with hooks of their own that keep features, in whatever way a hook can be written."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tiny import L, TinyClassifier
from torch import nn

from .python_state import count_in, fraction, module, tilted
from .recipe import Recipe


def keep(seen: dict, part: nn.Module, args: Any, features: torch.Tensor) -> None:
    """Keep the features of a part, as a hook with its first argument bound."""
    seen["features"] = features.detach()


class HooksItsBackbone(TinyClassifier):
    """Tilts its images by the features that a hook has kept of the call before."""

    def __init__(self, attach: Callable[["HooksItsBackbone"], Any]):
        super().__init__()
        self.seen = {}
        attach(self)

    def forward(self, images):
        return super().forward(tilted(images, self.seen.get("features", torch.zeros(1)).mean().tanh()))

    def keep(self, part, args, features):
        keep(self.seen, part, args, features)


def by_bound_method(module: HooksItsBackbone) -> None:
    module.backbone.register_forward_hook(module.keep)


def by_lambda(module: HooksItsBackbone) -> None:
    module.backbone.register_forward_hook(lambda part, args, features: module.keep(part, args, features))


def by_closure(module: HooksItsBackbone) -> None:
    seen = module.seen

    def hook(part, args, features):
        keep(seen, part, args, features)

    module.backbone.register_forward_hook(hook)


def by_default_argument(module: HooksItsBackbone) -> None:
    def hook(part, args, features, seen=module.seen):
        keep(seen, part, args, features)

    module.backbone.register_forward_hook(hook)


def by_partial(module: HooksItsBackbone) -> None:
    module.backbone.register_forward_hook(partial(keep, module.seen))


class Keeper:
    def __init__(self, seen):
        self.seen = seen

    def __call__(self, part, args, features):
        keep(self.seen, part, args, features)


def by_object(module: HooksItsBackbone) -> None:
    module.backbone.register_forward_hook(Keeper(module.seen))


def by_pre_hook(module: HooksItsBackbone) -> None:
    seen = module.seen
    module.head.register_forward_pre_hook(lambda part, args: keep(seen, part, args, args[0]))


def by_backward_hook(module: HooksItsBackbone) -> None:
    """Keep gradients, which a backward to the images brings too."""
    seen = module.seen
    module.head.register_full_backward_hook(lambda part, before, after: keep(seen, part, None, before[0] * 1000))


def by_list(module: HooksItsBackbone) -> None:
    """Keep all features in a list, and what the module reads of them in its dict."""
    kept = []

    def hook(part, args, features):
        kept.append(features.detach().mean())
        module.seen["features"] = torch.stack(kept)

    module.backbone.register_forward_hook(hook)


class HooksATensor(HooksItsBackbone):
    """Registers a hook on its features in each forward, which keeps their gradient."""

    def __init__(self):
        super().__init__(lambda module: None)

    def forward(self, images):
        features = self.backbone(tilted(images, self.seen.get("features", torch.zeros(1)).mean().tanh()))
        if features.requires_grad:
            features.register_hook(lambda gradient: keep(self.seen, self, None, gradient * 1000))
        return self.head(features)


class CountsAChild(TinyClassifier):
    """A hook on a child counts in the parent; the child alone is explained."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(self.backbone, self.head)
        self.counts = {"calls": 0}
        self.net.register_forward_hook(self.count)

    def count(self, part, args, logits):
        count_in(self.counts)

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + fraction(self.counts["calls"]))


class HasNoForward(L.LightningModule):
    """Its steps call a child, in which a hook counts for the parent."""

    def __init__(self):
        super().__init__()
        self.net = TinyClassifier()
        self.counts = {"calls": 0}
        self.net.backbone.register_forward_hook(self.count)

    def count(self, part, args, features):
        return features * (1 + count_in(self.counts))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def hook(name: str, attach: Callable[[HooksItsBackbone], Any], **options: Any) -> Recipe:
    return module(f"a hook that keeps features: {name}", partial(HooksItsBackbone, attach), **options)


def call_child(module: L.LightningModule, images: torch.Tensor) -> None:
    module.net(images)


def differentiate(module: L.LightningModule, images: torch.Tensor) -> None:
    """Take a gradient to the images, as saliency does."""
    images = images.clone().requires_grad_()
    torch.autograd.grad(module(images).sum(), images)


NET = {"model": "net"}

ROWS = [
    hook("a bound method", by_bound_method, daily=True),
    hook("a lambda that closes over the module", by_lambda, daily=True),
    hook("a closure over a dict", by_closure),
    hook("a closure over a list", by_list),
    hook("a default argument", by_default_argument),
    hook("functools.partial", by_partial),
    hook("a callable object", by_object),
    hook("a pre-hook", by_pre_hook),
    hook("a backward hook", by_backward_hook, careless=differentiate),
    module("a hook on a tensor, registered in forward", HooksATensor, careless=differentiate),
    module("a hook on the explained child, counting in the parent", CountsAChild, options=NET, daily=True),
    module("a hook in the child of a module without forward, counting in it", HasNoForward, careless=call_child),
]
