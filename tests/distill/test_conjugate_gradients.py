"""Conjugate gradients against dense solves, and which of their solutions are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_device import on_one_device

from frepo_scale.distill.conjugate_gradients import Solved, conjugate_gradients, is_reliable

SIZE = 24


@on_one_device
def solve(matrix, right, steps):
    """What conjugate gradients find, the energy by its definition, and whether it is used."""
    found = conjugate_gradients(lambda x: matrix @ x, right, steps, 1e-12, "gpu")
    energy = 0.5 * found.x @ matrix @ found.x - right @ found.x
    return found, energy, is_reliable(found, energy, 1.0)


def system(seed, spread):
    """`I + BᵀB` with eigenvalues up to `10^spread`, and a right-hand side."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    eigenvalues = 1 + 10 ** np.linspace(-2, spread, SIZE)
    return basis * eigenvalues @ basis.T, rng.normal(size=SIZE)


@pytest.mark.parametrize("spread", [3, 5])
def test_every_iteration_is_closer_and_used_even_where_the_residual_rises(spread):
    with jax.enable_x64(True):
        residuals = []
        for seed in range(5):
            matrix, right = system(seed, spread)
            exact = np.linalg.solve(matrix, right)
            least = -0.5 * right @ exact
            before = 1.0
            for steps in (1, 2, 4, 8, 16):
                found, energy, used = solve(matrix, right, steps)
                left = np.asarray(found.x) - exact
                error = np.sqrt(left @ matrix @ left / (exact @ matrix @ exact))
                np.testing.assert_allclose(found.energy, energy, rtol=1e-8)
                np.testing.assert_allclose(error**2, 1 - energy / least, rtol=1e-6, atol=1e-12)
                assert used and found.curvature >= 1 and error < before
                before = error
                residuals.append(float(found.residual))
            shorter = solve(matrix, right, 15)[1]
            np.testing.assert_allclose(found.last, 1 - shorter / energy, rtol=1e-5)
    assert max(residuals) > 1  # what a rule about the residual would drop


def test_in_float32_truncated_and_long_solves_are_used():
    for seed in range(5):
        matrix, right = (np.float32(x) for x in system(seed, 6))
        for steps in (1, 3, 10, 100):
            assert solve(matrix, right, steps)[2]


def indefinite(matrix):
    values, vectors = np.linalg.eigh(matrix)
    values[: SIZE // 2] *= -1
    return vectors * values @ vectors.T


def lopsided(matrix):
    """Not symmetric: its curvatures are those of the matrix, its recurrences are wrong."""
    skew = np.triu(np.full((SIZE, SIZE), 0.5 * np.abs(matrix).max()), 1)
    return matrix + skew - skew.T


def with_nan(matrix):
    return np.where(np.eye(SIZE) == 1, np.nan, matrix)


def too_small(matrix):
    """Positive, but below the bound of the eigenvalues."""
    return 0.01 * np.eye(SIZE)


@pytest.mark.parametrize("broken", [indefinite, lopsided, with_nan, too_small])
def test_solutions_of_a_broken_matrix_are_not_used(broken):
    with jax.enable_x64(True):
        for seed in range(5):
            matrix, right = system(seed, 3)
            assert not solve(broken(matrix), right, 16)[2]


def test_a_right_hand_side_that_is_not_finite_gives_nothing_to_use():
    matrix, right = (np.float32(x) for x in system(0, 1))
    assert not solve(matrix, np.where(np.arange(SIZE) == 3, np.inf, right), 4)[2]
    assert not solve(matrix, np.full_like(right, np.nan), 4)[2]


def test_an_overflow_is_not_used():
    found = Solved(*(jnp.float32(x) for x in (1, 0.1, -np.inf, 1, 0.1)), jnp.int32(3))
    assert not is_reliable(found, found.energy, 1.0)
    found = found._replace(energy=jnp.float32(-2))
    assert is_reliable(found, found.energy, 1.0)


def test_zero_is_the_solution_for_zero():
    matrix, right = (np.float32(x) for x in system(0, 1))
    found, _, used = solve(matrix, np.zeros_like(right), 4)
    assert used and found.steps == 0 and not np.any(found.x)
    found, _, used = solve(matrix, right, 0)
    assert used and not jnp.any(found.x)
