"""Large images as grids that share one whitening."""

import numpy as np
import pytest

from frepo_scale.data.whitening_grid import grid_of, grids_per_axis, join_grids, split_grids


@pytest.mark.parametrize(
    ("side", "grid"),
    [(8, 1), (64, 1), (65, None), (97, None), (96, 2), (128, 2), (224, 4), (256, 4)],
)
def test_grids_per_axis(side, grid):
    assert grids_per_axis(side) == grid


def test_split_grids():
    images = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    rows = split_grids(images, 2)
    np.testing.assert_array_equal(rows[1], images[0, 0::2, 1::2].ravel())
    np.testing.assert_array_equal(rows[4], images[1, 0::2, 0::2].ravel())
    assert split_grids(images, 1).shape == (2, 48)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_join_grids_is_the_inverse(grid):
    images = np.random.default_rng(0).normal(size=(5, 6, 12, 3))
    rows = split_grids(images, grid)
    np.testing.assert_array_equal(join_grids(rows, images.shape, grid), images)
    assert grid_of(images[0].ravel(), np.zeros((rows.shape[1],) * 2)) == grid
