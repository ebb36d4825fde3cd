"""Systems whole and blocked: Gram matrices, shifts, solutions and residuals against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.regression.cholesky import Spread
from frepo_scale.regression.factorisation import System

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


def test_the_size_is_padded_to_whole_blocks_for_every_device():
    assert System(10, None).size == 10
    assert System(10, Spread(block=4)).size == 12
    assert System(10, Spread("data", 4, 4)).size == 16
