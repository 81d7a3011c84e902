import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tiny import events
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency import explain
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.visualization import TUTORIAL_PANELS, overlay, signed_to_rgb, to_rgb, tutorial_figure

LONG = "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz with $a$ formula_{x} in its name"
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def network(channels=3, classes=5, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explained(num=2, methods=TUTORIAL_PANELS[6], size=(24, 24), **options):
    return explain(network(), rand(num, 3, *size), methods=methods, **options)


def titles(figure):
    """The words on top, from left to right, a column's lines from top to bottom."""
    extents = boxes(figure)
    tops = [text for text in figure.texts if text.get_horizontalalignment() == "center"]
    columns = {}
    for text in sorted(tops, key=lambda text: -extents[text].y0):
        columns.setdefault(round(text.get_position()[0], 6), []).append(text.get_text())
    return [columns[middle] for middle in sorted(columns)]


def lines(figure):
    return [text.get_text() for text in figure.texts if text.get_horizontalalignment() == "left"]


def boxes(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return {text: text.get_window_extent(renderer) for text in texts}


def pictures(figure):
    return [axes.images[0].get_array() for axes in figure.axes]


def hwc(picture):
    return picture.permute(1, 2, 0).numpy()


# --- signed_to_rgb


def test_signed_values_are_brought_around_mid_gray_by_the_99th_percentile_of_what_is_not_0():
    signed = rand(2, 3, 20, 20)
    signed[:, :, :10] = 0
    signed[1] *= 1e-6
    expected = []
    for image in signed.double().numpy():
        magnitudes = np.sort(np.abs(image[image != 0]))
        scaled = np.clip(image / magnitudes[math.ceil(0.99 * len(magnitudes)) - 1], -1, 1)
        expected.append(np.rint(scaled * 127.5 + 127.5))
    found = signed_to_rgb(signed)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - np.stack(expected)).max() <= 1  # a float32's last bit
    assert (found[:, :, :10] == 128).all()
    assert found.min() == 0
    assert found.max() == 255


def test_a_few_extreme_pixels_do_not_gray_out_the_rest_and_each_image_has_its_own_scale():
    signed = rand(2, 3, 30, 30)
    plain = signed_to_rgb(signed)
    extreme = signed.clone()
    extreme[0, 0, 0, 0], extreme[0, 1, 0, 0] = 1e6, -1e6
    found = signed_to_rgb(extreme)
    assert found[0, :2, 0, 0].tolist() == [255, 0]
    assert (found[0, :, 1:].int() - plain[0, :, 1:].int()).abs().max() <= 3
    assert torch.equal(found[1], plain[1])
    assert torch.equal(signed_to_rgb(signed * 1024), plain)  # a power of two: exact


def test_the_sign_is_seen_and_negating_mirrors_the_colors():
    signed = rand(1, 3, 8, 8)
    found = signed_to_rgb(signed).int()
    assert ((found > 128)[signed > 0.1]).all()
    assert ((found < 127)[signed < -0.1]).all()
    assert (found + signed_to_rgb(-signed).int() - 255).abs().max() <= 1  # halves are rounded to even


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_signed_values_of_other_channels(channels, shown):
    signed = rand(2, channels, 6, 7)
    found = signed_to_rgb(signed)
    assert found.shape == (2, 3, 6, 7)
    assert torch.equal(found, signed_to_rgb(signed[:, shown]))


def test_signed_values_that_are_blank_or_not_finite_are_mid_gray_and_the_input_stays_as_it_was():
    signed = rand(2, 3, 6, 6)
    signed[0] = 0
    signed[1, 0, 0, 0], signed[1, 1, 0, 0] = math.nan, math.inf
    before = signed.clone()
    found = signed_to_rgb(signed)
    assert (found[0] == 128).all()
    assert found[1, :2, 0, 0].tolist() == [128, 128]
    assert (found[1] != 128).any()
    assert torch.equal(signed.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4).int(), torch.zeros(0, 3, 1, 1)])
