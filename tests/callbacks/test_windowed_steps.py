"""Validation by sliding windows: whole images with their own masks, or windows with theirs; said once."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, first, loader, trainer
from torch import nn
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution
from lightning_saliency.data.windows import find_windows

N, SIZE, WINDOW = 4, 24, 16
IMAGES = torch.randn(N, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
MASKS = (torch.arange(SIZE) * torch.arange(1, N + 1)[:, None, None] % 7 > 3).long().expand(N, SIZE, SIZE).contiguous()


def windows_of(image, window=WINDOW):
    """Each window's slices; the images were padded to the window's size."""
    starts = [sorted({0, max(size - window, 0)}) for size in image.shape[2:]]
    return [(slice(row, row + window), slice(column, column + window)) for row in starts[0] for column in starts[1]]


def sliding(images, predictor, at_once=4, window=WINDOW):
    """The mean of the predictions for overlapping windows, those of an image first."""
    where = [(row, *slices) for row in range(len(images)) for slices in windows_of(images, window)]
    cuts = torch.stack([images[row, :, y, x] for row, y, x in where])
    predicted = torch.cat([predictor(part) for part in cuts.split(at_once)])
    total, count = (images.new_zeros(len(images), predicted.shape[1], *images.shape[2:]) for _ in range(2))
    for (row, y, x), scores in zip(where, predicted, strict=True):
        total[row, :, y, x] += scores
        count[row, :, y, x] += 1
    return total / count


class Segments(L.LightningModule):
    at_once = 4

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, images):
        return self.last(self.net(images))

    def predict(self, images):
        return self.forward(images)

    def training_step(self, batch, batch_idx):
        row = 0  # patches of one size, as such trainings have
        return F.cross_entropy(self(batch[0][..., :WINDOW, :WINDOW]), batch[1][..., row:WINDOW, :WINDOW])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(sliding(batch[0], self.predict, self.at_once), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class AsModule(Segments):
    def predict(self, images):
        return self(images)


class FixedSize(Segments):
    """It can only be called with images of one size."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(1, 1, WINDOW, WINDOW))

    def forward(self, images):
        return super().forward(images + self.places)


class OneAtATime(Segments):
    at_once = 1


def look_of(folder, module, images=IMAGES, masks=MASKS, fits=True, samples=N):
    keeps = Keeps()
    batches = loader(TensorDataset(images, masks), batch_size=2)
    callback = SaliencyCallback(
        samples=samples, outputs=[keeps], execution=Execution(on_error="raise", audit=True), history=False
    )
    runner = trainer(folder, callback, max_epochs=1)
    run = partial(runner.fit, module, batches, batches) if fits else partial(runner.validate, module, batches)
    with pytest.warns(UserWarning, match="on windows of the images, of size 16×16") as caught:
        run()
    notes = {str(warning.message) for warning in caught if "windows of the images" in str(warning.message)}
    assert len(notes) == 1
    return keeps.looks[-1 if fits else 0], notes.pop()


@pytest.mark.parametrize("module", [Segments, AsModule])
@pytest.mark.parametrize("fits", [True, False])
def test_whole_images_are_explained_with_their_own_masks(tmp_path, module, fits):
    look, note = look_of(tmp_path, module(), fits=fits)
    assert note.endswith("What is shown is what it says of the whole images, in one call.")
    (group,) = look.explained
    assert group.explanation.images.shape == IMAGES.shape
    assert torch.equal(group.explanation.images, IMAGES)
    assert torch.equal(torch.stack(group.samples.pixel_labels), MASKS)
    assert group.samples.labels == tuple(masks.flatten().bincount().argmax().item() for masks in MASKS)
    with torch.no_grad():
        expected = look.forward.model(IMAGES).argmax(1)
    assert torch.equal(group.explanation.masks, expected)
    assert group.explanation.task.name == "segmentation"


@pytest.mark.parametrize("module", [FixedSize, OneAtATime])
def test_else_the_windows_are_the_samples_with_masks_cut_as_they_were(tmp_path, module):
    look, note = look_of(tmp_path, module(), samples=1)
    assert "The samples are those of its first call: " in note
    assert ("cannot be called on whole images" in note) == (module is FixedSize)
    (group,) = look.explained
    assert torch.equal(group.explanation.images, IMAGES[:1, :, :WINDOW, :WINDOW])
    assert torch.equal(group.samples.pixel_labels[0], MASKS[0, :WINDOW, :WINDOW])
    assert group.samples.labels == (MASKS[0, :WINDOW, :WINDOW].flatten().bincount().argmax().item(),)


def test_a_crop_of_each_image_keeps_what_is_true_of_it_and_nothing_is_said(tmp_path, recwarn):
    class Crops(Segments):
        def __init__(self):
            super().__init__()
            self.net.append(nn.AdaptiveAvgPool2d(1))

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0][..., 4:-4, 4:-4]).flatten(1), batch[1])

        def validation_step(self, batch, batch_idx):
            crops = (batch[0][..., 4:-4, 4:-4], batch[0][..., :16, :16])
            self.log("val_loss", F.cross_entropy(sum(map(self, crops)).flatten(1), batch[1]))

    keeps, labels = Keeps(), torch.tensor([1, 0, 0, 1])
    callback = SaliencyCallback(samples=first(N), outputs=[keeps], execution=Execution(on_error="raise"))
    batches = loader(TensorDataset(IMAGES, labels), batch_size=2)
    trainer(tmp_path, callback, max_epochs=1).fit(Crops(), batches, batches)
    assert keeps.labels == labels.tolist()
    assert torch.equal(keeps.images, IMAGES[..., 4:-4, 4:-4])
    assert not [warning for warning in recwarn if "windows" in str(warning.message)]


def test_a_crop_of_each_image_has_its_mask_cropped_too(tmp_path):
    class CropsMasks(Segments):
        def validation_step(self, batch, batch_idx):
            images, masks = (value[..., 4:-4, 4:-4] for value in batch)
            self.log("val_loss", F.cross_entropy(self(images), masks))

    keeps = Keeps()
    callback = SaliencyCallback(samples=N, outputs=[keeps], execution=Execution(on_error="raise"))
    batches = loader(TensorDataset(IMAGES, MASKS), batch_size=2)
    trainer(tmp_path, callback, max_epochs=1).fit(CropsMasks(), batches, batches)
    assert torch.equal(torch.stack(keeps.looks[-1].explained[0].samples.pixel_labels), MASKS[..., 4:-4, 4:-4])


def test_windows_are_found_by_their_pixels_also_of_volumes_and_padded_ones():
    volumes = torch.randn(2, 1, 6, 8, 10)
    padded = F.pad(volumes, (0, 0, 0, 0, 1, 1))
    found = find_windows(torch.stack([padded[1, :, :, 2:6, 4:9], padded[0, :, :, :4, :5]]), volumes)
    assert found.places == ((1, (-1, 2, 4)), (0, (-1, 0, 0)))
    assert found.cut([torch.zeros(2, 6, 8, 10), torch.zeros(2)]) == [None, None]
    assert find_windows(volumes[..., :4] + 1, volumes) is None
    assert find_windows(volumes, volumes) is None


def test_a_window_that_is_at_several_places_has_no_mask():
    images = torch.zeros(1, 1, 8, 8)
    found = find_windows(images[..., :4, :4], images)
    assert found.places == (None,)
    assert found.cut((images, torch.zeros(1, 8, 8))) == (None, None)
