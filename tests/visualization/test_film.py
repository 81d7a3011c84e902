"""A record as a filmstrip and as an animation."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from drawing import cells_of, rand, shaded, uint8
from PIL import Image, ImageSequence

from lightning_saliency.attribution import blank_reasons, to_heatmaps
from lightning_saliency.visualization import Caption, Style, animation, filmstrip, fit_images, grid, tiles
from lightning_saliency.visualization.captions import reason_words

NOTE = "explained: true class · read at layer layer4"
ONE_SCALE = ("0", "the sample's maximum of all epochs")
OWN_SCALES = ("0", "each map's maximum")
ON_ONE_SCALE = Style(normalize="shared")
DRAWING = shaded(cell_side=144)


@dataclass(frozen=True)
class Samples:
    positions: tuple
    images: tuple
    labels: tuple
    class_names: tuple | None = None
    boxes: tuple = ()
    box_classes: tuple = ()


@dataclass(frozen=True)
class Look:
    epoch: int | None
    step: int
    positions: tuple
    attributions: dict
    reasons: dict
    predictions: tuple
    layers: tuple = ("layer4",)
    fine: frozenset = frozenset()
    explained: str = "true class"
    classes: tuple = ()
    boxes: tuple = ()
    box_classes: tuple = ()
    task: str = "multiclass"


class Run(list):
    """Looks in their order, and the samples of all."""

    samples = None


def look(epoch, step, maps, predictions, positions=None, reasons=None):
    positions = tuple(range(len(maps))) if positions is None else positions
    reasons = reasons or tuple(blank_reasons(raw[None])[0] for raw in maps)
    arrays = tuple(raw[0].numpy() for raw in maps)
    return Look(epoch, step, positions, {"grad_cam": arrays}, {"grad_cam": reasons}, tuple(predictions))


def run(looks, *, labels=(1, 2), names=None, sizes=None):
    sizes = sizes or [(64, 64)] * len(labels)
    images = tuple(uint8(3, *size, seed=seed).numpy() for seed, size in enumerate(sizes))
    for image in images:
        image.flags.writeable = False
    record = Run(looks)
    record.samples = Samples(tuple(range(len(labels))), images, tuple(labels), names)
    return record


def images_of(record):
    return fit_images([torch.tensor(image) for image in record.samples.images], 144)


def ramp(peak):
    return torch.linspace(0, 1, 16).view(1, 4, 4) * peak


def expected_strip(record, titles, heatmaps, scale=OWN_SCALES, **words):
    return grid(
        images_of(record),
        dict(zip(titles, heatmaps, strict=True)),
        title=f"Grad-CAM, {titles[0]} to {titles[-1]}",
        note=NOTE,
        scale=scale,
        per_row=1,
        drawing=DRAWING,
        **words,
    )


def named(text, correct=None):
    """A caption whose last word is a class's name."""
    return Caption(text, correct, names=(text.split()[-1],))


def on_scale(maps, strengths, size=(128, 128)):
    return (to_heatmaps(torch.stack(maps), size) * torch.tensor(strengths).view(-1, 1, 1, 1)).clamp(max=1)


