"""A tiny detector with a feature pyramid, in torchvision's form, and pictures with two kinds of objects."""

import torch
import torch.nn.functional as F
from tiny import L
from torch import Tensor, nn

SIDE = 64
CLASSES = ("__background__", "ring", "disk")
LEVELS = ((8, 16), (16, 32))
"""The stride of each level, and the side of the objects that it finds."""


def picture(objects: list[tuple[int, int, int, int]], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image and its objects, each given as (class, left, top, side): rings are hollow squares."""
    image = 0.2 * torch.rand(3, SIDE, SIDE, generator=generator)
    for index, left, top, side in objects:
        image[:, top : top + side, left : left + side] = 0.9
        inner = side // 4
        if index == 1:
            image[:, top + inner : top + side - inner, left + inner : left + side - inner] = 0.0
    boxes = torch.tensor([[x, y, x + side, y + side] for _, x, y, side in objects], dtype=torch.float32)
    labels = torch.tensor([index for index, *_ in objects], dtype=torch.long)
    return image, {"boxes": boxes.reshape(-1, 4), "labels": labels}


class Pictures(torch.utils.data.Dataset):
    """Pictures with a small and a large object in two of their quarters; the last one of a batch of eight is empty."""

    classes = CLASSES

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.items = []
        for number in range(count):
            (first, second), *_ = torch.randperm(4, generator=generator)[:2][None]
            objects = []
            for quarter, side in ((int(first), 16), (int(second), 30)):
                index, free = int(torch.randint(1, 3, (1,), generator=generator)), 32 - side
                shift = torch.randint(0, free + 1, (2,), generator=generator)
                objects.append((index, quarter % 2 * 32 + int(shift[0]), quarter // 2 * 32 + int(shift[1]), side))
            self.items.append(picture([] if number % 8 == 7 else objects, generator))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return self.items[index]


def collated(items):
    return tuple(zip(*items, strict=True))


class Pyramid(L.LightningModule):
    """Losses in training; else for each image a mapping of what is detected: `boxes`, `scores` and `labels`."""

    least_score = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.early = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
        self.lateral = nn.ModuleList([nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)])
        self.tower = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
        self.scores, self.offsets = nn.Conv2d(32, len(CLASSES), 1), nn.Conv2d(32, 4, 1)
        nn.init.constant_(self.scores.bias, -4.0)  # nothing is detected at first, as in RetinaNet

    def maps(self, pictures) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return of each level the logits, the boxes in pixels and the centers."""
        early = self.early(self.stem(torch.stack(list(pictures))))
        late = self.lateral[1](self.late(early))
        levels = [self.lateral[0](early) + F.interpolate(late, scale_factor=2.0), late]
        found = []
        for level, (stride, side) in zip(levels, LEVELS, strict=True):
            features = self.tower(level)
            ys, xs = (torch.arange(n) * stride + stride / 2 for n in features.shape[2:])
            centers = torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], -1).flatten(0, 1)
            sizes = self.offsets(features).flatten(2).mT.exp() * side / 2
            boxes = torch.cat([centers - sizes[..., :2], centers + sizes[..., 2:]], 2)
            found.append((self.scores(features).flatten(2).mT, boxes, centers))
        return found

    def forward(self, pictures, targets=None):
        levels = self.maps(pictures)
        if self.training:
            return {
                "loss": sum(self._loss(*level, side, targets) for level, (_, side) in zip(levels, LEVELS, strict=True))
            }
        logits, boxes = (torch.cat([level[part] for level in levels], 1) for part in (0, 1))
        scores, labels = logits.sigmoid().max(2)
        return [
            {"boxes": own[kept], "scores": score[kept], "labels": label[kept]}
            for own, score, label, kept in zip(boxes, scores, labels, scores > self.least_score, strict=True)
        ]

    def _loss(self, logits, boxes, centers, side, targets) -> Tensor:
        truth, near = torch.zeros_like(logits), logits.new_zeros(())
        for row, target in enumerate(targets):
            for corners, label in zip(target["boxes"], target["labels"], strict=True):
                if abs(float(corners[2] - corners[0]) - side) > 4:
                    continue
                distances = (centers - (corners[:2] + corners[2:]) / 2).norm(dim=1)
                truth[row, distances.argmin(), label] = 1
                near = near + F.l1_loss(boxes[row, distances.argmin()], corners)
        weights = 1 + 10 * truth
        return F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="sum") / len(targets) + 0.1 * near

    def training_step(self, batch, batch_idx):
        return self(*batch)["loss"]

    def validation_step(self, batch, batch_idx):
        self.log("val_count", float(sum(len(one["scores"]) for one in self(batch[0]))), batch_size=8)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)
