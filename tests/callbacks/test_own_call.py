"""What is explained is what the network really got: the model's own call in a real Trainer, with no settings."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import NUM_CLASSES, L, TinyClassifier, data, events, first, loader, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from lightning_saliency.callbacks import Execution, SaliencyCallback, Style

METHODS = ["cam", "grad_cam", "saliency"]


def look_of(tmp_path, module, batches, *, methods=METHODS, samples=4, fit=False, last=False, history=False, **options):
    """The first look of a run, right after the pass of which it knows what the validation step saw."""
    keeps = Keeps()
    execution = options.pop("execution", Execution(on_error="raise", audit=True))
    options |= {"samples": first(samples), "history": history, "execution": execution, "style": Style(cards="all")}
    callback = SaliencyCallback(methods, outputs=[keeps], **options)
    runner = trainer(tmp_path, callback, max_epochs=1)
    if fit:
        runner.fit(module, batches, batches)
    else:
        runner.validate(module, batches, verbose=False)
    assert events(tmp_path).Images(f"saliency/{METHODS[1]}")
    return keeps.looks[-1 if last else 0]


def check_logits(look):
    """Ours are those of the validation pass, of each sample."""
    ours = {}
    for group in look.explained:
        ours |= dict(zip(group.samples.positions, group.explanation.logits, strict=True))
    for position, sample in zip(look.samples.positions, look.samples.samples, strict=True):
        torch.testing.assert_close(ours[position], sample.logits, rtol=1e-4, atol=1e-5)


class Fits(TinyClassifier):
    """Trains and validates by one `logits` function of the batch."""

    def logits(self, batch):
        return self(batch[0])

    def labels(self, batch):
        return batch[1]

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.logits(batch), self.labels(batch))

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=8)


class NormalizedInTheStep(Fits):
    def logits(self, batch):
        return self((batch[0] - 0.5) / 0.25)


class AugmentedOnTheDevice(Fits):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return v2.Normalize([0.5] * 3, [0.25] * 3)(batch[0].flip(3)), batch[1]


class PermutedOnTheWay(Fits):
    def logits(self, batch):
        return self(batch[0].permute(0, 3, 1, 2))


class PermutedInside(Fits):
    def forward(self, images):
        return super().forward(images.permute(0, 3, 1, 2))


class ConvertedInside(Fits):
    def forward(self, images):
        return super().forward(images.float() / 255 - 0.5)


class ConvertedInTheStep(Fits):
    def logits(self, batch):
        return self(batch[0].float() / 255)


class CallsForward(Fits):
    def logits(self, batch):
        return self.forward(batch[0] * 2)


class CallsItsParts(Fits):
    """The step does by hand what `forward` does too."""

    def logits(self, batch):
        return self.head(self.backbone(batch[0] * 2))


def as_bytes(channels_last=False):
    images, labels = data()[:]
    pixels = ((images + 1) * 80).clamp(0, 255).to(torch.uint8)
    return TensorDataset(pixels.permute(0, 2, 3, 1).contiguous() if channels_last else pixels, labels)


def channels_last():
    images, labels = data()[:]
    return TensorDataset(images.permute(0, 2, 3, 1).contiguous(), labels)


@pytest.mark.parametrize(
    ("model", "dataset", "network_got"),
    [
        (Fits, data, lambda images: images),
        (NormalizedInTheStep, data, lambda images: (images - 0.5) / 0.25),
        (AugmentedOnTheDevice, data, lambda images: (images.flip(3) - 0.5) / 0.25),
        (PermutedOnTheWay, channels_last, lambda images: images.permute(0, 3, 1, 2)),
        (PermutedInside, channels_last, lambda images: images.permute(0, 3, 1, 2)),
        (ConvertedInside, as_bytes, lambda images: images.float()),
        (ConvertedInTheStep, as_bytes, lambda images: images.float() / 255),
        (CallsForward, data, lambda images: images * 2),
        (CallsItsParts, data, lambda images: images * 2),
    ],
)
@pytest.mark.parametrize("fit", [False, True])
def test_the_images_explained_are_those_that_the_network_got(tmp_path, model, dataset, network_got, fit):
    batches = loader(dataset())
    look = look_of(tmp_path, model(), batches, fit=fit)
    check_logits(look)
    (group,) = look.explained
    torch.testing.assert_close(group.explanation.inputs, network_got(dataset()[:4][0]), rtol=1e-6, atol=1e-6)
    assert group.explanation.attributions["saliency"].shape == (4, 1, 16, 16)
    assert group.samples.labels == (0, 1, 2, 0)
    assert look.target == "true class"


class TakesMetadata(Fits):
    def __init__(self):
        super().__init__()
        self.table = nn.Linear(5, NUM_CLASSES)

    def forward(self, image, metadata):
        return super().forward(image) + self.table(metadata)

    def logits(self, batch):
        return self(batch[0], batch[1])

    def labels(self, batch):
        return batch[2]


class TakesTheBatch(Fits):
    def forward(self, batch):
        return super().forward(batch["image"])

    def logits(self, batch):
        return self(batch)

    def labels(self, batch):
        return batch["label"]


class EatsTheBatch(TakesTheBatch):
    def forward(self, batch):
        return Fits.forward(self, batch.pop("image"))


class TakesKeywords(TakesTheBatch):
    def forward(self, pixel_values=None, attention_mask=None):
        return Fits.forward(self, pixel_values * attention_mask)

    def logits(self, batch):
        return self(attention_mask=torch.ones_like(batch["image"]), pixel_values=batch["image"])


class TakesABatchOfItsOwn(Fits):
    @dataclass
    class Batch:
        pixels: torch.Tensor
        names: list
        label: torch.Tensor

    def forward(self, batch):
        assert len(batch.names) == len(batch.pixels)
        return super().forward(batch.pixels)

    def logits(self, batch):
        return self(batch)

    def labels(self, batch):
        return batch.label


def collate_dict(items):
    return {"image": torch.stack([image for image, _ in items]), "label": torch.stack([label for _, label in items])}


def collate_dataclass(items):
    batch = collate_dict(items)
    return TakesABatchOfItsOwn.Batch(batch["image"], [f"{index}.png" for index in range(len(items))], batch["label"])


@pytest.mark.parametrize(
    ("model", "collate"),
    [
        (TakesTheBatch, collate_dict),
        (EatsTheBatch, collate_dict),
        (TakesKeywords, collate_dict),
        (TakesABatchOfItsOwn, collate_dataclass),
    ],
)
def test_a_forward_that_takes_the_batch_or_keywords_is_called_as_it_was(tmp_path, model, collate):
    look = look_of(tmp_path, model(), loader(collate_fn=collate), fit=True)
    check_logits(look)
    assert look.explained[0].samples.labels == (0, 1, 2, 0)


def test_a_forward_with_metadata_keeps_each_samples_own(tmp_path):
    images, labels = data()[:]
    dataset = TensorDataset(images, torch.randn(len(images), 5), labels)
    methods = [*METHODS, "occlusion", "score_cam"]
    look = look_of(tmp_path, TakesMetadata(), loader(dataset), methods=methods[1:], fit=True)
    check_logits(look)


def test_an_index_in_front_and_a_name_behind_are_not_taken_for_labels(tmp_path):
    class Indexed(Fits):
        def logits(self, batch):
            return self(batch[1])

        def labels(self, batch):
            return batch[2]

    images, labels = data()[:]
    look = look_of(tmp_path, Indexed(), loader(TensorDataset(torch.arange(len(images)), images, labels)))
    assert look.explained[0].samples.labels == (0, 1, 2, 0)
    check_logits(look)


def test_lists_of_images_that_the_step_stacks(tmp_path):
    class Stacks(Fits):
        def logits(self, batch):
            return self(torch.stack(batch[0]))

        def labels(self, batch):
            return torch.tensor(batch[1])

    def collate(items):
        return [image for image, _ in items], [int(label) for _, label in items]

    look = look_of(tmp_path, Stacks(), loader(collate_fn=collate))
    check_logits(look)


OutputTuple = namedtuple("OutputTuple", "features logits")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (torch.zeros(len(logits), 4, 2, 2), logits),
        lambda logits: [logits],
        lambda logits: {"features": torch.zeros(len(logits), 7), "logits": logits},
        lambda logits: OutputTuple(torch.zeros(len(logits), 7), logits),
        lambda logits: SimpleNamespace(loss=None, logits=logits),
        lambda logits: logits[:, :, None, None],
    ],
    ids=["tuple", "list", "dict", "named tuple", "object", "1x1 map"],
)
def test_logits_in_any_of_the_usual_containers(tmp_path, wrap):
    class Wraps(Fits):
        def forward(self, images):
            return wrap(super().forward(images))

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    check_logits(look_of(tmp_path, Wraps(), loader()))


class Sizes(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 16 + 4 * (index % 3), 20, generator=generator), index % NUM_CLASSES


def test_samples_of_several_sizes_are_shown_each_at_its_own(tmp_path):
    check_logits(look_of(tmp_path / "initial", Fits(), DataLoader(Sizes(), batch_size=1), samples=2, fit=True))
    look = look_of(tmp_path, Fits(), DataLoader(Sizes(), batch_size=1), samples=6, fit=True, last=True, history=True)
    assert [tuple(group.explanation.images.shape) for group in look.explained] == [
        (2, 3, 16, 20), (2, 3, 20, 20), (2, 3, 24, 20),
    ]  # fmt: skip
    assert [group.samples.positions for group in look.explained] == [(0, 3), (1, 4), (2, 5)]
    for group in look.explained:
        assert group.heatmaps("max")["grad_cam"].maps.shape[2:] == group.explanation.images.shape[2:]
    tags = set(events(tmp_path).Tags()["images"])
    assert {"saliency/grad_cam/filmstrip", "saliency/grad_cam/animation"} <= tags


def test_labels_that_do_not_fit_the_logits_are_none_and_a_note_says_so_once(tmp_path):
    images, labels = data()[:]
    keeps = Keeps()
    callback = SaliencyCallback(METHODS, samples=first(4), outputs=[keeps])

    class Ignores(Fits):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    with pytest.warns(UserWarning, match=r"do not fit the model's logits.*labels from 2 to 40") as caught:
        trainer(tmp_path, callback).fit(Ignores(), loader(), loader(TensorDataset(images, labels * 19 + 2)))
    assert sum("do not fit" in str(warning.message) for warning in caught) == 1
    assert keeps.looks[-1].explained[0].samples.labels == (2, None, None, 2)
    assert torch.equal(
        keeps.looks[-1].explained[0].explanation.classes[1:3], keeps.looks[-1].explained[0].explanation.predictions[1:3]
    )


def test_a_model_that_is_random_in_eval_is_told_so(tmp_path):
    class Random(Fits):
        def forward(self, images):
            return super().forward(images) + 10 * torch.randn(len(images), NUM_CLASSES)

    with pytest.warns(UserWarning, match=r"for 4 of 4 samples the model's logits are not those of the validation pass"):
        look_of(tmp_path, Random(), loader(), methods=METHODS[1:])


def test_of_several_calls_in_a_step_the_first_is_the_sample(tmp_path):
    class FlipsToo(Fits):
        def logits(self, batch):
            return (self(batch[0]) + self(batch[0].flip(3))) / 2

    look = look_of(tmp_path, FlipsToo(), loader())
    torch.testing.assert_close(look.explained[0].explanation.images, data()[:4][0])
    check_logits(look)


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class WrapsTheModule(L.strategies.SingleDeviceStrategy):
    """Runs a step by the call of a wrapper around the module, as DDP does."""

    def setup(self, trainer):
        super().setup(trainer)
        self.model = Wrapper(self.lightning_module)


@pytest.mark.parametrize("model", [NormalizedInTheStep, CallsForward])
def test_a_step_that_runs_as_the_modules_own_call_is_not_taken_for_a_call_of_the_model(tmp_path, model):
    keeps = Keeps()
    callback = SaliencyCallback(METHODS, samples=4, execution=Execution(on_error="raise", audit=True), outputs=[keeps])
    runner = trainer(tmp_path, callback, max_epochs=1, strategy=WrapsTheModule("cpu"))
    runner.fit(model(), loader(), loader())
    look = keeps.looks[0]
    check_logits(look)
    assert isinstance(look.forward.model, model)


def test_the_argument_that_holds_the_images_can_be_named(tmp_path):
    class TwoImages(Fits):
        def forward(self, left, right):
            return super().forward(left) + 2 * super().forward(right)

        def logits(self, batch):
            return self(left=batch[0], right=batch[0].flip(3))

    keeps = Keeps()
    callback = SaliencyCallback("saliency", samples=first(4, image="right"), outputs=[keeps])
    trainer(tmp_path, callback).validate(TwoImages(), loader(), verbose=False)
    torch.testing.assert_close(keeps.looks[-1].explained[0].explanation.images, data()[:4][0].flip(3))


def test_a_part_without_a_forward_around_it_is_found_by_what_the_step_calls(tmp_path):
    class Parts(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.augment, self.net = nn.Conv2d(3, 3, 1), TinyClassifier()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", F.cross_entropy(self.net(self.augment(batch[0])), batch[1]))

    look = look_of(tmp_path, Parts(), loader())
    check_logits(look)
    assert isinstance(look.forward.model, TinyClassifier)


def test_a_step_that_calls_nothing_with_logits_names_what_it_calls(tmp_path):
    class Contrastive(TinyClassifier):
        def forward(self, images):
            raise AssertionError("nobody calls this")

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.backbone(batch[0]).mean())

    with pytest.raises(ValueError, match=r"call what turns images into logits.*It calls backbone.*`model=\.\.\.`"):
        look_of(tmp_path, Contrastive(), loader())
    with pytest.raises(ValueError, match=r"`model`, 'head', to be called in the validation step"):
        look_of(tmp_path, Contrastive(), loader(), model="head")


def test_nothing_is_left_on_the_module_after_a_step_that_raises(tmp_path):
    class Raises(Fits):
        def validation_step(self, batch, batch_idx):
            self(batch[0])
            raise KeyboardInterrupt

    model = Raises()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, SaliencyCallback("cam")).fit(model, loader(), loader())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