def test_signed_values_of_another_shape_or_kind_are_refused(wrong):
    with pytest.raises(ValueError, match=r"`signed` to be a non-empty \(N, C, H, W\)"):
        signed_to_rgb(wrong)


# --- tutorial_figure


def test_four_panels_a_row_for_each_image_each_with_its_own_pixels():
    explanation = explained()
    figure = tutorial_figure(explanation, mean=MEAN, std=STD)
    assert isinstance(figure, Figure)
    assert not hasattr(figure, "number")  # pyplot would number it, and keep it
    assert titles(figure) == [["Image"], ["Grad-CAM"], ["Guided backprop"], ["Guided Grad-CAM"]]
    assert len(figure.axes) == 8
    images = to_rgb(explanation.images, MEAN, STD)
    large = images.repeat_interleave(9, 2).repeat_interleave(9, 3)  # 216 pixels, for a smooth heatmap
    heat = overlay(large, to_heatmaps(explanation.attributions["grad_cam"], (216, 216)))
    guided = [signed_to_rgb(explanation.signed[key]) for key in ("guided_backprop", "guided_grad_cam")]
    for row in range(2):
        expected = [images[row], heat[row], guided[0][row], guided[1][row]]
        for found, picture in zip(pictures(figure)[4 * row : 4 * row + 4], expected, strict=True):
            assert np.array_equal(found, hwc(picture))
    assert all(axes.images[0].origin == "upper" for axes in figure.axes)


def test_six_panels_and_those_that_are_named_in_their_order():
    explanation = explained()
    expected = [["Image"], ["CAM"], ["Grad-CAM"], ["Grad-CAM++"], ["Guided backprop"], ["Guided Grad-CAM"]]
    assert titles(tutorial_figure(explanation, 6)) == expected
    assert titles(tutorial_figure(explanation, ["guided_backprop", "cam"])) == [["Image"], ["Guided backprop"], ["CAM"]]
    assert titles(tutorial_figure(explanation, "grad_cam")) == [["Image"], ["Grad-CAM"]]


def test_the_images_that_are_asked_for_look_as_they_do_among_the_others():
    explanation = explained(num=3)
    whole = pictures(tutorial_figure(explanation))
    for index, rows in ((1, [1]), ([2, 0], [2, 0])):
        found = pictures(tutorial_figure(explanation, index=index))
        expected = [whole[4 * row + column] for row in rows for column in range(4)]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_each_layer_that_was_read_has_a_panel():
    explanation = explained(methods=["grad_cam", "saliency"], layer=["1", "3"])
    figure = tutorial_figure(explanation, ["grad_cam", "saliency"])
    assert titles(figure) == [["Image"], ["Grad-CAM", "1"], ["Grad-CAM", "3"], ["Saliency"]]
    assert not any("layer:" in line for line in lines(figure))
    assert titles(tutorial_figure(explanation, ["grad_cam@3"])) == [["Image"], ["Grad-CAM", "3"]]


def test_the_captions_say_the_prediction_and_what_is_explained():
    explanation = explained(target=torch.tensor([0, 1]))
    predicted, probabilities = explanation.predictions.tolist(), explanation.probabilities
    names = ["ant", "bee", "cat", "dog", "eel"]
    found = lines(tutorial_figure(explanation, class_names=names))
    for row, target in enumerate((0, 1)):
        share = f"{probabilities[row, predicted[row]]:.0%}"
        other = "predicted class" if predicted[row] == target else f"{names[target]} {probabilities[row, target]:.0%}"
        assert found[row] == f"predicted {names[predicted[row]]} {share} · explained: {other}"
    assert found[2] == "layer: 3"
    assert "explained: predicted class" in lines(tutorial_figure(explained()))[0]
    chosen = explained(target=lambda logits: logits[:, 0])
    assert "explained: chosen target" in lines(tutorial_figure(chosen))[0]
    assert lines(tutorial_figure(explained(methods="saliency"), "saliency"))[-1].startswith("predicted")  # no layer


