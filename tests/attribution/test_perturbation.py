"""Methods that change the image or the activations: each against its loops."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from closed_forms import loops_ablation_cam, loops_bilinear, relu, score, weighted
from networks import Calling, as_statement, gap_net, plain_net
from states import assert_alike

from lightning_saliency.attribution import explain

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loops_score_cam(model, layer, image, label):
    A = model[: layer + 1](image[None])[0].detach()
    scores = []
    for k in range(len(A)):
        mask = loops_bilinear(A[k], *image.shape[1:])
        if mask.min() == mask.max():
            scores.append(None)
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(score(model, image * mask, label) - score(model, torch.zeros_like(image), label))
    total = sum(np.exp(value) for value in scores if value is not None)
    weights = [np.exp(value) / total if value is not None else 0.0 for value in scores]
    return relu(weighted(A, torch.tensor(weights)))


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize(("method", "loops"), [("score_cam", loops_score_cam), ("ablation_cam", loops_ablation_cam)])
@pytest.mark.parametrize("chunk_size", [None, 2])  # fewer than the channels
def test_methods_that_try_out_channels_are_their_loops(method, loops, layer, chunk_size):
    model = plain_net()
    with torch.no_grad():
        model[8].weight *= 5  # so that the channels differ in their scores
    found = explain(model, IMAGES, methods=method, layer=str(layer), target=LABELS, chunk_size=chunk_size)
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        assert_alike(found.attributions[method][row, 0], loops(model, layer, image, label))


def test_a_constant_channel_takes_no_part_in_score_cam():
    model = plain_net()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 50  # softmax(S) would give it a share, and A such a weight that nothing else is seen
    found = explain(model, IMAGES, methods="score_cam", layer="1", target=LABELS).attributions["score_cam"]
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        assert_alike(found[row, 0], loops_score_cam(model, 1, image, label))
    with torch.no_grad():
        model[0].weight.zero_()
    assert not explain(model, IMAGES, methods="score_cam", layer="1").attributions["score_cam"].any()


def test_ablation_cam_has_the_sign_of_what_a_channel_does_for_the_score_also_where_that_is_negative():
    model = plain_net()
    with torch.no_grad():
        model[8].bias -= 10
    found = explain(model, IMAGES, methods="ablation_cam", layer="3", target=LABELS)
    assert (found.scores < 0).all()
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        expected = loops_ablation_cam(model, 3, image, label)
        assert_alike(found.attributions["ablation_cam"][row, 0], expected)


@pytest.mark.parametrize("in_place", [False, True, None])
@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "smooth_grad_cam_plus_plus"])
def test_further_passes_read_and_change_a_layer_after_its_activation_where_that_was_found(method, in_place):
    activate = as_statement if in_place is None else partial(F.relu, inplace=in_place)
    found = explain(Calling(activate), IMAGES, methods=method, target=LABELS)
    assert found.layer == "net.3:activated"
    expected = explain(plain_net(), IMAGES, methods=method, target=LABELS, layer="4")
    assert_alike(found.attributions[method], expected.attributions[method])


def loops_occlusion(model, image, label, size, stride, fill):
    height, width = image.shape[1:]
    tops, lefts = (
        sorted({start for start in range(length) if start % stride == 0 and start + size <= length} | {length - size})
        for length in (height, width)
    )
    drops = {(i, j): [] for i in range(height) for j in range(width)}
    for top, left in product(tops, lefts):
        covered = image.clone()
        for c, i, j in product(range(len(image)), range(top, top + size), range(left, left + size)):
            covered[c, i, j] = fill
        drop = score(model, image, label) - score(model, covered, label)
        for i, j in product(range(top, top + size), range(left, left + size)):
            drops[i, j].append(drop)
    L = torch.zeros(height, width, dtype=torch.float64)
    for at, values in drops.items():
        L[at] = sum(values) / len(values) if values else 0.0
    return L


@pytest.mark.parametrize(
    ("options", "size", "stride", "fill"),
    [
        ({}, 1, 1, 0.0),
        ({"size": 3}, 3, 1, 0.0),
        ({"size": 4, "stride": 3, "fill": 0.5}, 4, 3, 0.5),
        ({"size": 8, "stride": 5, "fill": -1}, 8, 5, -1.0),
        ({"size": 20}, 8, 4, 0.0),  # at most the image's shorter side
        ({"size": 2, "stride": 3}, 2, 3, 0.0),  # some pixels are never covered
    ],
)
def test_occlusion_is_the_mean_drop_of_the_score_over_the_squares_on_a_pixel(options, size, stride, fill):
    model = plain_net()
    found = explain(model, IMAGES, methods={"occlusion": options}, target=LABELS)
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        expected = loops_occlusion(model, image, label, size, stride, fill)
        assert_alike(found.attributions["occlusion"][row, 0], expected)
    assert found.signed == {}


def test_the_square_that_covers_is_an_eighth_of_the_shorter_side_and_moves_by_half_of_that():
    image = torch.randn(2, 33, 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = explain(gap_net(), image[None], methods="occlusion", target=2).attributions["occlusion"]
    assert_alike(found[0, 0], loops_occlusion(gap_net().eval(), image, 2, 2, 1, 0.0))
