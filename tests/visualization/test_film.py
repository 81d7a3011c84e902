"""A record as a filmstrip and as an animation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.history import Moment, RecordWriter
from lightning_saliency.visualization import Caption, animation, filmstrip, grid, tiles


def recorded(folder, moments, *, num=2, side=64, labels=(1, 2), names=None, rows=None):
    """A record of moments, each (epoch, step, maps (n, 1, h, w), predicted classes, rows)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, side, side), generator=generator, dtype=torch.uint8)
    writer = RecordWriter(folder / "saliency.record")
    writer.write_samples(images, list(labels), rows=list(range(num)), class_names=names)
    for epoch, step, maps, predicted, *own in moments:
        logits = torch.nn.functional.one_hot(torch.tensor(predicted), 4).float()
        rows = own[0] if own else list(range(num))
        writer.write(Moment(epoch, step, rows, {"grad_cam": maps}, logits, layers=["layer4"], explained="true class"))
    return writer.record, images


def ramp(peak):
    """A map (1, 1, 4, 4) whose values are told exactly by 8 bits."""
    return torch.linspace(0, 1, 16).view(1, 1, 4, 4) * peak


def test_a_filmstrip_has_a_row_a_sample_a_column_a_moment_and_one_scale_a_row(tmp_path):
    maps = [torch.cat([ramp(1.0), ramp(8.0)]), torch.cat([ramp(4.0), ramp(2.0)]), torch.cat([ramp(2.0), ramp(0.0)])]
    record, images = recorded(
        tmp_path,
        [(None, 0, maps[0], [1, 3]), (0, 25, maps[1], [2, 2]), (1, 50, maps[2], [1, 0])],
        names=["ant", "bee", "cat", "dog"],
    )
    shares = {"untrained": [0.25, 1.0], "epoch 0": [1.0, 0.25], "epoch 1": [0.5, 0.0]}
    expected = grid(
        images,
        {
            head: to_heatmaps(maps, (64, 64)) * torch.tensor(shares[head])[:, None, None, None]
            for head, maps in zip(shares, (moment.attributions["grad_cam"] for moment in record), strict=True)
        },
        title="Grad-CAM, untrained to epoch 1",
        labels={
            "": [Caption("true bee"), Caption("true cat")],
            "untrained": [Caption("bee", True), Caption("dog", False)],
            "epoch 0": [Caption("cat", False), Caption("cat", True)],
            "epoch 1": [Caption("bee", True), Caption("ant", False)],
        },
        blanks={"untrained": [None] * 2, "epoch 0": [None] * 2, "epoch 1": [None, "constant 0"]},
        note="explained: true class · layer: layer4 · one scale a sample",
        cell_side=144,
    )
    assert torch.equal(filmstrip(record, "grad_cam"), expected)
    own_scale = filmstrip(record, "grad_cam", normalize="max")
    assert own_scale.shape == expected.shape
    assert not torch.equal(own_scale, expected)


@pytest.mark.parametrize(
    ("count", "shown"), [(3, [0, 1, 2]), (12, list(range(12))), (34, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33])]
)
def test_of_many_moments_twelve_are_shown_evenly_with_the_first_and_the_last(tmp_path, count, shown, monkeypatch):
    record, _ = recorded(tmp_path, [(at, at, ramp(1.0).repeat(2, 1, 1, 1), [0, 0]) for at in range(count)])
    asked = []
    read = type(record).__getitem__
    monkeypatch.setattr(type(record), "__getitem__", lambda self, at: asked.append(at) or read(self, at))
    filmstrip(record, "grad_cam")
    assert asked == shown


def test_what_was_not_seen_is_said_and_an_epoch_that_is_there_twice_has_its_step(tmp_path):
    part = (None, 0, ramp(1.0), [1], [1])  # sanity checking saw the second sample only
    whole = ramp(1.0).repeat(2, 1, 1, 1)
    record, images = recorded(tmp_path, [part, (0, 10, whole, [1, 2]), (0, 20, whole, [1, 2])], labels=[None, 2])
    heads = ["untrained · step 0", "epoch 0 · step 10", "epoch 0 · step 20"]
    heatmaps = to_heatmaps(record[1].attributions["grad_cam"], (64, 64))
    expected = grid(
        images,
        {heads[0]: heatmaps * torch.tensor([0.0, 1.0])[:, None, None, None], heads[1]: heatmaps, heads[2]: heatmaps},
        title=f"Grad-CAM, {heads[0]} to {heads[2]}",
        labels={
            "": [Caption(""), Caption("true 2")],
            heads[0]: [Caption(""), Caption("1", False)],
            **{head: [Caption("1"), Caption("2", True)] for head in heads[1:]},
        },
        blanks={heads[0]: ["not seen", None], heads[1]: [None, None], heads[2]: [None, None]},
        note="explained: true class · layer: layer4 · one scale a sample",
        cell_side=144,
    )
    assert torch.equal(filmstrip(record, "grad_cam"), expected)