def test_a_blank_panel_is_the_dimmed_image_with_the_reason_on_it():
    explanation = explained()
    explanation.attributions["grad_cam"][0] = -1.0
    explanation.attributions["grad_cam"][0, 0, 0, 0] = -2.0
    explanation.signed["guided_backprop"][1] = 0.0
    explanation.signed["guided_grad_cam"][0] = -explanation.signed["guided_grad_cam"][0].abs()  # all negative, and seen
    explanation.signed["guided_grad_cam"][1, 0, 0, 0] = math.nan
    figure = tutorial_figure(explanation, mean=MEAN, std=STD)
    reasons = {place: axes.texts[0].get_text() for place, axes in enumerate(figure.axes) if axes.texts}
    assert reasons == {1: "all negative", 6: "constant 0", 7: "not finite"}
    dimmed = to_rgb(explanation.images, MEAN, STD) // 2
    assert np.array_equal(pictures(figure)[6], hwc(dimmed[1]))
    assert np.array_equal(pictures(figure)[1][::9, ::9], hwc(dimmed[0]))


@pytest.mark.parametrize("size", [(24, 24), (60, 20), (20, 60), (8, 200), (200, 8)])
@pytest.mark.parametrize("panels", [6, "grad_cam", ["grad_cam", "saliency"]])
def test_nothing_is_cut_off_and_no_words_lie_on_others(size, panels):
    several = {"methods": panels, "layer": ["1", "3"]} if isinstance(panels, list) else {}
    explanation = explained(size=size, target=torch.tensor([0, 1]), **several)
    for raw in (*explanation.attributions.values(), *explanation.signed.values()):
        raw[0] = math.nan
    figure = tutorial_figure(explanation, panels, class_names=[LONG] * 5)
    extents, whole = boxes(figure), figure.bbox
    for text, box in extents.items():
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text
    words = [extents[text] for text in figure.texts]
    pairs = [(one, other) for place, one in enumerate(words) for other in words[:place]]
    pairs += [(word, axes.get_window_extent()) for word in words for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in pairs)
    for axes in figure.axes:
        inside = axes.get_window_extent()
        assert whole.x0 <= inside.x0 < inside.x1 <= whole.x1
        assert all(inside.y0 <= extents[text].y0 and extents[text].y1 <= inside.y1 for text in axes.texts)


def test_images_of_other_channels_and_models_of_one_logit():
    explanation = explain(network(5, classes=1), rand(1, 5, 16, 16), methods=TUTORIAL_PANELS[4])
    figure = tutorial_figure(explanation, class_names=["no", "yes"])
    assert titles(figure)[0] == ["Image", "channels 1–3 of 5"]
    assert lines(figure)[0].startswith(("predicted no", "predicted yes"))
    gray = explain(network(1), rand(1, 1, 16, 16), methods=TUTORIAL_PANELS[4])
    assert all(found.shape[2] == 3 for found in pictures(tutorial_figure(gray, mean=0.5, std=0.5)))


def test_it_is_saved_and_goes_to_tensorboard(tmp_path):
    figure = tutorial_figure(explained())
    figure.savefig(tmp_path / "figure.png")
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_figure("tutorial", figure, close=False)
    picture = events(tmp_path).Images("tutorial")[0]
    assert (picture.width, picture.height) == tuple(figure.bbox.size.astype(int))


@pytest.mark.parametrize(
    ("panels", "options", "message"),
    [
        (5, {}, r"`panels` to be 4, 6 or the keys of methods, got 5"),
        (4, {}, r"methods cam, saliency, got 'grad_cam'\. Explain with `methods=\('grad_cam', "),
        (["saliency", "gradcam"], {}, r"got 'gradcam'"),
        ("cam", {"index": 2}, r"`index` to name images from 0 to 1, got 2"),
        ("cam", {"index": [0, -1]}, r"got \[0, -1\]"),
        ("cam", {"index": []}, r"got \[\]"),
        ("cam", {"mean": 0.5}, r"`mean` and `std` together"),
        ("cam", {"colormap": "turbbo"}, r"did you mean 'turbo'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(panels, options, message):
    with pytest.raises(ValueError, match=message):
        tutorial_figure(explained(methods=["cam", "saliency"]), panels, **options)
