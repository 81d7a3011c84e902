"""Metrics of the heatmaps of volumes and signals, written out, and equal to those of the same images."""

from itertools import pairwise, product

import pytest
import torch
from networks import metered
from raised import raised
from scipy.ndimage import gaussian_filter

from lightning_saliency import explain
from lightning_saliency.metrics import (
    area_above,
    box_overlap,
    center_of_mass,
    center_shift,
    coarse,
    energy_inside,
    entropy,
    heatmaps_to_boxes,
    is_blank,
    measure_faithfulness,
    pointing_game,
    rank_correlation,
    raw_maximum,
)
from lightning_saliency.metrics.faithfulness import gaussian_blurred

SIZES = [(9,), (5, 7), (4, 5, 6)]


def maps(size, seed=0):
    return torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_the_center_of_mass_has_a_coordinate_for_each_axis_the_last_one_first(size):
    heatmaps, others = maps(size), maps([length + 2 for length in size], seed=1)
    expected = []
    for heatmap in heatmaps[:, 0]:
        sums = [0.0] * len(size)
        for at in product(*map(range, size)):
            for axis, place in enumerate(at):
                sums[axis] += float(heatmap[at]) * (place + 0.5) / size[axis]
        expected.append([total / float(heatmap.sum()) for total in reversed(sums)])
    torch.testing.assert_close(center_of_mass(heatmaps), torch.tensor(expected, dtype=torch.float64))
    shift = (center_of_mass(heatmaps) - center_of_mass(others)).square().sum(1).sqrt()
    torch.testing.assert_close(center_shift(heatmaps, others), shift)
    with pytest.raises(ValueError, match=r"`others` to be \(3, 1, .*\) as many as `heatmaps`"):
        center_shift(heatmaps, others[:2])


def test_heatmaps_of_other_axes_are_not_compared():
    with pytest.raises(ValueError, match=r"`others` to be \(3, 1, D, H, W\) .*, got shape \(3, 1, 5, 7\)"):
        center_shift(maps((4, 5, 6)), maps((5, 7)))
    with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape \(3, 1, 2, 2, 2, 2\)"):
        entropy(maps((2, 2, 2, 2)))


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((5000,), (1024,)),
        ((100,), (100,)),
        ((20, 40, 40), (5, 10, 10)),
        ((5, 6, 7), (5, 6, 7)),
        ((1, 1, 90), (1, 1, 10)),
    ],
)
def test_coarse_maps_have_about_as_many_pixels_whatever_the_number_of_axes(size, small):
    heatmaps = maps(size)
    found = coarse(heatmaps)
    assert found.shape == (3, 1, *small)
    torch.testing.assert_close(found.flatten(1).mean(1), heatmaps.flatten(1).mean(1), rtol=0, atol=1e-2)


@pytest.mark.parametrize("size", [(9,), (5, 7)])
def test_one_axis_more_changes_no_metric(size):
    heatmaps, others = maps(size), maps(size, seed=1)
    masks = others > 0.5
    for metric, inputs in (
        (entropy, (heatmaps,)), (area_above, (heatmaps,)), (is_blank, (heatmaps * (heatmaps > 0.9),)),
        (raw_maximum, (heatmaps,)), (pointing_game, (heatmaps, masks)), (energy_inside, (heatmaps, masks)),
        (rank_correlation, (heatmaps, others)), (center_shift, (heatmaps, others)),
    ):  # fmt: skip
        torch.testing.assert_close(metric(*(values.unsqueeze(2) for values in inputs)), metric(*inputs))


def test_boxes_are_of_images_alone():
    for heatmaps in (maps((4, 5, 6)), maps((9,))):
        with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape"):
            heatmaps_to_boxes(heatmaps)
        with pytest.raises(ValueError, match=r"`heatmaps` to be \(N, 1, H, W\), got shape"):
            box_overlap(heatmaps, torch.zeros(3, 4))


@pytest.mark.parametrize("size", [(30,), (448,), (8, 10, 12), (2, 20, 8)])
def test_the_blur_is_gaussian_along_each_axis(size):
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = size if len(size) == 1 else (size[0], min(size[1:]), min(size[1:]))
    scales = [max(1.0, length / 224) for length in lengths]
    radii = [min(round(5 * scale), length - 1) for scale, length in zip(scales, lengths, strict=True)]
    expected = torch.zeros_like(images)
    for index in product(range(2), range(3)):
        image = images[index].numpy()
        sigmas = [5 * scale for scale in scales]
        expected[index] = torch.from_numpy(gaussian_filter(image, sigmas, mode="mirror", radius=radii))
    torch.testing.assert_close(gaussian_blurred(images), expected)


def test_faithfulness_is_that_of_the_same_images_with_one_axis_more():
    model, images = metered(), torch.randn(3, 3, 10, 12, dtype=torch.float64)
    high = raised(model)
    options = {"methods": ["grad_cam", "saliency"], "target": [3, 0, 1]}
    flat = measure_faithfulness(model, explain(model, images, **options), steps=4)
    found = measure_faithfulness(high, explain(high, images[:, :, None], **options), steps=4)
    for key, metrics in flat.items():
        for name, values in metrics.items():
            torch.testing.assert_close(found[key][name], values, rtol=1e-6, atol=1e-8)


def test_faithfulness_of_a_signal_is_written_out():
    signals = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)).double()
    heatmaps = maps((8,))[:2]
    explanation = explain(model, ((signals,), {}), methods="saliency", target=1)
    found = measure_faithfulness(model, explanation, heatmaps={"any": heatmaps}, steps=4)["any"]
    blurred = gaussian_blurred(signals)

    def probability(signal):
        return float(model(signal[None]).softmax(1)[0, 1].detach())

    for row, (signal, heatmap) in enumerate(zip(signals, heatmaps, strict=True)):
        order = heatmap[0].argsort(descending=True)
        deleted, inserted = [probability(signal)], [probability(blurred[row])]
        removed, added = signal.clone(), blurred[row].clone()
        for part in order.split(2):
            removed[0, part], added[0, part] = 0, signal[0, part]
            deleted.append(probability(removed))
            inserted.append(probability(added))
        for name, curve in (("deletion", deleted), ("insertion", inserted)):
            area = sum((one + other) / 2 / 4 for one, other in pairwise(curve))
            assert float(found[name][row]) == pytest.approx(area, abs=1e-6)
        drop = max(probability(signal) - probability(signal * heatmap), 0) / probability(signal)
        assert float(found["average_drop"][row]) == pytest.approx(drop, abs=1e-6)
