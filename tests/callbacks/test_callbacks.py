import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import (
    NUM_CLASSES,
    CSVLogger,
    L,
    Logger,
    TensorBoardLogger,
    TinyClassifier,
    data,
    events,
    loader,
    picture,
    sheets,
    trainer,
)
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

from lightning_saliency import (
    CAMCallback,
    GradCAMCallback,
    GradCAMPlusPlusCallback,
    GradientSaliencyCallback,
    SaliencyCallback,
    explain,
)
from lightning_saliency.attribution import blank_reasons, to_heatmaps
from lightning_saliency.callbacks import Execution, Samples, Style
from lightning_saliency.visualization import Caption, encode, grid, to_rgb


def cells(sheet: torch.Tensor, colour) -> torch.Tensor:
    """Where a sheet shows exactly this colour, as a boolean (H, W)."""
    return (sheet == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0)


# --- what is written


def test_every_epoch_and_the_untrained_network_are_in_the_event_file_at_the_scalars_steps(tmp_path):
    L.seed_everything(0)
    trainer(tmp_path, SaliencyCallback(["cam", "saliency"]), max_epochs=3).fit(
        TinyClassifier(), loader(shuffle=True), loader()
    )
    found = events(tmp_path)
    assert sheets(tmp_path) == {"saliency/cam", "saliency/saliency", "saliency/overview"}
    scalar_steps = [event.step for event in found.Scalars("val_loss")]
    assert scalar_steps == [2, 5, 8]
    for tag in sheets(tmp_path):
        assert [event.step for event in found.Images(tag)] == [0, *scalar_steps]


def test_the_last_picture_is_the_trained_model_explained_by_hand(tmp_path):
    L.seed_everything(0)
    model = TinyClassifier()
    trainer(tmp_path, SaliencyCallback(["grad_cam", "saliency"], samples=3)).fit(model, loader(), loader())
    images, labels = data()[:3]
    explanation = explain(model, images, methods=["grad_cam", "saliency"], target=labels)
    confidences, predictions = explanation.logits.softmax(1).max(1)
    expected = grid(
        to_rgb(images),
        {"Grad-CAM": explanation.heatmaps()["grad_cam"], "Saliency": explanation.heatmaps()["saliency"]},
        title="epoch 1 · step 5",
        captions=[
            Caption(f"true {true} · predicted {predicted} {confidence:.0%}", true == predicted)
            for true, predicted, confidence in zip(
                labels.tolist(), predictions.tolist(), confidences.tolist(), strict=True
            )
        ],
        blanks={
            "Grad-CAM": blank_reasons(explanation.attributions["grad_cam"]),
            "Saliency": blank_reasons(explanation.attributions["saliency"]),
        },
        note="explained: true class · layer: backbone",
        cell_side=235,
    )
    last = events(tmp_path).Images("saliency/overview")[-1]
    assert last.encoded_image_string == encode(expected)[0]


