"""Usual forms of what comes out: heads, scales and tasks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from client_inputs import Net
from client_kinds import (
    CLASSES,
    COUNT,
    Case,
    Oracle,
    Step,
    batches,
    by_position,
    classes,
    client,
    dict_batches,
    features,
    image_batches,
    images,
    small_net,
)
from torch import Tensor, nn

_SOURCE = "usual outputs"
_MANY = (torch.arange(COUNT)[:, None] * 3 % torch.arange(2, 2 + CLASSES) == 0).float()


def _to(targets: Tensor, *shape: int) -> tuple[Any, Any]:
    return tuple(batches(images(*shape, seed=seed), targets) for seed in (0, 1))


@client(_SOURCE, "softmax at the end, `NLLLoss` on its logarithm")
def softmax_at_the_end() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.nll_loss(self(batch[0]).log(), batch[1])

    net = nn.Sequential(small_net(), nn.Softmax(dim=1))
    return Case(Module(net), by_position(scale="probabilities"), *image_batches())


@client(_SOURCE, "sigmoid at the end, one score (N, 1), `BCELoss`")
def sigmoid_binary() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy(self(batch[0]).squeeze(1), batch[1].float())

    net = nn.Sequential(small_net(1), nn.Sigmoid())
    return Case(Module(net), by_position(scale="probabilities"), *image_batches(count=2))


@client(_SOURCE, "one score (N,), `BCEWithLogitsLoss`, float labels")
def binary_logit() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    return Case(Module(small_net(1)), by_position(), *_to(classes(2).float()))


@client(_SOURCE, "sigmoid at the end, several labels, `BCELoss`")
def sigmoid_multi_label() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy(self(batch[0]), batch[1])

    net = nn.Sequential(small_net(), nn.Sigmoid())
    return Case(Module(net), by_position(scale="probabilities"), *_to(_MANY))


@client(_SOURCE, "`(features, logits)`")
def features_and_logits() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(features())
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.net(x)
            return found, self.head(found)

        def loss(self, batch: Any) -> Tensor:
            _, logits = self(batch[0])
            return F.cross_entropy(logits, batch[1])

    return Case(Module(), by_position(lambda module, batch: module(batch[0])[1]), *image_batches())


@client(_SOURCE, "`forward(x, y)` returns `(loss, logits)`")
def loss_and_logits() -> Case:
    class Module(Net):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.net(x)
            return F.cross_entropy(logits, y), logits

        def loss(self, batch: Any) -> Tensor:
            return self(*batch)[0]

    return Case(Module(), by_position(lambda module, batch: module(*batch)[1]), *image_batches())


@client(_SOURCE, "early exits: a list of logits, the last one counts")
def exits() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(features())
            self.heads = nn.ModuleList([nn.Linear(3 * 32 * 32, CLASSES), nn.Linear(16, CLASSES)])

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.heads[0](x.flatten(1)), self.heads[1](self.net(x))]

        def loss(self, batch: Any) -> Tensor:
            return sum(F.cross_entropy(logits, batch[1]) for logits in self(batch[0]))

    return Case(Module(), by_position(lambda module, batch: module(batch[0])[-1]), *image_batches())


@client(_SOURCE, "several tasks: a dict of heads, one for the classes, one for a value")
def multi_task() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(features())
            self.heads = nn.ModuleDict({"age": nn.Linear(16, 1), "species": nn.Linear(16, CLASSES)})

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            found = self.net(x)
            return {name: head(found) for name, head in self.heads.items()}

        def loss(self, batch: Any) -> Tensor:
            answers = self(batch["image"])
            value = F.mse_loss(answers["age"][:, 0], batch["age"])
            return value + F.cross_entropy(answers["species"], batch["species"])

    columns = {"age": torch.linspace(0, 4, COUNT), "species": classes()}
    data = (dict_batches({"image": images(seed=seed), **columns}) for seed in (0, 1))
    oracle = Oracle("classes", lambda module, batch: module(batch["image"])["species"], lambda batch: batch["species"])
    return Case(Module(), oracle, *data)


@client(_SOURCE, "ArcFace: `forward` is an embedding, the classes' weights are in the loss")
def arcface() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(small_net(12))
            self.weight = nn.Parameter(torch.randn(CLASSES, 12))

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.net(x))

        def loss(self, batch: Any) -> Tensor:
            cosine = (self(batch[0]) @ F.normalize(self.weight).T).clamp(-0.99, 0.99)
            own = F.one_hot(batch[1], CLASSES).bool()
            return F.cross_entropy(16 * torch.where(own, torch.cos(torch.acos(cosine) + 0.5), cosine), batch[1])

    oracle = Oracle("embedding", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(), oracle, *image_batches())


@client(_SOURCE, "triplets: anchor, positive and negative, an embedding")
def triplets() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.triplet_margin_loss(*(self(image) for image in batch))

    data = (batches(*(images(seed=seed + step) for step in (0, 5, 9))) for seed in (0, 1))
    return Case(Module(small_net(12)), Oracle("embedding", lambda module, batch: module(batch[0])), *data)


@client(_SOURCE, "prototypes: the scores are negative distances to learned points")
def prototypes() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(small_net(12))
            self.prototypes = nn.Parameter(torch.randn(CLASSES, 12))

        def forward(self, x: Tensor) -> Tensor:
            return -torch.cdist(self.net(x), self.prototypes)

    return Case(Module(), by_position(), *image_batches())


@client(_SOURCE, "ordinal regression (CORAL): K − 1 cumulative logits")
def ordinal() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            above = (batch[1][:, None] > torch.arange(CLASSES - 1)).float()
            return F.binary_cross_entropy_with_logits(self(batch[0]), above)

    oracle = Oracle("ranks", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(small_net(CLASSES - 1)), oracle, *image_batches())


@client(_SOURCE, "regression: one value (N, 1), mean squared error")
def age_regression() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1][:, None])

    oracle = Oracle("values", lambda module, batch: module(batch[0])[:, 0], lambda batch: batch[1])
    return Case(Module(small_net(1)), oracle, *_to(torch.linspace(20, 60, COUNT)))


@client(_SOURCE, "key points: ten coordinates, smooth L1")
def keypoints() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.smooth_l1_loss(self(batch[0]), batch[1])

    oracle = Oracle("values", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(small_net(10)), oracle, *_to(images(10, seed=5).sigmoid()))


def _dense(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 3, padding=1))


@client(_SOURCE, "depth: a map of values (N, 1, H, W)")
def depth() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.l1_loss(self(batch[0]), batch[1])

    oracle = Oracle("images", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(_dense(1)), oracle, *_to(images(1, 32, 32, seed=5).exp()))


@client(_SOURCE, "segmentation: logits (N, K, H, W), masks (N, H, W), 255 is ignored")
def segmentation() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], ignore_index=255)

    masks = torch.randint(0, CLASSES, (COUNT, 32, 32), generator=torch.Generator().manual_seed(3))
    masks[:, :4] = 255
    oracle = Oracle("masks", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(_dense(CLASSES)), oracle, *_to(masks))


@client(_SOURCE, "segmentation of one class: a logit a pixel (N, 1, H, W)")
def binary_segmentation() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    masks = (images(1, 32, 32, seed=5) > 0).float()
    oracle = Oracle("masks", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(Module(_dense(1)), oracle, *_to(masks))


@client(_SOURCE, "super-resolution: image to image, twice the size")
def super_resolution() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    net = nn.Sequential(_dense(12), nn.PixelShuffle(2))
    oracle = Oracle("images", lambda module, batch: module(batch[0]))
    return Case(Module(net), oracle, *_to(images(3, 64, 64, seed=5)))


@client(_SOURCE, "distillation: `student` and frozen `teacher`, without `forward`")
def distillation() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            self.teacher, self.student = small_net(width=12), small_net()
            self.teacher.requires_grad_(False)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            with torch.no_grad():
                soft = self.teacher(x).softmax(1)
            logits = self.student(x)
            return F.cross_entropy(logits, y) + F.kl_div(logits.log_softmax(1), soft, reduction="batchmean")

    return Case(Module(), by_position(lambda module, batch: module.student(batch[0])), *image_batches())
