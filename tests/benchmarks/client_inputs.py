"""Usual forms of what goes in: batches, calls, shapes and data sets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from client_kinds import (
    CLASSES,
    COUNT,
    Case,
    Oracle,
    Samples,
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
from torch.utils.data import DataLoader, random_split
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

_SOURCE = "usual inputs"


class Net(Step):
    """A network on the first part of the batch, against the second."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = small_net() if net is None else net

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def _dicts(**columns: Tensor) -> tuple[Any, Any]:
    return tuple(dict_batches({"image": images(seed=seed), "label": classes(), **columns}) for seed in (0, 1))


def _label(batch: Any) -> Tensor:
    return batch["label"]


@client(_SOURCE, "a dict as the batch; `self(batch['image'])`")
def dict_batch() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["image"]), batch["label"])

    return Case(Module(), Oracle("classes", lambda module, batch: module(batch["image"]), _label), *_dicts())


@client(_SOURCE, "`forward(batch)` takes the whole dict")
def forward_takes_the_batch() -> Case:
    class Module(Net):
        def forward(self, batch: Any) -> Tensor:
            return self.net(batch["image"])

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch), batch["label"])

    return Case(Module(), Oracle("classes", lambda module, batch: module(batch), _label), *_dicts())


@client(_SOURCE, "`forward(image, label=None)`, called as `self(**batch)`; loss and logits in a dict")
def forward_by_keywords() -> Case:
    class Module(Net):
        def forward(self, image: Tensor, label: Tensor | None = None) -> Any:
            logits = self.net(image)
            return {"loss": None if label is None else F.cross_entropy(logits, label), "logits": logits}

        def loss(self, batch: Any) -> Tensor:
            return self(**batch)["loss"]

    return Case(Module(), Oracle("classes", lambda module, batch: module(**batch)["logits"], _label), *_dicts())


@client(_SOURCE, "an image and metadata: `self(image, metadata)`")
def image_and_metadata() -> Case:
    class Module(Net):
        def __init__(self) -> None:
            super().__init__(features())
            self.table = nn.Linear(4, 8)
            self.head = nn.Linear(24, CLASSES)

        def forward(self, image: Tensor, metadata: Tensor) -> Tensor:
            return self.head(torch.cat([self.net(image), self.table(metadata).relu()], dim=1))

        def loss(self, batch: Any) -> Tensor:
            image, metadata, label = batch
            return F.cross_entropy(self(image, metadata), label)

    data = (batches(images(seed=seed), images(4, seed=seed + 5), classes()) for seed in (0, 1))
    return Case(Module(), Oracle("classes", lambda module, batch: module(*batch[:2]), lambda batch: batch[2]), *data)


@client(_SOURCE, "uint8 images, normalized in the step")
def uint8_normalized_in_the_step() -> Case:
    def normalized(x: Tensor) -> Tensor:
        return (x.float() / 255 - 0.45) / 0.225

    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self(normalized(x)), y)

    data = (batches((images(seed=seed).sigmoid() * 255).byte(), classes()) for seed in (0, 1))
    return Case(Module(), by_position(lambda module, batch: module(normalized(batch[0]))), *data)


@client(_SOURCE, "uint8 images, converted in `forward`")
def uint8_in_forward() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255)

    data = (batches((images(seed=seed).sigmoid() * 255).byte(), classes()) for seed in (0, 1))
    return Case(Module(), by_position(pixels=lambda batch: batch[0].float() / 255), *data)


@client(_SOURCE, "images (N, H, W, C), permuted in `forward`")
def channels_last() -> Case:
    class Module(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.permute(0, 3, 1, 2))

    return Case(Module(), by_position(), *image_batches(32, 32, 3))


@client(_SOURCE, "a number first: (id, image, label)")
def ids_first() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            _, image, label = batch
            return F.cross_entropy(self(image), label)

    data = (batches(torch.arange(COUNT) % 4, images(seed=seed), classes()) for seed in (0, 1))
    return Case(Module(), Oracle("classes", lambda module, batch: module(batch[1]), lambda batch: batch[2]), *data)