def test_rows_show_the_samples_in_order_and_the_heat_lies_over_the_image_it_explains(tmp_path):
    class LooksAtBrightness(L.LightningModule):
        """The logit of class 0 is the mean brightness: its CAM is the image itself."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.head = nn.Linear(4, 2)
            nn.init.constant_(self.conv.weight, 1 / 3)
            nn.init.zeros_(self.conv.bias)
            nn.init.constant_(self.head.weight, 1.0)

        def forward(self, images):
            return self.head(F.relu(self.conv(images)).mean((2, 3)))

        def validation_step(self, batch, batch_idx):
            pass

    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :16, :16] = torch.tensor([1.0, 0.0, 1.0])[:, None, None]  # magenta, top left
    images[1, :, 48:, 48:] = torch.tensor([0.0, 1.0, 1.0])[:, None, None]  # cyan, bottom right
    dataset = TensorDataset(images, torch.tensor([0, 0]))
    callback = CAMCallback(style=Style(mean=0.0, std=1.0, colormap="gray", alpha=1.0))
    trainer(tmp_path, callback).validate(LooksAtBrightness(), loader(dataset), verbose=False)

    sheet = picture(events(tmp_path).Images("saliency/cam")[0])
    magenta, cyan = cells(sheet, (255, 0, 255)), cells(sheet, (0, 255, 255))
    white, black = cells(sheet, (255, 255, 255)), cells(sheet, (0, 0, 0))
    assert magenta.nonzero()[:, 0].max() < cyan.nonzero()[:, 0].min()  # the first sample above the second
    for patch, inwards in ((magenta, 1), (cyan, -1)):
        rows, columns = patch.nonzero().unbind(1)
        side = int(columns.max() - columns.min()) + 1
        row, column = int(rows.float().mean()), int(columns.float().mean())  # the middle: interpolation blurs the edge
        assert columns.max() < sheet.shape[2] / 2  # the image on the left; its heatmap one cell and a gap to the right
        gaps = [
            gap
            for gap, beside in ((gap, column + 4 * side + gap) for gap in range(40))
            if white[row, beside] and black[row, beside + inwards * side] and black[row + inwards * side, beside]
        ]
        assert len(gaps) > side / 2


def test_single_channel_and_many_channel_images_are_shown_and_the_picture_says_which_channels(tmp_path):
    for channels in (1, 5):
        folder = tmp_path / str(channels)
        sets = loader(data(channels=channels))
        trainer(folder, SaliencyCallback(samples=2), max_epochs=1).fit(TinyClassifier(channels), sets, sets)
        assert len(events(folder).Images("saliency/overview")) == 2


def test_the_normalisation_and_the_class_names_come_from_the_validation_data_set(tmp_path):
    class Pictures(torch.utils.data.Dataset):
        classes = ("ant", "bee", "cat")
        transform = v2.Compose([v2.Normalize([0.5] * 3, [0.25] * 3)])

        def __getitem__(self, index):
            return self.transform(torch.full((3, 16, 16), 0.2 * (index + 1))), index

        def __len__(self):
            return 3

    L.seed_everything(0)
    callback = GradientSaliencyCallback()
    trainer(tmp_path / "set", callback).validate(TinyClassifier(), loader(Subset(Pictures(), [0, 1, 2])), verbose=False)
    sheet = picture(events(tmp_path / "set").Images("saliency/saliency")[0])
    for index in range(3):
        assert cells(sheet, (51 * (index + 1),) * 3).sum() >= 128 * 128  # 0.2, 0.4, 0.6 of 255, as before Normalize

    L.seed_everything(0)
    given = GradientSaliencyCallback(style=Style(mean=[0.5] * 3, std=[0.25] * 3, class_names=["ant", "bee", "cat"]))
    images = torch.stack([Pictures()[index][0] for index in range(3)])
    plain = loader(TensorDataset(images, torch.arange(3)))
    trainer(tmp_path / "given", given).validate(TinyClassifier(), plain, verbose=False)
    assert torch.equal(sheet, picture(events(tmp_path / "given").Images("saliency/saliency")[0]))


def test_validate_and_test_run_under_inference_mode_and_have_their_own_tags(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(["grad_cam", "saliency"], samples=2))
    runner.validate(TinyClassifier(), loader(), verbose=False)
    runner.test(TinyClassifier(), loader(), verbose=False)
    tags = set(events(tmp_path).Tags()["images"])
    assert tags == {
        f"saliency/{name}{stage}" for name in ("grad_cam", "saliency", "overview") for stage in ("", "/test")
    }


def test_every_n_epochs_and_no_untrained_frame(tmp_path):
    callback = GradCAMCallback(every_n_epochs=2, execution=Execution(log_untrained=False))
    trainer(tmp_path, callback, max_epochs=5).fit(TinyClassifier(), loader(), loader())
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [5, 11]  # epochs 1 and 3


@pytest.mark.parametrize(
    ("shell", "tag"),
    [
        (GradCAMCallback, "grad_cam"),
        (GradCAMPlusPlusCallback, "grad_cam_plus_plus"),
        (GradientSaliencyCallback, "saliency"),
        (partial(CAMCallback, style=Style(top_k=1)), "cam"),
    ],
)
def test_the_named_shells_log_their_one_method(tmp_path, shell, tag):
    trainer(tmp_path, shell()).validate(TinyClassifier(), loader(), verbose=False)
    assert events(tmp_path).Tags()["images"] == [f"saliency/{tag}"]


def test_cam_of_the_most_probable_classes_takes_one_forward_and_no_backward(tmp_path):
    L.seed_everything(0)
    model, forwards = TinyClassifier(), []
    model.head.register_forward_hook(lambda _, args, output: forwards.append((len(args[0]), output.requires_grad)))
    callback = CAMCallback(
        samples=5, style=Style(class_names=["cat", "dog", "owl"], top_k=2), execution=Execution(on_error="raise")
    )
    runner = trainer(tmp_path, callback)
    runner.validate(model, loader(batch_size=5), verbose=False)
    forwards.clear()
    runner.validate(model, loader(batch_size=5), verbose=False)  # the layer is found anew in each run
    validation = [(5, False)] * 4 + [(4, False)]
    assert forwards == [*validation, (1, True), (5, False)]

    images, labels = data()[:5]
    explanation = explain(model, images, methods="cam", target=labels)
    chances, classes = explanation.probabilities.topk(2)
    maps = explanation.class_maps(classes)
    heatmaps = [to_heatmaps(maps[:, rank, None], (16, 16)) for rank in (0, 1)]
    for image in range(5):  # of an image's two maps the weaker is as much weaker in the picture
        peaks = [max(float(maps[image, rank].max()), 0.0) for rank in (0, 1)]
        for rank in (0, 1):
            heatmaps[rank][image] *= peaks[rank] / max(*peaks, 1e-9)
    reasons = [blank_reasons(explanation.class_maps(classes)[:, rank, None]) for rank in (0, 1)]
    names, predictions = ["cat", "dog", "owl"], explanation.predictions.tolist()
    expected = grid(
        to_rgb(images),
        {"top 1": heatmaps[0], "top 2": heatmaps[1]},
        title="validate",
        captions=[
            Caption(f"true {names[true]} · predicted {names[found]} {chance:.0%}", true == found)
            for true, found, chance in zip(labels.tolist(), predictions, chances[:, 0].tolist(), strict=True)
        ],
        blanks={"top 1": reasons[0], "top 2": reasons[1]},
        labels={
            f"top {rank + 1}": [
                Caption(f"{names[found]} · {chance:.0%}", True if found == true else None)
                for found, chance, true in zip(
                    classes[:, rank].tolist(), chances[:, rank].tolist(), labels.tolist(), strict=True
                )
            ]
            for rank in (0, 1)
        },
        note=f"explained: the 2 most probable classes, one scale a row · layer: {explanation.layer}",
        cell_side=182,
    )
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == {"saliency/cam", "saliency/class_maps"}
    assert found.Images("saliency/class_maps")[-1].encoded_image_string == encode(expected)[0]


@pytest.mark.parametrize(
    ("count", "side", "shown"),
    [(1, 300, 256), (4, 300, 158), (10, 300, 130), (10, 64, 128), (1, 32, 192), (10, 32, 96)],
)
def test_the_more_cells_a_sheet_has_the_smaller_they_are_down_to_what_can_be_read(count, side, shown):
    images = torch.zeros(count, 3, side, side)
    images[:, 0] = 1
    explanation = explain(TinyClassifier(), images, methods=["grad_cam", "hires_cam", "layer_cam", "saliency"])
    drawn = Look(mean=0.0, std=1.0, alpha=0.0).draw(Samples(images, None), explanation, title="", explained="")
    red = cells(drawn["overview"], (255, 0, 0))
    first = red[:, red.any(0).nonzero()[0].item()]  # the left edge of all images
    assert first.sum() == count * shown


def test_of_more_classes_than_there_are_all_are_shown_and_others_have_none(tmp_path):
    trainer(tmp_path / "all", CAMCallback(style=Style(top_k=9), execution=Execution(on_error="raise"))).validate(
        TinyClassifier(), loader(), verbose=False
    )
    assert "saliency/class_maps" in events(tmp_path / "all").Tags()["images"]
    assert SaliencyCallback(["cam", "grad_cam"]).look.top_k == 1
    assert CAMCallback("grad_cam").look.top_k == 1
    assert CAMCallback().look.top_k == 3
    with pytest.raises(ValueError, match=r"`methods` to include 'cam', whose maps `top_k=2` shows"):
        SaliencyCallback(["grad_cam"], style=Style(top_k=2))


def test_several_layers_have_a_picture_each_or_one_that_is_fused(tmp_path):
    layers = ["backbone.2", "backbone.6"]
    trainer(tmp_path / "each", GradCAMCallback(layer=layers, execution=Execution(on_error="raise"))).validate(
        TinyClassifier(), loader(), verbose=False
    )
    tags = {"saliency/grad_cam@backbone.2", "saliency/grad_cam@backbone.6", "saliency/overview"}
    assert set(events(tmp_path / "each").Tags()["images"]) == tags
    trainer(
        tmp_path / "one", GradCAMCallback(layer=layers, execution=Execution(on_error="raise", fuse="max"))
    ).validate(TinyClassifier(), loader(), verbose=False)
    assert events(tmp_path / "one").Tags()["images"] == ["saliency/grad_cam"]
    with pytest.raises(ValueError, match="`layer` to name a module of TinyClassifier, got 'nowhere'"):
        trainer(tmp_path, GradCAMCallback(layer=["backbone.2", "nowhere"])).validate(TinyClassifier(), loader())


def test_the_options_of_methods_and_mirroring_reach_the_maps(tmp_path):
    images, labels = data()[:4]
    options = {"smooth_grad": {"num_samples": 3, "noise": 0.3, "reduce": "signed"}}
    callback = SaliencyCallback(
        "smooth_grad", samples=4, execution=Execution(on_error="raise", flip=True), METHOD_OPTIONS=options
    )
    model = TinyClassifier()
    runner = trainer(tmp_path, callback)
    runner.validate(model, loader(), verbose=False)
    found = callback.probe.explain(runner, model, Samples(images, labels))
    expected = explain(model, images, methods="smooth_grad", target=labels, flip=True, method_options=options)
    assert torch.equal(found.attributions["smooth_grad"], expected.attributions["smooth_grad"])
    plain = explain(model, images, methods="smooth_grad", target=labels)
    assert not torch.allclose(plain.attributions["smooth_grad"], expected.attributions["smooth_grad"])


# --- loggers


class TakesImages(Logger):
    """A logger of the kind that has `log_image`, as Weights & Biases has."""

    def __init__(self):
        super().__init__()
        self.seen = []

    name, version = "takes", 0

    def log_image(self, key, images, step=None):
        self.seen.append((key, [image.size for image in images], step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_each_logger_gets_the_pictures_in_the_way_it_can(tmp_path):
    takes = TakesImages()
    loggers = [TensorBoardLogger(tmp_path / "tb", name="", version=""), CSVLogger(tmp_path / "csv"), takes]
    trainer(tmp_path, GradCAMCallback(samples=2), logger=loggers).fit(TinyClassifier(), loader(), loader())
    sheets = [picture(event) for event in events(tmp_path / "tb").Images("saliency/grad_cam")]
    files = sorted((tmp_path / "csv").glob("**/saliency/grad_cam/*.png"))
    assert [file.name for file in files] == ["step=0000000.png", "step=0000002.png", "step=0000005.png"]
    assert all(str(file).startswith(loggers[1].log_dir) for file in files)
    for sheet, file in zip(sheets, files, strict=True):
        with Image.open(file) as image:
            assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), sheet)
    drawn = [(key, step) for key, _, step in takes.seen if key == "saliency/grad_cam"]
    assert drawn == [("saliency/grad_cam", step) for step in (0, 2, 5)]


def test_no_logger_is_one_warning_and_training_goes_on(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(), logger=False)
    with pytest.warns(UserWarning, match="no logger to write pictures to") as caught:
        runner.fit(TinyClassifier(), loader(), loader())
    assert sum("no logger" in str(warning.message) for warning in caught) == 1
    assert runner.global_step == 6


def test_fast_dev_run_goes_through(tmp_path):
    runner = trainer(tmp_path, SaliencyCallback(execution=Execution(on_error="raise")), fast_dev_run=True, logger=True)
    runner.fit(TinyClassifier(), loader(), loader())
    assert runner.state.finished


@pytest.mark.filterwarnings("default:You defined a `validation_step`")
def test_a_run_without_validation_is_told_so(tmp_path):
    with pytest.warns(UserWarning, match="this run had none"):
        trainer(tmp_path, SaliencyCallback(), max_epochs=1).fit(TinyClassifier(), loader())
    with pytest.warns(UserWarning, match="this run had none"):
        trainer(tmp_path, SaliencyCallback(), max_epochs=1, limit_val_batches=0).fit(
            TinyClassifier(), loader(), loader()
        )


def test_memory_hooks_and_modes_are_flat_over_200_epochs(tmp_path):
    import gc

    counts = []

    class Counts(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch in (20, 199):
                gc.collect()
                kinds = Counter(type(item).__name__ for item in gc.get_objects())
                hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pl_module.modules())
                counts.append((kinds["Tensor"], kinds["Parameter"], kinds["Evidence"], kinds["Image"], hooks))

    small = loader(data(4), batch_size=4)
    callback = SaliencyCallback(["cam", "grad_cam", "saliency"], samples=2)
    trainer(tmp_path, callback, Counts(), max_epochs=200, logger=CSVLogger(tmp_path)).fit(
        TinyClassifier(), small, small
    )
    assert len(counts) == 2
    assert counts[0] == counts[1]


# --- the fixed batch


def shown(callback) -> torch.Tensor:
    return callback.state_dict()["validate"]["images"]


def test_the_samples_are_the_first_of_the_stream_across_batches(tmp_path):
    callback = GradCAMCallback(samples=5)
    trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(batch_size=2))
    assert torch.equal(shown(callback), data()[:5][0])
    assert torch.equal(callback.state_dict()["validate"]["labels"], data()[:5][1])


def test_chosen_positions_are_shown_in_the_order_given_and_given_images_as_they_are(tmp_path):
    callback = GradCAMCallback(samples=[20, 3])
    trainer(tmp_path / "positions", callback, max_epochs=1).fit(TinyClassifier(), loader(), loader())
    assert torch.equal(shown(callback), data()[[20, 3]][0])

    images = torch.rand(2, 3, 20, 20)
    callback = GradCAMCallback(samples=(images, torch.tensor([2, 0])))
    trainer(tmp_path / "images", callback, max_epochs=1).fit(TinyClassifier(), loader(), loader())
    assert torch.equal(shown(callback), images)
    assert len(events(tmp_path / "images").Images("saliency/grad_cam")) == 2


def test_one_of_each_class_from_a_stream_that_is_sorted_by_class(tmp_path):
    images, labels = data()[:]
    order = labels.argsort(stable=True)
    callback = GradCAMCallback(samples=Samples(num=4, choose="per_class"))
    trainer(tmp_path, callback, max_epochs=1).fit(
        TinyClassifier(), loader(), loader(TensorDataset(images[order], labels[order]))
    )
    assert callback.state_dict()["validate"]["labels"].tolist() == [0, 1, 2, 0]


def test_a_position_beyond_the_stream_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"held 24 images, got \[99\]"):
        trainer(tmp_path, GradCAMCallback(samples=[0, 99]), num_sanity_val_steps=-1).fit(
            TinyClassifier(), loader(), loader()
        )
    with pytest.warns(UserWarning, match=r"held 24 images, got \[99\]"):
        trainer(tmp_path, GradCAMCallback(samples=[0, 99])).fit(TinyClassifier(), loader(), loader())


def test_samples_are_taken_from_the_chosen_loader(tmp_path):
    callback = GradCAMCallback(samples=Samples(num=2, dataloader_idx=1))
    other = data(num=30)
    trainer(tmp_path, callback, max_epochs=1).fit(
        TinyClassifier(), loader(), [loader(), loader(Subset(other, range(24, 30)))]
    )
    assert torch.equal(shown(callback), other[24:26][0])


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*sampler has shuffling enabled")
def test_a_resumed_run_shows_the_same_samples(tmp_path):
    L.seed_everything(0)
    first = GradCAMCallback(samples=3)
    checkpoint = L.callbacks.ModelCheckpoint(tmp_path, filename="last", save_top_k=-1)
    trainer(tmp_path, first, checkpoint, enable_checkpointing=True).fit(
        TinyClassifier(), loader(), loader(shuffle=True)
    )
    second = GradCAMCallback(samples=3)
    trainer(tmp_path, second, max_epochs=4).fit(
        TinyClassifier(), loader(), loader(shuffle=True), ckpt_path=checkpoint.best_model_path
    )
    assert torch.equal(shown(first), shown(second))
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 2, 5, 8, 11]


def test_two_callbacks_in_one_trainer_keep_apart(tmp_path):
    callbacks = [GradCAMCallback(), GradCAMCallback(layer="backbone.0", name="early"), CAMCallback(samples=2)]
    assert len({callback.state_key for callback in callbacks}) == 3
    trainer(tmp_path, *callbacks).validate(TinyClassifier(), loader(), verbose=False)
    assert {"saliency/grad_cam", "early/grad_cam"} <= set(events(tmp_path).Tags()["images"])


def test_of_callbacks_that_share_a_name_the_time_of_all_is_logged(tmp_path, monkeypatch):
    first, second = CAMCallback(samples=2), GradCAMCallback(samples=3)
    trainer(tmp_path, first, second).fit(TinyClassifier(), loader(), loader())
    logged = [event.value for event in events(tmp_path).Scalars("saliency/seconds")]
    assert len(logged) == 2

    def two_seconds(guard, *_):
        guard.seconds += 2.0
        return True

    monkeypatch.setattr(type(first._guard), "run", two_seconds)
    trainer(tmp_path / "fixed", first, second, num_sanity_val_steps=0).fit(TinyClassifier(), loader(), loader())
    logged = [event.value for event in events(tmp_path / "fixed").Scalars("saliency/seconds")]
    assert all(value % 2 == 0 and value >= 4 for value in logged)


def test_two_callbacks_that_would_share_a_tag_are_refused(tmp_path):
    callbacks = [GradCAMCallback(layer="backbone.0"), GradCAMCallback(samples=2)]
    with pytest.raises(ValueError, match=r"'saliency/grad_cam' twice.*`name=...`"):
        trainer(tmp_path, *callbacks).fit(TinyClassifier(), loader(), loader())


def test_another_run_with_the_same_callback_shows_its_own_data(tmp_path):
    callback = GradCAMCallback(samples=2)
    trainer(tmp_path / "first", callback, max_epochs=1).fit(TinyClassifier(), loader(), loader())
    grey = data(channels=1)
    trainer(tmp_path / "second", callback, max_epochs=1).fit(TinyClassifier(1), loader(grey), loader(grey))
    assert torch.equal(shown(callback), grey[:2][0])


@pytest.mark.parametrize("samples", [None, [3, 0, 7, 23]])
def test_a_target_per_sample_goes_with_its_sample_also_where_sanity_checking_shows_a_part(tmp_path, samples):
    callback = GradCAMCallback(target=[0, 1, 2, 1], samples=samples, execution=Execution(on_error="raise"))
    seen = []
    explain_samples = callback.probe.explain

    def note(trainer, pl_module, samples):
        explanation = explain_samples(trainer, pl_module, samples)
        seen.append(explanation.classes.tolist())
        return explanation

    callback.probe.explain = note
    trainer(tmp_path, callback, max_epochs=1).fit(TinyClassifier(), loader(), loader(batch_size=1))
    assert seen == [[0, 1] if samples is None else [1], [0, 1, 2, 1]]


def test_a_resumed_run_with_another_method_shows_the_same_samples():
    keys = {
        GradCAMCallback().state_key.partition("{")[2],
        GradCAMCallback(layer="backbone.0", target=lambda logits: logits[:, 0]).state_key.partition("{")[2],
        SaliencyCallback(["saliency", "grad_cam"]).state_key.partition("{")[2],
    }
    assert len(keys) == 1
    others = [{"num_samples": 3}, {"samples": [1]}, {"dataloader_idx": 1}, {"choose": "per_class"}, {"name": "b"}]
    assert len({SaliencyCallback(**other).state_key for other in [*others, {}]}) == 6


def test_a_loader_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="`dataloader_idx` to be below the number of loaders, 1, got 1"):
        trainer(tmp_path, GradCAMCallback(samples=Samples(dataloader_idx=1))).fit(TinyClassifier(), loader(), loader())


def test_labels_that_are_no_classes_are_said_to_come_from_the_batch(tmp_path):
    images, labels = data()[:]
    odd = TensorDataset(images, torch.where(labels == 1, -1, labels))

    class Ignores(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            pass

    with pytest.raises(ValueError, match=r"labels that were found in the batch.*-1.*`target='predicted'`"):
        trainer(tmp_path, GradCAMCallback()).fit(Ignores(), loader(), loader(odd))
    trainer(tmp_path, GradCAMCallback(target="predicted")).fit(Ignores(), loader(), loader(odd))


def test_every_n_epochs_where_validation_itself_is_rarer(tmp_path):
    runner = trainer(tmp_path, GradCAMCallback(every_n_epochs=2), max_epochs=10, check_val_every_n_epoch=3)
    runner.fit(TinyClassifier(), loader(), loader())
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 8, 17, 26]


def test_a_batch_of_any_shape_is_understood_or_an_input_fn_takes_it_apart(tmp_path):
    @dataclass
    class Batch:
        x: torch.Tensor
        y: torch.Tensor

    class Reads(TinyClassifier):
        def validation_step(self, batch, batch_idx):
            pass

    def collate(items):
        return {
            "meta": "text",
            "views": {"image": torch.stack([x for x, _ in items])},
            "y": torch.stack([y for _, y in items]),
        }

    callback = GradCAMCallback(samples=2)
    trainer(tmp_path, callback).validate(Reads(), loader(collate_fn=collate), verbose=False)
    assert torch.equal(shown(callback), data()[:2][0])

    def packed(items):
        return [(x.flatten(), int(y)) for x, y in items]

    with pytest.warns(UserWarning, match="input_fn"):
        trainer(tmp_path, GradCAMCallback()).validate(Reads(), loader(collate_fn=packed), verbose=False)

    def unpack(batch):
        return torch.stack([x.view(3, 16, 16) for x, _ in batch]), torch.tensor([y for _, y in batch])

    callback = GradCAMCallback(samples=2)
    trainer(tmp_path, callback).validate(Reads(), loader(collate_fn=packed), verbose=False)
    assert torch.equal(shown(callback), data()[:2][0])


# --- wrong options and faults


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["grad_cm"]}, ValueError, "`methods`.*Did you mean 'grad_cam'"),
        ({"methods": []}, ValueError, "`methods`.*at least one"),
        ({"num_samples": 0}, ValueError, "`num_samples`.*positive int, got 0"),
        ({"every_n_epochs": -1}, ValueError, "`every_n_epochs`"),
        ({"chunk_size": 1.5}, ValueError, "`chunk_size`"),
        ({"choose": "random"}, ValueError, "`choose`.*first, per_class"),
        ({"samples": [-1]}, TypeError, "`samples`"),
        ({"samples": []}, ValueError, "`samples`"),
        ({"samples": torch.zeros(3, 8, 8)}, ValueError, r"`samples`.*\(N, C, H, W\), got shape \(3, 8, 8\)"),
        (
            {"samples": (torch.zeros(2, 3, 8, 8), torch.zeros(3).long())},
            ValueError,
            "`samples`.*one integer class for each of the 2",
        ),
        ({"target": "truth"}, ValueError, "`target`"),
        ({"layer": 3}, TypeError, "`layer`"),
        ({"mean": [0.5]}, ValueError, "`mean` and `std`"),
        ({"dataloader_idx": -1}, ValueError, "`dataloader_idx`"),
        ({"class_names": "abc"}, TypeError, "`class_names`"),
        ({"input_fn": 3}, TypeError, "`input_fn`"),
        ({"output_fn": "x"}, TypeError, "`output_fn`"),
        ({"name": ""}, ValueError, "`name`"),
        ({"target": -1}, ValueError, "`target`"),
        ({"target": 1.5}, TypeError, "`target`"),
        ({"target": [0, 1]}, ValueError, "`target`.*each of the 8 images"),
        ({"samples": [True]}, TypeError, "`samples`"),
        ({"colormap": "jett"}, ValueError, "jet"),
        ({"alpha": 1.5}, ValueError, "`alpha`"),
        ({"normalize": "sum"}, ValueError, "`normalize`"),
        ({"fuse": "sum"}, ValueError, "`fuse` to be one of mean, max, None, got 'sum'"),
        ({"layer": ["a", 3]}, TypeError, "`layer` to be a dotted name, several, or None, got list"),
        ({"method_options": {"cam": {}}}, ValueError, "`method_options` for the methods .*, got 'cam'"),
        ({"method_options": {"saliency": {"noise": 1}}}, ValueError, "'saliency' in `method_options` out of reduce"),
        ({"channels": "last"}, ValueError, "`channels`"),
        ({"on_error": "ignore"}, ValueError, "`on_error`"),
    ],
)
def test_a_wrong_option_is_named_when_the_callback_is_made(options, error, message):
    with pytest.raises(error, match=message):
        SaliencyCallback(**options)


class Flat(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Flatten(), nn.Linear(3 * 16 * 16, NUM_CLASSES)


class NotPooled(TinyClassifier):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12 * 8 * 8, NUM_CLASSES))


class TwoParts(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    training_step = validation_step = lambda self, batch, batch_idx: None
    configure_optimizers = TinyClassifier.configure_optimizers


class TakesBatches(TinyClassifier):
    def forward(self, images, labels):
        return super().forward(images)

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize(
    ("callback", "module", "message"),
    [
        (GradCAMCallback(layer="backbon.0"), TinyClassifier, r"`layer`.*'backbon.0'.*Nearest: .*backbone\.0"),
        (GradCAMCallback(model="bakcbone"), TinyClassifier, r"`model`.*'bakcbone'.*Nearest: .*backbone"),
        (GradCAMCallback(layer="head"), TinyClassifier, r"'head' to return a feature map .*got \(8, 3\)"),
        (GradCAMCallback(), Flat, "no convolutional map"),
        (CAMCallback(), NotPooled, "global average pooling"),
        (GradCAMCallback(target=7), TinyClassifier, "`target` to be below the model's 3 classes"),
        (GradCAMCallback(), TwoParts, r"defines no `forward`.*`model=...`, one of backbone, head"),
        (GradCAMCallback(), TakesBatches, r"TakesBatches to turn a batch of images, .*'labels'.*`model=\.\.\.`"),
        (GradCAMCallback(style=Style(mean=[0.5, 0.5], std=[1.0, 1.0])), TinyClassifier, "one per channel, got 2"),
    ],
    ids=[
        "layer",
        "model",
        "no map",
        "no spatial layer",
        "cam without GAP",
        "class",
        "no forward",
        "two inputs",
        "mean",
    ],
)
def test_what_cannot_work_is_an_error_before_the_first_training_step(tmp_path, callback, module, message):
    runner = trainer(tmp_path, callback)
    with pytest.raises((ValueError, TypeError), match=message):
        runner.fit(module(), loader(), loader())
    assert runner.global_step == 0


def test_sharded_strategies_are_refused(tmp_path):
    class Sharded:
        strategy = L.strategies.FSDPStrategy(accelerator=None)

    with pytest.raises(ValueError, match="FSDPStrategy does not keep"):
        SaliencyCallback().setup(Sharded(), TinyClassifier(), "fit")


class BreaksLater(TinyClassifier):
    def forward(self, images):
        if self.trainer.current_epoch >= 1 and not self.training and torch.is_tensor(images) and len(images) == 3:
            raise RuntimeError("three is too few")
        return super().forward(images)


def test_a_fault_after_training_has_begun_is_one_warning_and_training_goes_on(tmp_path):
    runner = trainer(tmp_path, GradCAMCallback(samples=3), max_epochs=4)
    with pytest.warns(UserWarning, match="RuntimeError: three is too few") as caught:
        runner.fit(BreaksLater(), loader(), loader())
    assert sum("three is too few" in str(warning.message) for warning in caught) == 1
    assert runner.global_step == 12
    assert len(events(tmp_path).Images("saliency/grad_cam")) == 2

    runner = trainer(tmp_path, GradCAMCallback(samples=3, execution=Execution(on_error="raise")), max_epochs=4)
    with pytest.raises(RuntimeError, match="three is too few"):
        runner.fit(BreaksLater(), loader(), loader())


def test_a_module_without_forward_is_explained_by_its_only_part_with_parameters(tmp_path):
    class OnePart(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.loss = TinyClassifier(), nn.CrossEntropyLoss()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    trainer(tmp_path, GradCAMCallback()).validate(OnePart(), loader(), verbose=False)
    assert events(tmp_path).Images("saliency/grad_cam")


# --- configuration


def test_lightning_cli_builds_every_callback_from_a_config(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
        seed_everything: 1
        model: tiny.TinyClassifier
        trainer:
          max_epochs: 1
          logger:
            class_path: lightning.pytorch.loggers.TensorBoardLogger
            init_args: {{save_dir: {tmp_path}, name: "", version: ""}}
          callbacks:
            - class_path: lightning_saliency.SaliencyCallback
              init_args:
                methods: [grad_cam, saliency]
                num_samples: 3
                samples: [2, 1]
                target: predicted
                layer: backbone
                mean: [0.5, 0.5, 0.5]
                std: [0.5, 0.5, 0.5]
                class_names: [a, b, c]
                normalize: shared
                choose: per_class
            - class_path: lightning_saliency.GradCAMPlusPlusCallback
              init_args: {{target: 1, samples: null, mean: 0.5, std: 0.5, colormap: viridis, alpha: 0.4}}
        """.replace("lightning.pytorch", L.__name__)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the command line of the tests is not the CLI's
        cli = import_module(f"{L.__name__}.cli").LightningCLI(
            run=False, args=["--config", str(config)], save_config_callback=None
        )
    first, second = (callback for callback in cli.trainer.callbacks if isinstance(callback, SaliencyCallback))
    assert (first.methods, first.probe.target, first.probe.layer, first.look.normalize) == (
        ("grad_cam", "saliency"), "predicted", "backbone", "shared",
    )  # fmt: skip
    assert (second.methods, second.probe.target, second.look.alpha) == (("grad_cam_plus_plus",), 1, 0.4)