def test_some_of_the_samples_are_shown_in_the_order_that_is_asked_for(tmp_path):
    maps = torch.cat([ramp(1.0), ramp(2.0), ramp(4.0)])
    moments = [(0, 10, maps, [1, 2, 3]), (1, 20, maps[[2, 0]], [0, 1], [2, 0])]
    record, _ = recorded(tmp_path, moments, num=3, labels=[1, 2, 3])
    alone = [filmstrip(record, "grad_cam", rows=[row]) for row in range(3)]
    both = filmstrip(record, "grad_cam", rows=[2, 0])
    filled = (alone[0] != 255).any(0).float().mean(1)
    top = int((filled > 0.7).nonzero()[0])  # where the first row of cells begins
    pitch = both.shape[1] - alone[0].shape[1]
    assert torch.equal(both[:, : top + 128], alone[2][:, : top + 128])
    assert torch.equal(both[:, pitch + top : pitch + top + 128], alone[0][:, top : top + 128])
    with Image.open(io.BytesIO(animation(record, "grad_cam", rows=[1]))) as film:
        assert film.n_frames == 2
    for rows in ([3], []):
        with pytest.raises(ValueError, match=r"`rows` out of the record's samples, \[0, 1, 2\], got "):
            filmstrip(record, "grad_cam", rows=rows)


def test_wrong_arguments_are_named(tmp_path):
    record, _ = recorded(tmp_path, [(0, 0, ramp(1.0).repeat(2, 1, 1, 1), [0, 0])])
    for draw in (filmstrip, animation):
        with pytest.raises(ValueError, match="one that the record holds, grad_cam, got 'cam'"):
            draw(record, "cam")
        with pytest.raises(ValueError, match="`normalize` to be one of max, minmax, shared, got 'all'"):
            draw(record, "grad_cam", normalize="all")
    with pytest.raises(ValueError, match="`max_columns` to be a positive int, got 0"):
        filmstrip(record, "grad_cam", max_columns=0)
    with pytest.raises(ValueError, match="`max_frames` to be a positive int, got 0"):
        animation(record, "grad_cam", max_frames=0)
    with pytest.raises(ValueError, match="holds, none yet"):
        filmstrip(RecordWriter(tmp_path / "empty.record").record, "grad_cam")


def opened(content):
    return Image.open(io.BytesIO(content))


def test_an_animation_has_a_frame_a_moment_plays_for_ever_and_rests_at_its_end(tmp_path):
    moments = [
        (None if at == 0 else at - 1, at, torch.cat([ramp(at + 1.0), ramp(1.0)]), [at % 4, 2]) for at in range(5)
    ]
    record, images = recorded(tmp_path, moments)
    content = animation(record, "grad_cam", seconds=0.25)
    with opened(content) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 5, 0)
        frames = list(ImageSequence.Iterator(film))
        assert [frame.info["duration"] for frame in film_durations(content)] == [250, 250, 250, 250, 2000]
        last = torch.from_numpy(np.array(frames[-1].convert("RGB"))).permute(2, 0, 1)
    expected = tiles(
        images,
        to_heatmaps(record[4].attributions["grad_cam"], (64, 64)),
        title="epoch 3",
        note="Grad-CAM · explained: true class · layer: layer4 · one scale a sample",
        labels=[Caption("0", False), Caption("2", True)],
        progress=1.0,
        cell_side=144,
    )
    assert last.shape == expected.shape
    off = (last.float() - expected.float()).abs()
    assert off.mean() < 8  # 255 colors for all, of images that are noise
    assert off.flatten().kthvalue(int(0.99 * off.numel())).values < 60
    with opened(animation(record, "grad_cam", max_frames=2)) as film:
        assert film.n_frames == 2


def test_frames_are_of_one_size_however_long_their_words_are(tmp_path):
    long = [(at // 2, 10**at, ramp(1.0), [at % 2]) for at in range(8)]
    names = ["a name that is far too long to stand in one line below so small a picture", "b"]
    record, _ = recorded(tmp_path, long, num=1, labels=[0], names=names)
    with opened(animation(record, "grad_cam")) as film:
        assert film.n_frames == 8


def film_durations(content):
    film = opened(content)
    for at in range(film.n_frames):
        film.seek(at)
        yield film.copy()


def test_an_animation_takes_no_more_than_it_may(tmp_path):
    generator = torch.Generator().manual_seed(0)
    noise = [(at, at, torch.rand(2, 1, 64, 64, generator=generator), [1, 2]) for at in range(12)]
    record, _ = recorded(tmp_path, noise)
    whole = animation(record, "grad_cam")
    small = animation(record, "grad_cam", max_bytes=100_000)
    assert len(small) <= 100_000 < len(whole)
    with opened(small) as film, opened(whole) as large:
        assert film.n_frames == large.n_frames == 12
        assert film.width < large.width
