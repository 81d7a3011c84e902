"""What a data set, a data module or a model gives a run: names of the classes, pixels and labels, in whatever form."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawing import caption_of
from looking import Keeps
from tiny import NUM_CLASSES, L, TinyClassifier, events, first, loader, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from lightning_saliency import GradCAMCallback, explain, load_record
from lightning_saliency.attribution import make_heatmaps
from lightning_saliency.callbacks import Execution
from lightning_saliency.visualization import encode_picture, grid, to_rgb
from lightning_saliency.visualization.captions import reason_words

NAMES = ["cat", "dog", "cow"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
NORMALIZE = v2.Normalize(MEAN, STD)
PIXELS = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Told(Dataset):
    """Images of the given pixels, transformed, with labels; and whatever it tells of itself."""

    def __init__(self, transform=None, labels=None, **told):
        self.transform, self.labels = transform, torch.arange(len(PIXELS)) % NUM_CLASSES if labels is None else labels
        vars(self).update(told)

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        image = PIXELS[index]
        return image if self.transform is None else self.transform(image), self.labels[index]


def fit(folder, val, model=None, *, samples=4, outputs=(), datamodule=None, **options):
    """Train for an epoch, and return what was recorded."""
    callback = GradCAMCallback(samples=first(samples), outputs=list(outputs), execution=Execution(on_error="raise"))
    loaders = {"datamodule": datamodule} if datamodule else {"train_dataloaders": loader(), "val_dataloaders": val}
    trainer(folder, callback, max_epochs=1, **options).fit(model or TinyClassifier(), **loaders)
    return load_record(folder)


def shown(record) -> torch.Tensor:
    return torch.from_numpy(np.stack(record.samples.images)).float() / 255


class Noise:
    """Of many tutorials: noise with a mean and a deviation, which is no normalization."""

    def __init__(self, mean=0.0, std=0.1):
        self.mean, self.std = mean, std
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, tensor):
        own = torch.randn(tensor.shape, generator=self.generator)
        return tensor + (own + torch.randn(tensor.shape)) / 2 * self.std + self.mean


class ArrayNormalize:
    """Takes named arrays of pixels in [0, 255], as albumentations' `Normalize` does."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, *, image):
        return {"image": (image / 255 - np.float32(self.mean)) / np.float32(self.std)}


NORMALIZE_ARRAYS = ArrayNormalize(MEAN, STD)


def to_array_and_back(image):
    return torch.from_numpy(NORMALIZE_ARRAYS(image=image.movedim(0, -1).numpy() * 255)["image"]).movedim(-1, 0)


@pytest.mark.parametrize(
    "transform",
    [
        NORMALIZE,
        v2.Compose([NORMALIZE, Noise()]),
        v2.Compose([NORMALIZE, Noise(0.0, 1e-3)]),
        v2.Compose([v2.Lambda(lambda image: image * 255), v2.Normalize([127.5, 102.0, 76.5], [51.0, 76.5, 102.0])]),
        v2.Lambda(to_array_and_back),
    ],
    ids=["Normalize", "and noise", "and little noise", "of pixels in [0, 255]", "of arrays"],
)
def test_the_pixels_are_those_before_the_data_set_normalized_them(tmp_path, transform):
    record = fit(tmp_path, DataLoader(Subset(Told(transform), range(12)), 4))
    assert (shown(record) - PIXELS[:4]).abs().max() < 0.2
    assert (shown(record) - PIXELS[:4]).abs().mean() < 0.02


class NormalizesInTheStep(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.preprocess = nn.Sequential(v2.Normalize(MEAN, STD))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(self.preprocess(batch[0])), batch[1]))


class Augmentation(nn.Module):
    """Takes batches, and has its numbers in a dict, as kornia's `Normalize` does."""

    def __init__(self, mean, std):
        super().__init__()
        self.flags = {"mean": torch.tensor(mean), "std": torch.tensor(std)}

    def forward(self, images):
        return (images - self.flags["mean"].view(1, -1, 1, 1)) / self.flags["std"].view(1, -1, 1, 1)


class NormalizesAfterTransfer(L.LightningDataModule):
    """As the data modules of torchgeo do."""

    def __init__(self):
        super().__init__()
        self.mean, self.std = torch.tensor(MEAN), torch.tensor(STD)
        self.aug = nn.Sequential(Augmentation(MEAN, STD))

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return DataLoader(Told(), 4)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.aug(batch[0]), batch[1]


def test_the_pixels_are_those_before_the_step_or_the_data_module_normalized_them(tmp_path):
    in_step = fit(tmp_path / "step", DataLoader(Told(), 4), NormalizesInTheStep())
    after_transfer = fit(tmp_path / "transfer", None, datamodule=NormalizesAfterTransfer())
    for record in (in_step, after_transfer):
        assert (shown(record) - PIXELS[:4]).abs().max() < 0.01


class NormalizesItself(TinyClassifier):
    """The images that it is called with are pixels; what it does to them inside is undone nowhere."""

    def __init__(self):
        super().__init__()
        self.normalize = v2.Normalize(MEAN, STD)

    def forward(self, images):
        return super().forward(self.normalize(images))


def test_pixels_that_the_model_normalizes_itself_are_shown_as_they_are(tmp_path):
    record = fit(tmp_path, DataLoader(Told(), 4), NormalizesItself())
    assert (shown(record) - PIXELS[:4]).abs().max() < 0.01


