"""Net inputs made on the devices are those made on the host."""

import jax
import numpy as np
import pytest

from frepo_scale.data import net_inputs, whitening_grid
from frepo_scale.data.net_inputs import NetInputs, replicated, to_net_inputs
from frepo_scale.data.types import Chosen, Split, everything
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.parallel.mesh import single_device_mesh

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("largest", [64, 3])  # whole, or as 2 x 2 grids
@pytest.mark.parametrize(("channels", "whiten"), [(1, False), (3, False), (3, True)])
def test_as_on_the_host(channels, whiten, largest, monkeypatch):
    monkeypatch.setattr(whitening_grid, "LARGEST_SIDE", largest)
    monkeypatch.setattr(whitening_grid, "_SMALLEST_SIDE", 3)
    images = RNG.integers(0, 256, (200, 6, 6, channels)).astype(np.uint8)
    part = Split(images, np.arange(200, dtype=np.int32))
    preprocessing = fit_preprocessing(images, whiten)
    constants = replicated(preprocessing, single_device_mesh())
    want = preprocessing.apply(images)
    np.testing.assert_allclose(
        jax.jit(to_net_inputs)(constants, images), want, rtol=1e-5, atol=1e-5
    )
    monkeypatch.setattr(net_inputs, "_AT_ONCE", 7)
    made = NetInputs(Chosen(part, np.arange(100, 200)), constants)
    assert len(made) == 100
    np.testing.assert_array_equal(made.labels, np.arange(100, 200))
    rows = np.array([3, 99, 3, 0] * 5)
    np.testing.assert_allclose(made.at(rows), want[100 + rows], rtol=1e-5, atol=1e-5)
    assert made.at(rows[:0]).shape == (0, 6, 6, channels)
    np.testing.assert_allclose(everything(made), want[100:], rtol=1e-5, atol=1e-5)