@client(_SOURCE, "one-hot labels")
def one_hot_labels() -> Case:
    data = (batches(images(seed=seed), F.one_hot(classes(), CLASSES).float()) for seed in (0, 1))
    return Case(
        Net(), Oracle("classes", lambda module, batch: module(batch[0]), lambda batch: batch[1].argmax(1)), *data
    )


@client(_SOURCE, "labels of −1 are not known: `ignore_index=-1`")
def ignored_labels() -> Case:
    class Module(Net):
        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], ignore_index=-1)

    labels = classes().clone()
    labels[1::3] = -1
    return Case(Module(), by_position(), *(batches(images(seed=seed), labels) for seed in (0, 1)))


@client(_SOURCE, "ImageFolder's transforms with `Normalize`, `classes`, split by `random_split`")
def image_folder() -> Case:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps = [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(mean, std)]
    names = ("ant", "bee", "cat", "dog", "eel")

    class Folder(Samples):
        def __getitem__(self, index: int) -> Any:
            image, label = self.samples[index]
            return self.transform(image), label

    pictures = [to_pil_image(picture) for picture in images(count=2 * COUNT).sigmoid()]
    pairs = list(zip(pictures, classes(samples=2 * COUNT).tolist(), strict=True))
    folder = Folder(pairs, transform=transforms.Compose(steps), classes=list(names), class_to_idx={})
    parts = random_split(folder, [COUNT, COUNT], generator=torch.Generator().manual_seed(0))
    shown = {
        "names": names,
        "pixels": lambda batch: batch[0] * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None],
    }
    return Case(Net(), by_position(**shown), *(DataLoader(part, batch_size=4) for part in parts))


@client(_SOURCE, "images of many sizes, one at a time, not square")
def many_sizes() -> Case:
    samples = [(images(3, 24 + 4 * row, 48, count=1, seed=row)[0], row % CLASSES) for row in range(COUNT)]
    loader = DataLoader(Samples(samples), batch_size=1)
    return Case(
        Net(nn.Sequential(*small_net()[0][:1], *small_net()[0][2:], small_net()[1])), by_position(), loader, loader
    )


@client(_SOURCE, "siamese: two images, are they of one class? one network, called twice")
def siamese() -> Case:
    class Module(Step):
        def __init__(self) -> None:
            super().__init__()
            self.net = features()
            self.head = nn.Linear(16, 1)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.head((self.net(first) - self.net(second)).abs())

        def loss(self, batch: Any) -> Tensor:
            first, second, same = batch
            return F.binary_cross_entropy_with_logits(self(first, second)[:, 0], same.float())

    data = (batches(images(seed=seed), images(seed=seed + 5), classes(2)) for seed in (0, 1))
    return Case(Module(), Oracle("classes", lambda module, batch: module(*batch[:2]), lambda batch: batch[2]), *data)


@client(_SOURCE, "bags of images (N, instances, C, H, W), attention pooling")
def multiple_instances() -> Case:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.attention, self.head = features(), nn.Linear(16, 1), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            each = self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.head((self.attention(each).softmax(1) * each).sum(1))

    return Case(Net(Bags()), by_position(), *image_batches(4, 3, 32, 32, count=2))


@client(_SOURCE, "video (N, T, C, H, W): a network on each frame, then an LSTM")
def frames_and_lstm() -> Case:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.lstm = features(), nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            each = self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.head(self.lstm(each)[0][:, -1])

    return Case(Net(Frames()), by_position(), *image_batches(4, 3, 32, 32))


@client(_SOURCE, "signals (N, C, T): an ECG in twelve leads, a 1-D network")
def signals() -> Case:
    net = nn.Sequential(
        nn.Conv1d(12, 16, 5, padding=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )
    return Case(Net(net), by_position(), *image_batches(12, 250))


@client(_SOURCE, "volumes (N, C, D, H, W): a 3-D network")
def volumes() -> Case:
    net = nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    return Case(Net(net), by_position(), *image_batches(1, 12, 24, 24))
