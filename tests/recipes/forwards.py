"""Modules whose steps and forward do more than turn images into logits."""

import copy
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tiny import NUM_CLASSES, TinyClassifier, data, loader
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset
from torchmetrics import MeanMetric

from lightning_saliency.models import GAPHead

from .batches import both
from .models import GRADIENTS, Recurrent
from .python_state import module
from .recipe import Recipe


class NeverEval(TinyClassifier):
    """Validates in train mode, so that BatchNorm's statistics would move in a pass that is not forced into eval."""

    def on_validation_model_eval(self):
        pass


class Checkpointed(TinyClassifier):
    def forward(self, images):
        return self.head(checkpoint(self.backbone, images, use_reentrant=False))


class HalfCheckpointed(TinyClassifier):
    """Computes the first half of its backbone again in backward, the older way, whose input must have a graph."""

    def forward(self, images):
        images = images + torch.zeros((), requires_grad=True).to(images)
        return self.head(self.backbone[3:](checkpoint(self.backbone[:3], images, use_reentrant=True)))


class CompiledForward(TinyClassifier):
    """Compiles its forward method."""

    def __init__(self):
        super().__init__()
        self.forward = torch.compile(self.forward, backend="eager")


class HasOwnHooks(TinyClassifier):
    """Has hooks of its own, which change what the explained part gets, renew what it returns, and count."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.register_forward_pre_hook(self.brighten)
        self.register_forward_pre_hook(self.see_keywords, with_kwargs=True)
        self.register_forward_hook(self.renew)
        self.register_forward_hook(self.see_output, always_call=True)
        self.backbone.register_forward_pre_hook(self.see_input)

    @staticmethod
    def brighten(module, args):
        module.calls.append("brighten")
        return (args[0] + 0.1,)

    @staticmethod
    def see_keywords(module, args, kwargs):
        module.calls.append(f"keywords {len(kwargs)}")

    @staticmethod
    def renew(module, args, logits):
        module.calls.append("renew")
        return logits.clone()

    @staticmethod
    def see_output(module, args, logits):
        module.calls.append(f"output {logits.shape[1]}")

    @staticmethod
    def see_input(module, args):
        assert args[0].shape[1] == 3

    def on_validation_epoch_end(self):
        expected = ["brighten", "keywords 0", "renew", "output 3"]
        assert self.calls == expected * (len(self.calls) // 4)
        self.log("calls", float(len(self.calls)))


class LogsAndKeeps(TinyClassifier):
    """Logs, counts and keeps features in its forward, which a pass of ours must not add to."""

    def __init__(self):
        super().__init__()
        self.mean_logit = MeanMetric()
        self.seen, self.shapes, self.running = 0, [], torch.zeros(3)

    def forward(self, images):
        self.features = self.backbone(images)
        logits = self.head(self.features)
        self.seen += len(images)
        self.shapes.append(images.shape)
        self.running += logits.detach().float().mean(0).cpu()
        if not self.training:
            self.log("logit_in_forward", logits.mean())
            self.mean_logit.update(logits.detach())
        return logits

    def on_validation_epoch_end(self):
        self.log("mean_logit", self.mean_logit.compute())
        self.log("seen", float(self.seen + len(self.shapes)))
        self.log("running", self.running.sum())
        self.mean_logit.reset()


class CallsForward(TinyClassifier):
    """Its steps call `self.forward`, which no hook sees."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch[0] * 2), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.forward(batch[0] * 2), batch[1]))


class RandomInEval(TinyClassifier):
    """Drops pixels in eval mode too."""

    def forward(self, images):
        return super().forward(F.dropout(images, 0.2, training=True))


class KeepsDropping(TinyClassifier):
    """Validates with dropout, as Monte Carlo dropout does, and with all else in eval mode."""

    def on_validation_model_eval(self):
        super().on_validation_model_eval()
        self.backbone[3].train()


class Functional(TinyClassifier):
    """Calls its backbone with weights that it gives it for the call."""

    def forward(self, images):
        weights = {name: parameter * 1.01 for name, parameter in self.backbone.named_parameters()}
        return self.head(functional_call(self.backbone, weights, (images,)))


class MadeLate(TinyClassifier):
    """Makes its head in `configure_model`."""

    def __init__(self):
        super().__init__()
        self.head = None

    def configure_model(self):
        if self.head is None:
            self.head = GAPHead(12, NUM_CLASSES)


class Stateful(Recurrent):
    """Carries the state of its LSTM from one batch to the next, as a tuple."""

    def __init__(self):
        super().__init__()
        self.state = None

    def forward(self, images):
        columns = self.backbone(images).mean(2).transpose(1, 2)
        if self.state is None or self.state[0].shape[1] != len(images):
            self.state = (images.new_zeros(2, len(images), 8),) * 2
        features, state = self.rnn(columns, self.state)
        self.state = tuple(part.detach().clone() for part in state)
        return self.linear(features.mean(1))


class WithSizes(TinyClassifier):
    """Takes two inputs: images, and a number for each, which it embeds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 12, max_norm=1.0)

    def forward(self, images, numbers):
        return self.head(self.backbone(images) + self.embedding(numbers)[:, :, None, None])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0], batch[1]), batch[2])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0], numbers=batch[1]), batch[2]))


class ByKeywords(TinyClassifier):
    """Takes its batch as keyword arguments, and returns a dict."""

    def forward(self, *, pixel_values, labels):
        logits = super().forward(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def training_step(self, batch, batch_idx):
        return self(**batch)["loss"]

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch)["loss"], batch_size=8)


class Teaches(TinyClassifier):
    """Learns from a copy of itself as it was at the beginning."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.head)).eval().requires_grad_(False)

    def training_step(self, batch, batch_idx):
        target = self.teacher(batch[0]).softmax(1)
        return super().training_step(batch, batch_idx) + F.kl_div(self(batch[0]).log_softmax(1), target)


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def with_numbers(**options: Any):
    images, labels = data()[:]
    return loader(TensorDataset(images, torch.arange(24) % 4, labels), **options)


def as_keywords(items):
    images, labels = (torch.stack(part) for part in zip(*items, strict=True))
    return {"pixel_values": images, "labels": labels}


class Autocasts(TinyClassifier):
    """Runs its backbone in bfloat16 by a context of its own."""

    def forward(self, images):
        with torch.autocast(images.device.type, torch.bfloat16):
            features = self.backbone(images)
        return self.head(features.float())


ROWS = [
    Recipe("validation in train mode", NeverEval, daily=True),
    Recipe("random in eval mode", RandomInEval, daily=True),
    Recipe("Monte Carlo dropout in validation", KeepsDropping),
    Recipe("hooks of its own on the explained part", HasOwnHooks, daily=True),
    Recipe("a step that calls forward itself", CallsForward),
    Recipe("a compiled forward", CompiledForward),
    Recipe("non-reentrant checkpointing", Checkpointed),
    Recipe("reentrant checkpointing", HalfCheckpointed, methods=("cam", "grad_cam")),
    Recipe("functional_call with weights of the moment", Functional),
    Recipe("autocast of its own", Autocasts),
    Recipe("a head made in configure_model", MadeLate),
    Recipe("learning from a frozen copy of itself", Teaches),
    module("the state of an LSTM, carried from batch to batch", Stateful, methods=GRADIENTS),
    Recipe("two inputs, one embedded", WithSizes, train=with_numbers, val=with_numbers, methods=GRADIENTS),
    Recipe("keyword arguments, and a dict with the loss", ByKeywords, **both(loader, collate_fn=as_keywords)),
    Recipe("the default dtype float64", around=partial(default_dtype, torch.float64), daily=True),
]
