"""The map of relevance propagation: activations times modified gradients, summed over channels in loops."""

from itertools import product

import pytest
import torch

from lightning_saliency.attribution.relevance import ROWS, lrp
from lightning_saliency.evidence import Evidence
from lightning_saliency.evidence.layout import TokenGrid


def evidence_of(**tensors):
    none = torch.zeros(2, dtype=torch.float64)
    return Evidence(none, none, none, **tensors)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relevance_is_the_sum_over_channels_of_activation_times_gradient():
    a, g = random(2, 3, 4, 5, seed=0), random(2, 3, 4, 5, seed=1)
    relevance = lrp(evidence_of(lrp_activations=a, lrp_grads=g))
    assert relevance.shape == (2, 1, 4, 5)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                expected = sum(float(a[n, k, i, j] * g[n, k, i, j]) for k in range(3))
                assert float(relevance[n, 0, i, j]) == pytest.approx(expected)


def test_a_patch_has_the_sum_of_its_pixels():
    a, g = random(2, 3, 4, 6, seed=0), random(2, 3, 4, 6, seed=1)
    relevance = lrp(evidence_of(lrp_activations=a, lrp_grads=g, tokens=TokenGrid(1, 0, (2, 3))))
    assert relevance.shape == (2, 1, 2, 3)
    for n, i, j in product(range(2), range(2), range(3)):
        pixels = product(range(3), range(2 * i, 2 * i + 2), range(2 * j, 2 * j + 2))
        assert float(relevance[n, 0, i, j]) == pytest.approx(sum(float(a[n][at] * g[n][at]) for at in pixels))


def test_relevance_keeps_its_sign():
    a = random(2, 3, 4, 5, seed=0)
    for sign in (1, -1):
        assert (sign * lrp(evidence_of(lrp_activations=a, lrp_grads=sign * a)) > 0).all()


def test_the_row_reads_what_the_function_does():
    a, g = random(2, 3, 4, 5, seed=0), random(2, 3, 4, 5, seed=1)
    (method,) = ROWS.values()
    assert method.needs == {"lrp"}
    raw, signed = method.attribute(evidence_of(lrp_activations=a, lrp_grads=g), None)
    torch.testing.assert_close(raw, (a * g).sum(1, keepdim=True).float())
    assert signed is None
