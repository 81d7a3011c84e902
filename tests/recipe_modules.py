"""LightningModules of the recipes: each trains in a way that a careless callback would disturb."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tiny import TinyClassifier
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric


class Manual(TinyClassifier):
    """Manual optimization with one optimizer or two, and gradients that live across steps."""

    def __init__(self, optimizers: int = 1):
        super().__init__()
        self.automatic_optimization = False
        self.num_optimizers = optimizers

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / 2)
        if batch_idx % 2:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self):
        if self.num_optimizers == 1:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        parts = (self.backbone, self.head)
        return [torch.optim.Adam(part.parameters(), lr=1e-2) for part in parts]


class Scheduled(TinyClassifier):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Frozen(TinyClassifier):
    """The first convolution frozen, and BatchNorm kept in eval mode while the rest trains."""

    def __init__(self):
        super().__init__()
        self.backbone[0].requires_grad_(False)

    def on_train_epoch_start(self):
        self.backbone[1].eval()

    def on_validation_model_train(self):
        super().on_validation_model_train()
        self.backbone[1].eval()


class NeverEval(TinyClassifier):
    """Validates in train mode, so that BatchNorm's statistics would move in a pass that is not forced into eval."""

    def on_validation_model_eval(self):
        pass


class Checkpointed(TinyClassifier):
    def forward(self, images):
        return self.head(checkpoint(self.backbone, images, use_reentrant=False))


class CompiledBackbone(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.backbone = torch.compile(self.backbone, backend="eager")


class CompiledInPlace(TinyClassifier):
    """Compiled by `Module.compile`, whose hooks are compiled with it."""

    def __init__(self):
        super().__init__()
        self.compile(backend="eager")


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


class LogsInForward(TinyClassifier):
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
        self.running += logits.detach().float().mean(0)
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


class PopsFromItsBatch(TinyClassifier):
    """Its forward takes the batch, and takes the images out of it."""

    def forward(self, batch):
        return super().forward(batch.pop("image"))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch), batch["label"]), batch_size=len(batch["label"]))
        assert "image" not in batch


class ConvertsBytes(TinyClassifier):
    """Takes uint8 images."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        return super().forward(images.to(self.head.linear.weight.dtype) / 80 - 1)


Pair = namedtuple("Pair", ["image", "label"])


@dataclass
class Batch:
    image: torch.Tensor
    label: torch.Tensor


class Structured(TinyClassifier):
    """Reads whatever its batches are."""

    def training_step(self, batch, batch_idx):
        return super().training_step(as_pair(batch), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(as_pair(batch), batch_idx)


class FromCombined(TinyClassifier):
    """Validates on one of two batches that come together."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch["a"], batch_idx)


def as_pair(batch: Any):
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    return (batch.image, batch.label) if isinstance(batch, Batch) else tuple(batch)
