"""Systems whole and blocked: Gram matrices, shifts, solutions and residuals against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.regression.cholesky import Spread
from frepo_scale.regression.factorisation import System
from frepo_scale.regression.ridge import RidgeConfig

SPREADS = (None, Spread(block=4))


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 11), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_both_kinds_solve_both_gram_matrices(rows, dim, classes, seed):
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(rows, dim))
    for gram, wide in ((f @ f.T, False), (f.T @ f, True)):
        matrix = gram + 0.5 * np.eye(len(gram))
        right = rng.normal(size=(len(gram), classes))
        for spread in SPREADS:
            system = System(len(gram), spread)
            ours = jnp.asarray(f)
            own = system.gram_of_columns(ours, None) if wide else system.gram_of_rows(ours)
            shifted = system.shifted(own, jnp.float64(0.5))
            n = len(gram)
            np.testing.assert_allclose(shifted[:n, :n], matrix, rtol=1e-12, atol=1e-12)
            # The padding is an identity matrix.
            np.testing.assert_array_equal(shifted[n:, n:], np.eye(system.size - n))
            assert not np.any(shifted[:n, n:])
            assert not np.any(shifted[n:, :n])
            x = system.solve(system.factorise(shifted), jnp.asarray(right))
            np.testing.assert_allclose(x, np.linalg.solve(matrix, right), rtol=1e-9, atol=1e-11)
            assert system.residual(shifted, x, jnp.asarray(right)) < 1e-12
            off = np.linalg.norm(matrix @ (np.asarray(x) + 1) - right) / np.linalg.norm(right)
            np.testing.assert_allclose(
                system.residual(shifted, x + 1, jnp.asarray(right)), off, rtol=1e-9
            )


def test_columns_are_padded_to_whole_blocks_and_rows_to_equally_many_for_each_device():
    assert System(10, None).size == 10
    assert System(10, Spread(block=4)).size == 12
    spread = Spread("data", 4, 4)
    assert System(10, spread).size == 12
    assert (spread.count(12), spread.stored(12)) == (1, 16)
    assert (spread.count(20), spread.stored(20)) == (2, 32)


@pytest.mark.parametrize(
    ("unknowns", "devices", "dual", "block", "stored"),
    [
        (4096, 16, True, 256, 4096),  # on every device, whole
        (10_000, 4, True, 256, 10_240),
        (10_000, 64, True, 256, 16_384),
        (16_384, 256, True, 256, 65_536),
        (16_384, 64, False, 256, 16_384),
        (16_384, 256, False, 64, 16_384),  # else a sum of 65 536 rows would be scattered
        (8192, 256, False, 64, 16_384),
        (10_000, 16, False, 256, 12_288),
        (10_000, 64, False, 64, 12_288),  # 128 would store as many as 256
    ],
)
def test_how_a_system_is_spread(unknowns, devices, dual, block, stored):
    config = RidgeConfig(factorisation="blocked")
    spread = config.spread(unknowns, "data", devices, dual)
    assert spread.devices == (devices if unknowns > 4096 else 1)
    assert spread.block == block
    assert spread.stored(spread.padded(unknowns)) == stored
    assert config.spread(unknowns, None, 1, dual) == Spread(block=256)
    assert RidgeConfig(factorisation="library").spread(unknowns, "data", devices, dual) is None