def test_a_normalization_that_does_not_explain_the_images_is_not_undone_and_the_sheet_says_so(tmp_path):
    L.seed_everything(0)
    model = TinyClassifier()
    dataset = Told(v2.Compose([NORMALIZE, v2.Lambda(lambda image: image * 5)]))
    record = fit(tmp_path, DataLoader(dataset, 4), model, samples=3)
    images = NORMALIZE(PIXELS[:3]) * 5
    assert torch.equal(shown(record) * 255, to_rgb(images).float())
    explanation = explain(model, images, target=torch.arange(3))
    is_wrong = (explanation.predictions != torch.arange(3)).tolist()
    assert any(is_wrong)
    of_predicted = make_heatmaps(explain(model, images).attributions["grad_cam"], (16, 16))
    heatmaps = make_heatmaps(explanation.attributions["grad_cam"], (16, 16))
    expected = grid(
        to_rgb(images),
        {"Grad-CAM": heatmaps.maps, "Grad-CAM, predicted": of_predicted.maps},
        title="epoch 0 · step 2",
        captions=[caption_of(true, row, range(3)) for true, row in enumerate(explanation.probabilities)],
        blanks={
            "Grad-CAM": reason_words(heatmaps.reasons),
            "Grad-CAM, predicted": [
                reason if wrong else ""
                for reason, wrong in zip(reason_words(of_predicted.reasons), is_wrong, strict=True)
            ],
        },
        note="explained: true class · read at layer backbone"
        " · each image stretched to its own range, as no normalization fits",
    )
    last = events(tmp_path).Images("saliency/grad_cam")[-1]
    assert last.encoded_image_string == encode_picture(expected)[0]


class Label:
    names = NAMES


class Configured(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.backbone.config = SimpleNamespace(id2label={str(index): name for index, name in enumerate(NAMES)})


@pytest.mark.parametrize(
    ("told", "model", "names"),
    [
        ({"classes": [("cat", "Felis catus"), ("dog", "Canis"), ("cow",)]}, TinyClassifier, NAMES),
        ({"features": {"pixel_values": None, "label": Label()}}, TinyClassifier, NAMES),
        ({"info": {"label": dict(zip("012", NAMES, strict=True))}}, TinyClassifier, NAMES),
        ({"classes": ["animal", "plant"]}, TinyClassifier, None),
        ({"classes": ["animal", "plant"]}, Configured, NAMES),
        ({}, Configured, NAMES),
    ],
)
def test_the_names_are_those_of_the_data_set_or_the_model_that_fit_the_logits(tmp_path, told, model, names):
    record = fit(tmp_path, DataLoader(Subset(Told(**told), range(12)), 4), model())
    assert record.samples.class_names == (names and tuple(names))


CLASSES = torch.arange(len(PIXELS)) % NUM_CLASSES


class SoftLabels(TinyClassifier):
    """Labels that `cross_entropy` takes as they are, and with "ignore" among them."""

    def validation_step(self, batch, batch_idx):
        labels = torch.as_tensor(batch[1])
        ignored = labels.dim() == 1 and labels.unique().max() > 2
        self.log("val_loss", F.cross_entropy(self(batch[0]), labels, ignore_index=255 if ignored else -1), batch_size=4)


def as_lists(items):
    """Collates images, and the labels as a list of ints."""
    return torch.stack([image for image, _ in items]), [int(label) for _, label in items]


@pytest.mark.parametrize(
    ("labels", "found", "collate"),
    [
        (F.one_hot(CLASSES).float(), [0, 1, 2, 0, 1], None),
        (F.one_hot(CLASSES).float() * 0.9 + 0.1 / 3, [0, 1, 2, 0, 1], None),
        (torch.where(CLASSES == 1, -1, CLASSES), [0, None, 2, 0, None], None),
        (torch.where(CLASSES == 2, 255, CLASSES), [0, 1, None, 0, 1], None),
        (torch.full((12,), -1), [None] * 5, None),
        (CLASSES, [0, 1, 2, 0, 1], as_lists),
    ],
    ids=["one-hot", "soft", "some -1", "some 255", "all -1", "lists"],
)
def test_labels_of_any_usual_form_are_the_true_classes_and_what_means_ignore_is_none_without_a_word(
    tmp_path, labels, found, collate
):
    keeps = Keeps()
    val = DataLoader(Told(labels=labels), 4, collate_fn=collate)
    record = fit(tmp_path, val, SoftLabels(), samples=5, outputs=[keeps])
    assert keeps.labels == list(record.samples.labels) == found
    (group,) = keeps.looks[-1].explained
    predictions = group.explanation.predictions.tolist()
    expected = [prediction if label is None else label for label, prediction in zip(found, predictions, strict=True)]
    assert group.explanation.classes.tolist() == expected


def test_trying_a_transform_leaves_the_training_as_it_is(tmp_path):
    def trained(folder, *callbacks):
        L.seed_everything(0)
        model = TinyClassifier()
        noise = Noise(0.0, 0.3)
        val = DataLoader(Told(v2.Compose([NORMALIZE, noise])), 4)
        train = DataLoader(Told(v2.Compose([NORMALIZE, noise])), 4, shuffle=True)
        trainer(folder, *callbacks, max_epochs=2).fit(model, train, val)
        states = noise.generator.get_state(), torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype("i8"))
        return [*model.state_dict().values(), *states], random.getstate()

    plain, with_callback = trained(tmp_path / "plain"), trained(tmp_path / "with", GradCAMCallback(samples=4))
    assert plain[1] == with_callback[1]
    assert all(torch.equal(*pair) for pair in zip(plain[0], with_callback[0], strict=True))
