"""Eight bits a value: how near a map comes back."""

import numpy as np
import pytest

from lightning_saliency.history.levels import quantize, restore


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, -3.0, 100.0])
def test_a_map_comes_back_within_half_of_its_range_by_255(scale, offset):
    maps = ((np.random.default_rng(0).random((5, 9, 11)) + offset) * scale).astype(np.float32)
    restored = restore(*quantize(maps))
    span = np.ptp(maps.astype(np.float64), axis=(1, 2), keepdims=True)
    rounding = np.spacing(np.abs(maps).max()).astype(np.float64)  # of float32 itself
    assert restored.dtype == np.float32
    assert (np.abs(restored.astype(np.float64) - maps) <= span / 510 + rounding).all()
    np.testing.assert_array_equal(restored.max((1, 2)), maps.max((1, 2)))
    np.testing.assert_array_equal(restored.min((1, 2)), maps.min((1, 2)))


def test_extremes_are_exact_where_the_range_swallows_them():
    largest = np.finfo(np.float32).max
    maps = np.array([[[-largest, largest]], [[-1e30, 1e-5]], [[1.0, np.nextafter(np.float32(1), np.float32(2))]]])
    np.testing.assert_array_equal(restore(*quantize(maps)), maps.astype(np.float32))


def test_what_is_cut_to_zero_stays_zero_and_a_constant_map_is_constant():
    maps = np.array([[[0, 1e-30], [0, 3e-30]], [[-3.5, -3.5], [-3.5, -3.5]], [[0, 0], [0, 0]]], np.float32)
    restored = restore(*quantize(maps))
    assert (restored[0, :, 0] == 0).all()
    np.testing.assert_array_equal(restored[1:], maps[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_has_no_range_and_its_neighbors_keep_theirs(value):
    maps = np.stack([np.eye(3), np.full((3, 3), 2.0), np.eye(3)]).astype(np.float32)
    maps[1, 0, 2] = value
    levels, ranges = quantize(maps)
    assert np.isnan(ranges[1]).all()
    assert np.isnan(restore(levels, ranges)[1]).all()
    np.testing.assert_array_equal(restore(levels, ranges)[::2], maps[::2])
