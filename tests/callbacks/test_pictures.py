"""The pictures in the event file: what they show, under which tags, and at which steps."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from drawing import caption_of
from looking import Keeps
from tiny import L, TinyClassifier, data, events, first, loader, picture, sheets, trainer
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2
from watching import SharedList

from lightning_saliency import CAMCallback, GradCAMCallback, GradCAMPlusPlusCallback, SaliencyCallback, explain
from lightning_saliency.attribution import make_heatmaps
from lightning_saliency.callbacks import Execution, GradientSaliencyCallback, Style
from lightning_saliency.visualization import Caption, Drawing, encode_picture, grid, to_rgb
from lightning_saliency.visualization.captions import reason_words
from lightning_saliency.visualization.scaling import to_percentile

RAISES = Execution(on_error="raise")


def cells(sheet: torch.Tensor, color) -> torch.Tensor:
    """Where a sheet shows exactly this color, as a boolean (H, W)."""
    return (sheet == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(0)


def test_every_epoch_and_the_initial_network_are_in_the_event_file_at_the_scalars_steps(tmp_path):
    L.seed_everything(0)
    callback = SaliencyCallback(["cam", "saliency"], style=Style(cards="all"))
    trainer(tmp_path, callback, max_epochs=3).fit(TinyClassifier(), loader(shuffle=True), loader())
    found = events(tmp_path)
    assert sheets(tmp_path) == {"saliency/cam", "saliency/saliency", "saliency/Overview"}
    scalar_steps = [event.step for event in found.Scalars("val_loss")]
    assert scalar_steps == [2, 5, 8]
    for tag in sheets(tmp_path):
        assert [event.step for event in found.Images(tag)] == [0, *scalar_steps]


def test_the_last_picture_is_the_trained_model_explained_by_hand(tmp_path):
    L.seed_everything(0)
    model = TinyClassifier()
    keys = {"grad_cam": "Grad-CAM", "saliency": "Saliency"}
    trainer(tmp_path, SaliencyCallback(list(keys), samples=first(3))).fit(model, loader(), loader())
    images, labels = data()[:3]
    explanation = explain(model, images, methods=list(keys), target=labels)
    heatmaps = {title: make_heatmaps(explanation.attributions[key], (16, 16)) for key, title in keys.items()}
    predicted = explain(model, images, methods="grad_cam").attributions["grad_cam"]
    heatmaps["Grad-CAM, predicted"] = of_predicted = make_heatmaps(predicted, (16, 16))
    is_wrong = (explanation.predictions != labels).tolist()
    assert any(is_wrong)
    reasons = {title: reason_words(made.reasons) for title, made in heatmaps.items()}
    reasons["Grad-CAM, predicted"] = [  # there is no cell where the maps would be the same
        reason if wrong else "" for reason, wrong in zip(reason_words(of_predicted.reasons), is_wrong, strict=True)
    ]
    expected = grid(
        to_rgb(images),
        {
            "Grad-CAM": heatmaps["Grad-CAM"].maps,
            "Saliency": to_percentile(heatmaps["Saliency"].maps, heatmaps["Saliency"].peaks)[0],
            "Grad-CAM, predicted": of_predicted.maps,
        },
        title="epoch 1 · step 5",
        captions=[
            caption_of(true, row, range(3))
            for true, row in zip(labels.tolist(), explanation.probabilities, strict=True)
        ],
        blanks=reasons,
        fine=["Saliency"],
        note="explained: true class · read at layer backbone · each image stretched to its own range, "
        "as no normalization fits · fine maps up to their 99th percentile",
    )
    last = events(tmp_path).Images("saliency/Overview")[-1]
    assert last.encoded_image_string == encode_picture(expected)[0]


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
        self(batch[0])


def test_rows_show_the_samples_in_order_and_the_heat_lies_over_the_image_it_explains(tmp_path):
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


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_one_channel_and_of_many_are_shown(tmp_path, channels):
    sets = loader(data(channels=channels))
    trainer(tmp_path, SaliencyCallback(samples=2, history=False), max_epochs=1).fit(
        TinyClassifier(channels), sets, sets
    )
    assert len(events(tmp_path).Images("saliency/Overview")) == 2


class Pictures(torch.utils.data.Dataset):
    """Three gray images that a transform normalizes."""

    classes = ("ant", "bee", "cat")
    transform = v2.Compose([v2.Normalize([0.5] * 3, [0.25] * 3)])

    def __getitem__(self, index):
        return self.transform(torch.full((3, 16, 16), 0.2 * (index + 1))), index

    def __len__(self):
        return 3


def test_the_normalization_and_the_class_names_come_from_the_validation_data_set(tmp_path):
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
    runner = trainer(tmp_path, SaliencyCallback(["grad_cam", "saliency"], samples=2, style=Style(cards="all")))
    runner.validate(TinyClassifier(), loader(), verbose=False)
    runner.test(TinyClassifier(), loader(), verbose=False)
    tags = set(events(tmp_path).Tags()["images"])
    assert tags == {
        f"saliency/{name}{stage}" for name in ("grad_cam", "saliency", "Overview") for stage in ("", "/test")
    }


def test_every_n_epochs_and_no_initial_network(tmp_path):
    callback = GradCAMCallback(every_n_epochs=2, history=False, execution=Execution(log_initial=False))
    trainer(tmp_path, callback, max_epochs=5).fit(TinyClassifier(), loader(), loader())
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [5, 11]  # epochs 1 and 3


def test_every_n_epochs_where_validation_itself_is_rarer(tmp_path):
    callback = GradCAMCallback(every_n_epochs=2, history=False)
    trainer(tmp_path, callback, max_epochs=10, check_val_every_n_epoch=3).fit(TinyClassifier(), loader(), loader())
    assert [event.step for event in events(tmp_path).Images("saliency/grad_cam")] == [0, 8, 17, 26]


@pytest.mark.parametrize(
    ("shell", "tag"),
    [
        (GradCAMCallback, "grad_cam"),
        (GradCAMPlusPlusCallback, "grad_cam_plus_plus"),
        (GradientSaliencyCallback, "saliency"),
        (partial(CAMCallback, style=Style(top_k=1)), "cam"),
    ],
)
def test_the_named_callbacks_log_their_one_method(tmp_path, shell, tag):
    trainer(tmp_path, shell()).validate(TinyClassifier(), loader(), verbose=False)
    assert events(tmp_path).Tags()["images"] == [f"saliency/{tag}"]


def test_cam_of_the_most_probable_classes_takes_one_forward_and_no_backward(tmp_path):
    L.seed_everything(0)
    model, forwards = TinyClassifier(), SharedList()
    model.head.register_forward_hook(lambda _, args, output: forwards.append((len(args[0]), output.requires_grad)))
    callback = CAMCallback(samples=first(5), style=Style(class_names=["cat", "dog", "owl"], top_k=2), execution=RAISES)
    runner = trainer(tmp_path, callback)
    runner.validate(model, loader(batch_size=5), verbose=False)
    forwards.clear()
    runner.validate(model, loader(batch_size=5), verbose=False)  # the layer is found again in each run
    validation = [(5, False)] * 4 + [(4, False)]
    assert forwards == [*validation, (1, True), (5, False)]

    images, labels = data()[:5]
    explanation = explain(model, images, methods="cam", target=labels)
    probabilities, classes = explanation.probabilities.topk(2)
    maps = explanation.class_maps(classes)
    made = [make_heatmaps(maps[:, rank, None], (16, 16)) for rank in (0, 1)]
    heatmaps = [rank.maps.clone() for rank in made]
    for image in range(5):  # of an image's two maps the weaker is as much weaker in the picture
        peaks = [max(float(maps[image, rank].max()), 0.0) for rank in (0, 1)]
        for rank in (0, 1):
            heatmaps[rank][image] *= peaks[rank] / max(*peaks, 1e-9)
    names = ["cat", "dog", "owl"]
    expected = grid(
        to_rgb(images),
        {"top 1": heatmaps[0], "top 2": heatmaps[1]},
        title="validate",
        captions=[
            caption_of(true, row, names) for true, row in zip(labels.tolist(), explanation.probabilities, strict=True)
        ],
        blanks={f"top {rank + 1}": reason_words(made[rank].reasons) for rank in (0, 1)},
        labels={
            f"top {rank + 1}": [
                Caption(f"{names[index]} {probability:.0%}", True if index == true else None, names=(names[index],))
                for index, probability, true in zip(
                    classes[:, rank].tolist(), probabilities[:, rank].tolist(), labels.tolist(), strict=True
                )
            ]
            for rank in (0, 1)
        },
        note=f"explained: the 2 most probable classes · read at layer {explanation.layer}"
        " · each image stretched to its own range, as no normalization fits",
        scale=("0", "the sample's maximum of these classes"),
        drawing=Drawing(cell_side=244),
    )
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == {"saliency/cam", "saliency/class_maps"}
    assert found.Images("saliency/class_maps")[-1].encoded_image_string == encode_picture(expected)[0]


def test_of_more_classes_than_there_are_all_are_shown_and_others_have_none(tmp_path):
    callback = CAMCallback(style=Style(top_k=9), execution=RAISES)
    trainer(tmp_path / "all", callback).validate(TinyClassifier(), loader(), verbose=False)
    assert "saliency/class_maps" in events(tmp_path / "all").Tags()["images"]
    for one in (SaliencyCallback(["cam", "grad_cam"]), CAMCallback("grad_cam")):
        folder = tmp_path / type(one).__name__
        trainer(folder, one).validate(TinyClassifier(), loader(), verbose=False)
        assert "saliency/class_maps" not in events(folder).Tags()["images"]


def test_several_layers_have_a_picture_each_or_one_that_is_fused(tmp_path):
    layers = ["backbone.2", "backbone.6"]
    each = GradCAMCallback(layer=layers, style=Style(cards="all"), execution=RAISES)
    trainer(tmp_path / "each", each).validate(TinyClassifier(), loader(), verbose=False)
    tags = {"saliency/grad_cam@backbone.2", "saliency/grad_cam@backbone.6", "saliency/Overview"}
    assert set(events(tmp_path / "each").Tags()["images"]) == tags
    fused = GradCAMCallback(layer=layers, execution=Execution(on_error="raise", fuse="max"))
    trainer(tmp_path / "one", fused).validate(TinyClassifier(), loader(), verbose=False)
    assert events(tmp_path / "one").Tags()["images"] == ["saliency/grad_cam"]


def test_the_options_of_methods_and_mirroring_reach_the_maps(tmp_path):
    images, labels = data()[:4]
    methods = {"smooth_grad": {"num_samples": 3, "noise": 0.3, "reduce": "signed"}}
    keeps, model = Keeps(), TinyClassifier()
    callback = SaliencyCallback(
        methods, samples=first(4), execution=Execution(on_error="raise", flip=True), outputs=[keeps]
    )
    trainer(tmp_path, callback).validate(model, loader(), verbose=False)
    (group,) = keeps.looks[0].explained
    expected = explain(model, images, methods=methods, target=labels, flip=True).attributions["smooth_grad"]
    assert torch.equal(group.explanation.attributions["smooth_grad"], expected)
    plain = explain(model, images, methods=list(methods), target=labels)
    assert not torch.allclose(plain.attributions["smooth_grad"], expected)
