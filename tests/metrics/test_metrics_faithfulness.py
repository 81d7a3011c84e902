import pytest
import torch

from lightning_saliency.metrics import area_under_curve, average_drop, increase_in_confidence


def test_the_drop_is_the_lost_share_of_the_confidence_and_a_gain_is_none():
    before = torch.tensor([0.8, 0.5, 0.9, 0.3, 0.0, -0.2, torch.nan, 0.4], dtype=torch.float64)
    after = torch.tensor([0.6, 0.7, 0.0, 0.3, 0.5, 0.1, 0.5, torch.nan], dtype=torch.float64)
    drops, increases = average_drop(before, after), increase_in_confidence(before, after)
    for found, one, other in zip(drops.tolist()[:4], before.tolist(), after.tolist(), strict=False):
        assert found == pytest.approx(max(0.0, one - other) / one)
    assert drops[:4].tolist() == pytest.approx([0.25, 0, 1, 0])
    assert drops[4:].isnan().all()
    assert increases.tolist() == [False, True, False, False, True, True, False, False]
    assert increases.dtype == torch.bool
    for function in (average_drop, increase_in_confidence):
        with pytest.raises(ValueError, match=r"`after` to be \(8,\) as `before`, got shape \(3,\)"):
            function(before, after[:3])
        with pytest.raises(ValueError, match=r"`before` to be \(N,\), got shape \(8, 1\)"):
            function(before[:, None], after[:, None])


def test_the_area_under_a_curve_is_that_of_its_trapezoids():
    curves = torch.rand(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for found, curve in zip(area_under_curve(curves).tolist(), curves.tolist(), strict=True):
        assert found == pytest.approx(sum((curve[step] + curve[step + 1]) / 2 / 8 for step in range(8)))
    assert area_under_curve(torch.full((1, 4), 0.3)).item() == pytest.approx(0.3)
    assert area_under_curve(torch.tensor([[0, 1], [1, 1]])).tolist() == [0.5, 1]
    assert area_under_curve(torch.tensor([[0.0, torch.nan, 1.0], [0.0, 0.5, 1.0]])).isnan().tolist() == [True, False]
    for wrong in (torch.rand(5), torch.rand(5, 1), torch.rand(5, 3, 2)):
        with pytest.raises(ValueError, match=r"`curves` to be \(N, S\) with 2 steps or more, got shape"):
            area_under_curve(wrong)
