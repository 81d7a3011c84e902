"""What the tests of the pictures share: images, and where the cells of a sheet are."""

import numpy as np
import torch

from lightning_saliency.visualization import Caption, Drawing, Shading

FRAME, PAPER = 218, 255


def shaded(colormap="plasma", alpha=0.85, fade=True, **options):
    """A drawing whose heatmaps have these colors."""
    return Drawing(shading=Shading(colormap, alpha, fade), **options)


BARE = shaded(alpha=0.0)
"""Heatmaps that cannot be seen."""

GRAY = shaded("gray", 1.0, fade=False)
"""Heatmaps alone, white where they are 1."""


def uint8(*shape, seed=0):
    return torch.randint(0, 200, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(*colors, size=(128, 128)):
    """One image of a single color for each color."""
    return torch.tensor(colors, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, *size).contiguous()


def corners(sheet, height, width):
    """The (top, left) of each cell of that size, in reading order, found by the frames alone."""
    line = (sheet == FRAME).all(0).numpy()
    places = []
    for y, x in zip(*np.nonzero(line), strict=True):
        right, down = line[y, x : x + width + 2], line[y : y + height + 2, x]
        if right.sum() == width + 2 and down.sum() == height + 2 and line[y + height + 1, x + width + 1]:
            places.append((int(y) + 1, int(x) + 1))
    return places


def cells_of(sheet, height, width):
    return [sheet[:, y : y + height, x : x + width] for y, x in corners(sheet, height, width)]


def ink(sheet, top, bottom, left=0, right=None):
    """Rows and columns, from the sheet's corner, in which a region has anything but paper."""
    region = (sheet[:, top:bottom, left:right] != PAPER).any(0)
    return region.any(1).nonzero().flatten() + top, region.any(0).nonzero().flatten() + left


def spoken(name) -> str:
    """How a class is called beside a number."""
    return f"class {name}" if str(name).isdigit() else str(name)


def caption_of(true: int, probabilities: torch.Tensor, names) -> Caption:
    """What stands above a sample whose true class is explained."""
    predicted = int(probabilities.argmax())
    said = f"{spoken(names[predicted])} {probabilities[predicted]:.0%}"
    if predicted == true:
        return Caption(said, True, names=(str(names[predicted]),))
    text = f"predicted {said} · map of: true {spoken(names[true])} {probabilities[true]:.0%}"
    return Caption(text, False, names=(str(names[predicted]), str(names[true])))
