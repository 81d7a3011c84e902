"""Which samples are shown: taken from the validation stream once, kept, resumed, chosen, or given."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps, images_of
from recipes import Deterministic
from tiny import NUM_CLASSES, L, TinyClassifier, data, events, loader, trainer
from torch.utils.data import Subset, TensorDataset

from lightning_saliency import CAMCallback, GradCAMCallback, SaliencyCallback
from lightning_saliency.callbacks import Execution, Samples


def fit(folder, val=None, *, model=None, max_epochs=1, **options) -> Keeps:
    """Train for a little, and keep the looks."""
    keeps = Keeps()
    callback = GradCAMCallback(**({"history": False, "metrics": False, "outputs": [keeps]} | options))
    runner = trainer(folder, callback, max_epochs=max_epochs, num_sanity_val_steps=0)
    runner.fit(model or TinyClassifier(), loader(), val or loader())
    return keeps


def test_the_samples_are_the_first_of_the_stream_across_batches(tmp_path):
    keeps = fit(tmp_path, loader(batch_size=2), samples=Samples(num=5, choose="first"))
    assert torch.equal(keeps.images, data()[:5][0])
    assert keeps.labels == [0, 1, 2, 0, 1]


def test_they_are_taken_once_also_where_the_stream_is_shuffled(tmp_path):
    L.seed_everything(0)
    with pytest.warns(UserWarning, match="shuffling enabled"):
        keeps = fit(tmp_path, loader(shuffle=True), samples=5, max_epochs=3)
    assert [look.epoch for look in keeps.looks] == [None, 0, 1, 2]
    initial, *later = [images_of(look) for look in keeps.looks]
    assert all(torch.equal(initial, images) for images in later)


def test_chosen_positions_are_shown_in_the_order_given(tmp_path):
    keeps = fit(tmp_path, samples=[20, 3])
    assert torch.equal(keeps.images, data()[[20, 3]][0])
    assert keeps.labels == [2, 0]


@pytest.mark.parametrize("in_options", [False, True])
def test_given_images_are_shown_as_they_are(tmp_path, in_options):
    images, labels = torch.rand(2, 3, 20, 20), torch.tensor([2, 0])
    keeps = fit(tmp_path, samples=Samples(images=(images, labels)) if in_options else (images, labels))
    assert torch.equal(keeps.images, images)
    assert keeps.labels == [2, 0]
    assert fit(tmp_path, samples=images).labels == [None, None]
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 2] * 2


def sorted_by_class() -> TensorDataset:
    images, labels = data()[:]
    order = labels.argsort(stable=True)
    return TensorDataset(images[order], labels[order])


def test_one_of_each_class_from_a_stream_that_is_sorted_by_class(tmp_path):
    keeps = fit(tmp_path, loader(sorted_by_class()), samples=Samples(num=4, choose="per_class"))
    assert keeps.labels == [0, 1, 2, 0]
    assert torch.equal(keeps.images, sorted_by_class()[[0, 8, 16, 1]][0])


def test_samples_of_no_class_are_shown_after_one_of_each(tmp_path):
    images, labels = data()[:]
    ignored = torch.full_like(labels, -100)
    ignored[[5, 7]] = torch.tensor([2, 0])
    keeps = fit(tmp_path, loader(TensorDataset(images, ignored)), samples=4)
    assert keeps.labels == [0, 2, None, None]
    assert torch.equal(keeps.images, images[[7, 5, 0, 1]])


class KeepsTheStream(Keeps):
    """Also notes the loss of each image of the stream that has just passed, as the validation step had it."""

    def __call__(self, look):
        if not self.looks:
            self.losses = torch.cat(look.pl_module.losses)
        return super().__call__(look)


class NotesItsLosses(TinyClassifier):
    def on_validation_epoch_start(self):
        self.losses = []

    def validation_step(self, batch, batch_idx):
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        self.losses.append(losses)
        self.log("val_loss", losses.mean())


def test_the_hardest_are_those_with_the_largest_loss_in_the_first_pass_over_the_whole_stream(tmp_path):
    L.seed_everything(0)
    keeps = KeepsTheStream()
    fit(
        tmp_path,
        loader(batch_size=5),
        model=NotesItsLosses(),
        max_epochs=3,
        samples=Samples(num=4, choose="hardest"),
        outputs=[keeps],
    )
    expected = keeps.losses.argsort(descending=True)[:4].tolist()
    assert torch.equal(keeps.images, data()[expected][0])
    assert keeps.labels == data()[expected][1].tolist()
    assert all(torch.equal(images_of(look), keeps.images) for look in keeps.looks)


def test_the_hardest_wait_for_a_pass_over_the_whole_stream(tmp_path):
    L.seed_everything(0)
    keeps = Keeps()
    callback = GradCAMCallback(samples=Samples(num=4, choose="hardest"), outputs=[keeps])
    trainer(tmp_path, callback, num_sanity_val_steps=2).fit(Deterministic(), loader(), loader(batch_size=3))
    assert [(look.epoch, look.is_rehearsal) for look in keeps.looks[1:]] == [(None, False), (0, False), (1, False)]
    assert keeps.looks[0].is_rehearsal
    rehearsed, *shown = (images_of(look) for look in keeps.looks)
    assert len(rehearsed) == 4  # of the six that sanity checking has seen
    assert all(torch.equal(shown[0], images) for images in shown)
    assert not torch.equal(shown[0], rehearsed)


@pytest.mark.parametrize("choose", ["per_class", "hardest"])
def test_a_choice_that_needs_labels_says_so_where_there_are_none(tmp_path, choose):
    class Unlabeled(TinyClassifier):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, batch_idx):
            self(batch[0])

    callback = GradCAMCallback(samples=Samples(choose=choose), execution=Execution(on_error="raise"))
    unlabeled = loader(TensorDataset(data()[:][0]))
    with pytest.raises(ValueError, match=r"integer labels \(N,\), which the choice.*`Samples\(labels=\.\.\.\)`"):
        trainer(tmp_path, callback).fit(Unlabeled(), unlabeled, unlabeled)


def test_labels_can_be_taken_out_of_a_batch_by_a_function(tmp_path):
    class Signs(TinyClassifier):  # −1 for each class that it is not
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", -(self(batch["x"]) * batch["signs"]).mean(), batch_size=len(batch["x"]))

    def collate(items):
        labels = torch.stack([label for _, label in items])
        return {"x": torch.stack([image for image, _ in items]), "signs": 2.0 * F.one_hot(labels, NUM_CLASSES) - 1}

    val = loader(collate_fn=collate)
    assert fit(tmp_path, val, model=Signs(), samples=3).labels == [None, None, None]
    which = Samples(num=3, labels=lambda batch: batch["signs"].argmax(1))
    assert fit(tmp_path, val, model=Signs(), samples=which).labels == [0, 1, 2]
    wrong = Samples(num=3, labels=lambda batch: batch["signs"])
    with pytest.raises(ValueError, match=r"function for `labels` to return one class for each of the 8 images, got a"):
        fit(tmp_path, val, model=Signs(), samples=wrong, execution=Execution(on_error="raise"))


def test_batches_of_any_shape_are_understood(tmp_path):
    class Nested(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            self(batch["views"]["image"])

    def nested(items):
        images, labels = (torch.stack(part) for part in zip(*items, strict=True))
        return {"meta": "text", "views": {"image": images}, "y": labels}

    keeps = fit(tmp_path, loader(collate_fn=nested), model=Nested(), samples=Samples(num=2, choose="first"))
    assert torch.equal(keeps.images, data()[:2][0])
    assert keeps.labels == [0, 1]

    class Unpacks(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            self(torch.stack([pixels.view(3, 16, 16) for pixels, _ in batch]))

    def packed(items):
        return [(image.flatten(), int(label)) for image, label in items]

    which = Samples(num=2, choose="first", labels=lambda batch: torch.tensor([label for _, label in batch]))
    keeps = fit(tmp_path, loader(collate_fn=packed), model=Unpacks(), samples=which)
    assert torch.equal(keeps.images, data()[:2][0])
    assert keeps.labels == [0, 1]


def test_a_position_beyond_the_stream_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"held 24 images, got \[99\]"):
        trainer(tmp_path, GradCAMCallback(samples=[0, 99]), num_sanity_val_steps=-1).fit(
            TinyClassifier(), loader(), loader()
        )
    with pytest.warns(UserWarning, match=r"held 24 images, got \[99\]") as caught:
        keeps = fit(tmp_path, samples=[0, 99], max_epochs=2)
    assert sum("held 24 images" in str(warning.message) for warning in caught) == 1
    assert torch.equal(keeps.images, data()[:1][0])  # what there is, is shown


def test_samples_are_taken_from_the_chosen_loader(tmp_path):
    other = data(num=30)
    val = [loader(), loader(Subset(other, range(24, 30)))]
    keeps = fit(tmp_path, val, samples=Samples(num=2, choose="first", dataloader_idx=1))
    assert torch.equal(keeps.images, other[24:26][0])


@pytest.mark.filterwarnings("ignore:.*sampler has shuffling enabled")
def test_a_resumed_run_shows_the_same_samples(tmp_path):
    L.seed_everything(0)
    first, second = Keeps(), Keeps()
    half = trainer(tmp_path, GradCAMCallback(samples=3, outputs=[first]))
    half.fit(TinyClassifier(), loader(), loader(shuffle=True))
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, GradCAMCallback(samples=3, outputs=[second]), max_epochs=4).fit(
        TinyClassifier(), loader(), loader(shuffle=True), ckpt_path=str(tmp_path / "half.ckpt")
    )
    assert torch.equal(first.images, second.images)
    assert first.labels == second.labels
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 2, 5, 8, 11]


def test_a_resumed_run_with_another_method_shows_the_same_samples_and_with_another_choice_others():
    keys = {
        GradCAMCallback().checkpoint_key,
        GradCAMCallback(layer="backbone.0", target=lambda logits: logits[:, 0]).checkpoint_key,
        SaliencyCallback(["saliency", "grad_cam"]).checkpoint_key,
    }
    assert len(keys) == 1
    others = [
        {"samples": 3},
        {"samples": [1]},
        {"samples": Samples(dataloader_idx=1)},
        {"samples": Samples(choose="per_class")},
        {"samples": Samples(choose="hardest")},
        {"name": "b"},
    ]
    assert len({SaliencyCallback(**other).checkpoint_key for other in [*others, {}]}) == 7


def test_several_callbacks_in_one_trainer_keep_apart(tmp_path):
    callbacks = [GradCAMCallback(), GradCAMCallback(layer="backbone.0", name="early"), CAMCallback(samples=2)]
    assert len({callback.checkpoint_key for callback in callbacks}) == 3
    trainer(tmp_path, *callbacks).validate(TinyClassifier(), loader(), verbose=False)
    assert {"saliency/grad_cam", "early/grad_cam"} <= set(events(tmp_path).Tags()["images"])


def test_another_run_with_the_same_callback_shows_its_own_data(tmp_path):
    keeps = Keeps()
    callback = GradCAMCallback(samples=Samples(num=2, choose="first"), outputs=[keeps])
    trainer(tmp_path / "first", callback, max_epochs=1).fit(TinyClassifier(), loader(), loader())
    gray = data(channels=1)
    trainer(tmp_path / "second", callback, max_epochs=1).fit(TinyClassifier(1), loader(gray), loader(gray))
    assert torch.equal(keeps.images, gray[:2][0])


@pytest.mark.parametrize("samples", [4, [3, 0, 7, 23]])
def test_a_target_per_sample_goes_with_its_sample_also_where_sanity_checking_shows_a_part(tmp_path, samples):
    keeps = Keeps()
    options = {"target": [0, 1, 2, 1], "samples": samples, "execution": Execution(on_error="raise")}
    callback = GradCAMCallback(outputs=[keeps], **options)
    trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(batch_size=1))
    explained = [look.explained[0].explanation.classes.tolist() for look in keeps.looks]
    assert explained == [[0, 1] if samples == 4 else [1], [0, 1, 2, 1], [0, 1, 2, 1]]
    assert [look.is_rehearsal for look in keeps.looks] == [True, False, False]


def test_a_loader_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"`samples\.dataloader_idx` to be below the number of loaders, 1, got 1"):
        trainer(tmp_path, GradCAMCallback(samples=Samples(dataloader_idx=1))).fit(TinyClassifier(), loader(), loader())


def test_labels_that_are_no_classes_are_none_and_a_note_says_so_once(tmp_path):
    images, labels = data()[:]
    odd = TensorDataset(images, torch.where(labels == 1, 1, labels + 9))

    class Ignores(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            self(batch[0])

    with pytest.warns(UserWarning, match=r"do not fit the model's logits.*labels from 1 to 11") as caught:
        keeps = fit(tmp_path, loader(odd), model=Ignores(), samples=Samples(num=20, choose="first"), max_epochs=2)
    assert sum("do not fit" in str(warning.message) for warning in caught) == 1
    assert keeps.labels == [None, 1, None] * 6 + [None, 1]
    (group,) = keeps.looks[-1].explained
    assert torch.equal(group.explanation.classes[::3], group.explanation.predictions[::3])


def test_sanity_checking_that_sees_none_of_the_samples_is_a_rehearsal_with_another(tmp_path):
    keeps = Keeps()
    callback = GradCAMCallback(samples=[20], outputs=[keeps], execution=Execution(on_error="raise"))
    trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(batch_size=4))
    rehearsal, initial, trained = keeps.looks
    assert (rehearsal.is_rehearsal, rehearsal.is_logged, rehearsal.is_initial) == (True, False, False)
    assert not torch.equal(images_of(rehearsal), data()[[20]][0])
    assert [(look.epoch, look.step, look.is_rehearsal) for look in (initial, trained)] == [
        (None, 0, False),
        (0, 2, False),
    ]
    assert all(torch.equal(images_of(look), data()[[20]][0]) for look in (initial, trained))
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 2]