def test_a_filmstrip_has_a_row_a_sample_a_column_a_look_and_the_scale_of_the_style():
    maps = [[ramp(1.0), ramp(8.0)], [ramp(4.0), ramp(2.0)], [ramp(2.0), ramp(0.0)]]
    predictions = [[1, 3], [2, 2], [1, 0]]
    looks = [look(*when, *what) for when, *what in zip([(None, 0), (0, 25), (1, 50)], maps, predictions, strict=True)]
    record = run(looks, names=("ant", "bee", "cat", "dog"))
    words = dict(
        labels={
            "": [named("true bee"), named("true cat")],
            "initial": [named("bee", True), named("dog", False)],
            "epoch 0": [named("cat", False), named("cat", True)],
            "epoch 1": [named("bee", True), named("ant", False)],
        },
        blanks={"initial": [None] * 2, "epoch 0": [None] * 2, "epoch 1": [None, *reason_words(["constant 0"])]},
    )
    titles = ["initial", "epoch 0", "epoch 1"]
    own = [[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    assert torch.equal(filmstrip(record, "grad_cam"), expected_strip(record, titles, map(on_scale, maps, own), **words))
    one = [[0.25, 1.0], [1.0, 1.0], [0.5, 0.0]]  # beside the epochs; what is stronger before them has its own
    expected = expected_strip(record, titles, map(on_scale, maps, one), ONE_SCALE, **words)
    assert torch.equal(filmstrip(record, "grad_cam", style=ON_ONE_SCALE), expected)


def test_the_style_says_the_colors_and_the_names_where_they_are_not_the_records():
    record = run([look(0, 10, [ramp(1.0), ramp(1.0)], [1, 2])])
    expected = grid(
        images_of(record),
        {"epoch 0": on_scale([ramp(1.0)] * 2, [1.0, 1.0])},
        title="Grad-CAM, epoch 0 to epoch 0",
        labels={
            "": [named("true dog"), named("true 2")],
            "epoch 0": [named("dog", True), named("2", True)],
        },
        note=NOTE,
        scale=OWN_SCALES,
        per_row=1,
        drawing=shaded("viridis", 0.25, cell_side=144),
    )
    style = Style(class_names=["cat", "dog"], colormap="viridis", alpha=0.25)
    assert torch.equal(filmstrip(record, "grad_cam", style=style), expected)


@pytest.mark.parametrize(
    ("count", "shown"), [(3, [0, 1, 2]), (12, list(range(12))), (34, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33])]
)
def test_of_many_looks_twelve_are_shown_evenly_with_the_first_and_the_last(count, shown):
    looks = [look(index, index, [ramp(1.0), ramp(1.0 + index)], [0, 0]) for index in range(count)]
    record, some = run(looks), run([looks[index] for index in shown])
    assert torch.equal(filmstrip(record, "grad_cam"), filmstrip(some, "grad_cam"))


def test_what_was_not_explained_is_said_and_an_epoch_that_is_there_twice_has_its_step():
    whole = [ramp(1.0), ramp(1.0)]
    sanity = look(None, 0, [ramp(1.0)], [1], positions=(1,))  # sanity checking saw the second sample only
    record = run([sanity, look(0, 10, whole, [1, 2]), look(0, 20, whole, [1, 2])], labels=(None, 2))
    titles = ["initial · step 0", "epoch 0 · step 10", "epoch 0 · step 20"]
    expected = expected_strip(
        record,
        titles,
        [on_scale(whole, [0.0, 1.0]), on_scale(whole, [1.0, 1.0]), on_scale(whole, [1.0, 1.0])],
        labels={
            "": [Caption(""), named("true 2")],
            titles[0]: [Caption(""), named("1", False)],
            **{title: [named("1"), named("2", True)] for title in titles[1:]},
        },
        blanks={titles[0]: ["not explained", None], titles[1]: [None, None], titles[2]: [None, None]},
    )
    assert torch.equal(filmstrip(record, "grad_cam"), expected)


def test_the_reason_for_a_blank_is_the_records_and_a_negative_map_is_shown_from_its_minimum():
    maps = [-1 - ramp(1.0), ramp(1.0)]
    record = run([look(0, 10, maps, [1, 2], reasons=("all negative", "too weak"))])
    words = {"labels": {"": [named("true 1"), named("true 2")], "epoch 0": [named("1", True), named("2", True)]}}
    for normalize, reasons, scale in (
        ("shared", ["all negative", "too weak"], ONE_SCALE),
        ("minmax", [None, "too weak"], ("least", "each map's maximum")),
    ):
        expected = grid(
            images_of(record),
            {"epoch 0": to_heatmaps(torch.stack(maps), (128, 128), "minmax")},
            title="Grad-CAM, epoch 0 to epoch 0",
            blanks={"epoch 0": reason_words(reasons)},
            note=NOTE,
            scale=scale,
            per_row=1,
            drawing=DRAWING,
            **words,
        )
        assert torch.equal(filmstrip(record, "grad_cam", style=Style(normalize=normalize)), expected)


def test_a_map_that_is_not_finite_is_blank_and_does_not_touch_the_others():
    lost = look(1, 20, [torch.full((1, 4, 4), torch.nan)], [1])
    record = run([look(0, 10, [ramp(1.0)], [1]), lost], labels=(1,))
    strip, alone = filmstrip(record, "grad_cam"), filmstrip(run([record[0]], labels=(1,)), "grad_cam")
    image, first, blank = cells_of(strip, 128, 128)
    assert all(map(torch.equal, (image, first), cells_of(alone, 128, 128)))
    assert (blank[:, :30] == (image[:, :30] * 0.5).round()).all()


def test_images_and_maps_may_differ_in_size():
    sizes = [(64, 128), (128, 64), (64, 128)]
    looks = [look(0, 10, [ramp(1.0), rand(1, 7, 5), ramp(4.0)], [0, 1, 2]), look(1, 20, [ramp(2.0)] * 3, [0, 1, 2])]
    record = run(looks, labels=(0, 1, 2), sizes=sizes)
    strengths = [[0.5, 1.0], [float(looks[0].attributions["grad_cam"][1].max()) / 2, 1.0], [1.0, 0.5]]
    columns = {}
    for column in (0, 1):
        raw_maps, images = looks[column].attributions["grad_cam"], images_of(record)
        columns[column] = [
            to_heatmaps(torch.tensor(raw)[None, None], image.shape[1:])[0] * strength[column]
            for raw, image, strength in zip(raw_maps, images, strengths, strict=True)
        ]
    labels = [named(str(index), True) for index in range(3)]
    expected = expected_strip(
        record,
        ["epoch 0", "epoch 1"],
        columns.values(),
        ONE_SCALE,
        labels={"": [named(f"true {index}") for index in range(3)], "epoch 0": labels, "epoch 1": labels},
    )
    assert (filmstrip(record, "grad_cam", style=ON_ONE_SCALE).int() - expected.int()).abs().max() <= 1
    with opened(animation(record, "grad_cam")) as film:
        assert film.n_frames == 2


def test_some_of_the_samples_are_shown_in_the_order_that_is_asked_for():
    maps = [ramp(1.0), ramp(2.0), ramp(4.0)]
    record = run([look(0, 10, maps, [1, 2, 3]), look(1, 20, [maps[2], maps[0]], [0, 1], (2, 0))], labels=(1, 2, 3))
    alone = [filmstrip(record, "grad_cam", positions=[position]) for position in range(3)]
    both = filmstrip(record, "grad_cam", positions=[2, 0])
    filled = (alone[0] != 255).any(0).float().mean(1)
    top = int((filled > 0.7).nonzero()[0])  # where the first row of cells begins
    pitch = both.shape[1] - alone[0].shape[1]
    assert torch.equal(both[:, : top + 128], alone[2][:, : top + 128])
    assert torch.equal(both[:, pitch + top : pitch + top + 128], alone[0][:, top : top + 128])
    with opened(animation(record, "grad_cam", positions=[1])) as film:
        assert film.n_frames == 2
    for positions in ([3], []):
        with pytest.raises(ValueError, match=r"`positions` out of the record's samples, \[0, 1, 2\], got "):
            filmstrip(record, "grad_cam", positions=positions)


def test_wrong_arguments_are_named():
    record = run([look(0, 0, [ramp(1.0), ramp(1.0)], [0, 0])])
    for draw in (filmstrip, animation):
        with pytest.raises(ValueError, match="one that the record holds, grad_cam, got 'cam'"):
            draw(record, "cam")
    with pytest.raises(ValueError, match="`max_columns` to be a positive int, got 0"):
        filmstrip(record, "grad_cam", max_columns=0)
    with pytest.raises(ValueError, match="`max_frames` to be a positive int, got 0"):
        animation(record, "grad_cam", max_frames=0)
    with pytest.raises(ValueError, match="a run that has shown something, got none yet"):
        filmstrip(Run(), "grad_cam")


def opened(content):
    return Image.open(io.BytesIO(content))


def test_an_animation_has_a_frame_a_look_repeats_for_ever_and_rests_at_its_end():
    looks = [
        look(index - 1 if index else None, index, [ramp(index + 1.0), ramp(1.0)], [index % 4, 2]) for index in range(5)
    ]
    record = run(looks)
    content = animation(record, "grad_cam", seconds=0.25)
    with opened(content) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 5, 0)
        frames = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert [duration for duration, _ in frames] == [250, 250, 250, 250, 2000]
    last = torch.from_numpy(np.array(frames[-1][1])).permute(2, 0, 1)
    expected = tiles(
        images_of(record),
        on_scale([ramp(5.0), ramp(1.0)], [1.0, 1.0]),
        title="epoch 3",
        note=f"Grad-CAM · {NOTE}",
        labels=[named("0", False), named("2", True)],
        scale=OWN_SCALES,
        progress=1.0,
        drawing=DRAWING,
    )
    assert last.shape == expected.shape
    difference = (last.float() - expected.float()).abs()
    assert difference.mean() < 8  # 255 colors for all, of images that are noise
    assert difference.flatten().kthvalue(int(0.99 * difference.numel())).values < 60
    with opened(animation(record, "grad_cam", max_frames=2)) as film:
        assert film.n_frames == 2


def test_frames_are_of_one_size_however_long_their_words_are():
    names = ("a name that is far too long to stand in one line below so small a picture", "b")
    looks = [look(index // 2, 10**index, [ramp(1.0)], [index % 2]) for index in range(8)]
    with opened(animation(run(looks, labels=(0,), names=names), "grad_cam")) as film:
        assert film.n_frames == 8


def test_an_animation_takes_no_more_than_it_may():
    noise = [
        look(index, index, [rand(1, 64, 64, seed=index + seed) for seed in (0, 50)], [1, 2]) for index in range(12)
    ]
    record = run(noise)
    whole = animation(record, "grad_cam")
    small = animation(record, "grad_cam", max_bytes=100_000)
    assert len(small) <= 100_000 < len(whole)
    with opened(small) as film, opened(whole) as large:
        assert film.n_frames == large.n_frames == 12
        assert film.width < large.width
