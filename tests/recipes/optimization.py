"""Optimizers, schedulers and steps: how the weights move."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tiny import TinyClassifier
from torch import nn
from torch.optim import lr_scheduler

from .recipe import Recipe


class Optimized(TinyClassifier):
    """Trains with an optimizer, and with schedulers if there are any."""

    def __init__(self, optimizer: Callable, *schedulers: Callable, interval: str = "epoch"):
        super().__init__()
        self.make_optimizer, self.make_schedulers, self.interval = optimizer, schedulers, interval

    def configure_optimizers(self):
        optimizer = self.make_optimizer(self.parameters())
        schedulers = [{"scheduler": make(optimizer), "interval": self.interval} for make in self.make_schedulers]
        return [optimizer], schedulers


class Scheduled(TinyClassifier):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


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


class Toggled(Manual):
    """Two optimizers in turn, each on its own parameters, with schedulers stepped by hand."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()[batch_idx % 2]
        self.toggle_optimizer(optimizer)
        loss = F.cross_entropy(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def on_train_epoch_end(self):
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        optimizers = super().configure_optimizers()
        return optimizers, [lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


class Sharpness(Manual):
    """Sharpness-aware minimization: two backwards a step, the second at shifted weights."""

    def training_step(self, batch, batch_idx):
        optimizer, parameters = self.optimizers(), list(self.parameters())
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        shifts = [0.05 * parameter.grad / (parameter.grad.norm() + 1e-12) for parameter in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, shifts)
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        with torch.no_grad():
            torch._foreach_sub_(parameters, shifts)
        optimizer.step()
        optimizer.zero_grad()


class Adversarial(TinyClassifier):
    """A GAN beside the classifier: a generator and a discriminator, which its backbone is, in turn."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 3 * 16 * 16), nn.Unflatten(1, (3, 16, 16)), nn.Tanh())
        self.judge = nn.Linear(12, 1)

    def judged(self, images):
        return self.judge(self.backbone(images).mean((2, 3)))

    def training_step(self, batch, batch_idx):
        ours, theirs = self.optimizers()
        fakes = self.generator(torch.randn(len(batch[0]), 4).to(batch[0]))
        ours.zero_grad()
        real = F.softplus(-self.judged(batch[0])).mean() + F.softplus(self.judged(fakes.detach())).mean()
        self.manual_backward(real + F.cross_entropy(self(batch[0]), batch[1]))
        ours.step()
        theirs.zero_grad()
        self.manual_backward(F.softplus(-self.judged(fakes)).mean())
        theirs.step()

    def configure_optimizers(self):
        ours = [*self.backbone.parameters(), *self.head.parameters(), *self.judge.parameters()]
        return torch.optim.Adam(ours, lr=1e-2), torch.optim.Adam(self.generator.parameters(), lr=1e-2)


class GradientPenalty(TinyClassifier):
    """Adds the norm of the gradient to the images, which asks for a second derivative."""

    def training_step(self, batch, batch_idx):
        images = batch[0].clone().requires_grad_()
        loss = F.cross_entropy(self(images), batch[1])
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        return loss + gradient.pow(2).sum()


class Mixup(TinyClassifier):
    """Mixes each batch with itself in another order."""

    def training_step(self, batch, batch_idx):
        images, labels = batch
        order, weight = torch.randperm(len(images)), torch.rand(())
        logits = self(images.lerp(images[order], weight))
        return F.cross_entropy(logits, labels).lerp(F.cross_entropy(logits, labels[order]), weight)


class WatchesItsGradients(TinyClassifier):
    """Logs and scales gradients in the hooks around the optimizer's step."""

    def on_before_zero_grad(self, optimizer):
        norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        self.log("gradient_norm", torch.stack(norms).sum() if norms else torch.zeros(()))

    def on_before_optimizer_step(self, optimizer):
        for parameter in self.head.parameters():
            parameter.grad.mul_(0.5)

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + self.global_step)
        super().optimizer_step(epoch, batch_idx, optimizer, closure)


class HooksItsParameters(TinyClassifier):
    """Has hooks on its parameters' gradients, and steps an optimizer of each parameter in backward."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.head.linear.weight.register_hook(lambda gradient: gradient * 0.5)
        self.own = {name: torch.optim.SGD([parameter], lr=0.1) for name, parameter in self.named_parameters()}
        for name, parameter in self.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(self.step, name))

    def step(self, name, parameter):
        self.own[name].step()
        parameter.grad = None

    def training_step(self, batch, batch_idx):
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return None


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


class Thaws(TinyClassifier):
    """Trains its backbone from the second epoch on, with a group of parameters that is added then."""

    def __init__(self):
        super().__init__()
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.backbone.requires_grad_(True)
            self.optimizers().add_param_group({"params": list(self.backbone.parameters()), "lr": 1e-3})

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=1e-2)


class MeasuresInValidation(TinyClassifier):
    """Takes gradients in validation."""

    def validation_step(self, batch, batch_idx):
        with torch.enable_grad():
            images = batch[0].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(images).sum(), images)
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]) + gradient.abs().mean())


def optimized(name: str, optimizer: Callable, *schedulers: Callable, interval: str = "epoch", **options: Any) -> Recipe:
    return Recipe(name, partial(Optimized, optimizer, *schedulers, interval=interval), **options)


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
ADAM = partial(torch.optim.Adam, lr=1e-2)


HALVES = partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)


def warmup(optimizer):
    schedulers = [lr_scheduler.LinearLR(optimizer, total_iters=2), lr_scheduler.CosineAnnealingLR(optimizer, 4)]
    return lr_scheduler.SequentialLR(optimizer, schedulers, milestones=[2])


ROWS = [
    Recipe("manual optimization, one optimizer", Manual),
    Recipe("manual optimization, two optimizers", partial(Manual, 2), daily=True),
    Recipe("manual optimization, two toggled optimizers, clipped, with schedulers", partial(Toggled, 2)),
    Recipe("sharpness-aware minimization", Sharpness),
    Recipe("a GAN", Adversarial),
    Recipe("a gradient penalty", GradientPenalty, daily=True),
    Recipe("mixup", Mixup),
    Recipe("hooks around the optimizer's step", WatchesItsGradients),
    Recipe("hooks on parameters, an optimizer of each stepped in backward", HooksItsParameters),
    Recipe("gradients in validation", MeasuresInValidation, trainer={"inference_mode": False}),
    Recipe("gradient clipping", trainer={"gradient_clip_val": 0.1}),
    Recipe("gradient clipping by value", trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    Recipe("a scheduler that reads val_loss", Scheduled),
    Recipe("frozen layers and BatchNorm in eval", Frozen),
    Recipe("layers that thaw in the second epoch", Thaws),
    optimized("SGD with Nesterov momentum", SGD),
    optimized("Adam, amsgrad", partial(ADAM, amsgrad=True)),
    optimized("Adam, foreach", partial(ADAM, foreach=True)),
    optimized("AdamW, fused", partial(torch.optim.AdamW, lr=1e-2, fused=True)),
    optimized("RMSprop", partial(torch.optim.RMSprop, lr=1e-3)),
    optimized("RAdam", partial(torch.optim.RAdam, lr=1e-2)),
    optimized("LBFGS", partial(torch.optim.LBFGS, lr=0.1, max_iter=3), daily=True),
    optimized("one cycle, by steps", SGD, partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=6), interval="step"),
    optimized("cosine with warm restarts", ADAM, partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=1)),
    optimized("a warmup before a cosine", ADAM, warmup, interval="step"),
    optimized("two schedulers on one optimizer", ADAM, HALVES, partial(lr_scheduler.ExponentialLR, gamma=0.9)),
]
