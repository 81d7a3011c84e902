"""Records of volumes and signals: what is written comes back, and what does not fit is refused."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from recording import make_look, make_writer, same

from lightning_saliency.history import RecordedSamples, RecordError, load_record
from lightning_saliency.visualization import Style, animation, filmstrip

KINDS = [((2, 30), (30,), (8,)), ((1, 6, 9, 10), (6, 9, 10), (2, 3, 3)), ((3, 6, 9, 10), (6, 9, 10), (6, 9, 10))]


def samples_of(shape, count=3, **options):
    generator = np.random.default_rng(0)
    images = tuple(generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(count))
    return RecordedSamples(tuple(range(count)), images, (4, None, 2)[:count], **options)


def look_of(shape, epoch=0, **options):
    return make_look(epoch, epoch + 1, shapes={"grad_cam": (shape,) * 3}, num_axes=len(shape), **options)


@pytest.mark.parametrize(("image", "size", "shape"), KINDS, ids=str)
def test_what_is_written_comes_back(tmp_path, image, size, shape):
    samples = samples_of(image, class_names=("cat", "dog"))
    writer = make_writer(tmp_path, samples=samples)
    writer.write(look_of(shape))
    record = load_record(tmp_path)
    assert record.samples.agrees_with(samples)
    assert record.samples.sizes == dict.fromkeys(range(3), size)
    assert record.about(0).shapes == {"grad_cam": (shape,) * 3}
    assert same(record[0], look_of(shape))
    assert record[0].num_axes == len(shape)
    with np.load(f"{record.path}/samples.npz") as file:
        assert file[f"images/{'x'.join(map(str, size))}"].shape == (3, *image)


def test_maps_with_other_axes_than_the_samples_are_refused(tmp_path):
    writer = make_writer(tmp_path, samples=samples_of((1, 6, 9, 10)))
    for shape in ((9, 10), (10,)):
        with pytest.raises(ValueError, match="Expected a map of sample 0 to be at most"):
            writer.write(look_of(shape))
    with pytest.raises(ValueError, match=r"`attributions\['grad_cam'\]` to be maps with 2 axes, got \(2, 3, 3\)"):
        replace(look_of((2, 3, 3)), num_axes=2)
    assert len(load_record(tmp_path)) == 0


@pytest.mark.parametrize(
    "change", [{"channels": 2}, {"channels": 0}, {"channels": "1"}, {"sizes": [[6, 9]] * 3}], ids=str
)
def test_samples_that_say_of_themselves_what_cannot_be_are_passed_over(tmp_path, change):
    make_writer(tmp_path, samples=samples_of((1, 6, 9, 10)))
    record = load_record(tmp_path)
    with np.load(f"{record.path}/samples.npz") as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes()) | change
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(f"{record.path}/samples.npz", **arrays)
    read = load_record(tmp_path)
    assert read.samples is None
    assert "samples.npz" in read.problems


def test_images_that_do_not_belong_together_are_refused():
    volume, image = np.zeros((1, 4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="the same number of channels"):
        RecordedSamples((0, 1), (volume, image), (None, None))
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4,), np.uint8), np.zeros((1, 2, 2, 2, 2), np.uint8)):
        with pytest.raises(ValueError, match=r"Expected `images` to be \(3, H, W\) uint8"):
            RecordedSamples((0,), (wrong,), (None,))


def test_damage_to_a_volumes_maps_is_not_shown(tmp_path):
    writer = make_writer(tmp_path, samples=samples_of((1, 6, 9, 10)))
    writer.write(look_of((2, 3, 3)))
    path = f"{writer.record.path}/{writer.record.files[0]}"
    with open(path, "r+b") as file:
        file.seek(60)
        file.write(b"\0\1\2\3")
    with pytest.raises(RecordError, match="cannot be read"):
        _ = load_record(tmp_path)[0]


@pytest.mark.parametrize(("image", "size", "shape"), KINDS, ids=str)
def test_films_are_drawn_of_it(tmp_path, image, size, shape):
    writer = make_writer(tmp_path, samples=samples_of(image))
    for epoch in range(3):
        writer.write(look_of(shape, epoch))
    record = load_record(tmp_path)
    strip = filmstrip(record, "grad_cam")
    assert min(strip.shape[1:]) > 300
    for volumes in ("slices", "frames"):
        with Image.open(io.BytesIO(animation(record, "grad_cam", style=Style(volumes=volumes)))) as film:
            assert film.n_frames == 3
