"""The float32 solver: its error bound, its stops, and the guard that acts on them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.regression.conjugate import TARGET, Products, minimise
from frepo_scale.regression.ridge import RidgeConfig, adjoint, solve

ROWS, DIM, CLASSES = 24, 16, 3


def problem(condition, seed):
    """G with singular values from 1 down to 1 / condition; e; c: float64."""
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.normal(size=(ROWS, DIM)))
    v, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    g = (u * np.geomspace(1, 1 / condition, DIM)) @ v.T
    return g, rng.normal(size=(DIM, CLASSES)), rng.normal(size=(ROWS, CLASSES))


@cache
def minimiser(longest=100):
    @jax.jit
    def found(g, factor, e, c, rho, shift):
        with jax.default_matmul_precision("highest"):
            products = Products(
                forward=lambda x: g @ x,
                transpose=lambda v: g.T @ v,
                precondition=lambda r: jax.scipy.linalg.cho_solve((factor, True), r),
                squares=lambda v: jnp.sum(jnp.square(v), 0),
                agree=lambda x: x,
            )
            return minimise(products, e, c, rho, shift, longest)

    return found


def solved(g, e, c, rho, shift, longest=100):
    """In float32, with the exact preconditioner; then the true x and v in float64."""
    factor = np.linalg.cholesky(g.T @ g + shift * np.eye(DIM))
    arguments = [np.float32(x) for x in (g, factor, e, c, rho, shift)]
    g, e, c = (np.float64(x) for x in (arguments[0], arguments[2], arguments[3]))
    x = np.linalg.solve(g.T @ g + np.float64(arguments[4]) * np.eye(DIM), g.T @ c + e)
    return minimiser(longest)(*arguments), x, g @ x - c


def relative(found, x, v):
    """The error that is bounded: of v and of x, the largest of the columns."""
    pairs = ((found.v_mK, v), (found.x_nK, x))
    return max((np.linalg.norm(a - b, axis=0) / np.linalg.norm(b, axis=0)).max() for a, b in pairs)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 3),
    st.floats(-6, -1),
    st.floats(0, 3),
    st.sampled_from(["value", "gradient", "both"]),
    st.integers(0, 99),
)
def test_the_bound_holds_and_the_target_is_reached(condition, rho, ratio, kind, seed):
    """Preconditioners up to 1000 times the ridge. Rounding may add to the bound: TARGET at most."""
    g, e, c = problem(10**condition, seed)
    e, c = e * (kind != "value"), c * (kind != "gradient")
    rho = 10**rho
    found, x, v = solved(g, e, c, rho, rho * 10**ratio)
    assert found.error <= 10 * TARGET
    assert relative(found, x, v) <= 2 * found.error + TARGET


def test_the_bound_holds_before_convergence_and_is_not_vacuous():
    """Cut off after few iterations, where the error is large: within a factor of 5."""
    for longest in (3, 4, 5):
        g, e, c = problem(10, 0)
        found, x, v = solved(g, 0 * e, c, 1e-2, 5e-2, longest)
        assert found.error > 10 * TARGET
        assert relative(found, x, v) <= 1.01 * found.error <= 5 * relative(found, x, v)


def test_columns_of_zeros_are_solved_by_zeros():
    g, e, c = problem(10, 0)
    c[:, 1] = 0
    found, x, _ = solved(g, 0 * e, c, 1e-3, 1e-3)
    assert found.error <= TARGET
    assert not np.any(found.x_nK[:, 1])
    np.testing.assert_allclose(found.x_nK, x, rtol=1e-3, atol=1e-4)


def test_without_a_factor_there_is_no_bound():
    g, e, c = problem(10, 0)
    wrong = np.full((DIM, DIM), np.nan)
    arguments = [np.float32(x) for x in (g, wrong, 0 * e, c, 1e-3, 1e-3)]
    assert np.isinf(minimiser()(*arguments).error)


def features(rows, seed=0, dim=40):
    """Positive, strongly correlated features, as those of images are."""
    rng = np.random.default_rng(seed)
    base = np.maximum(rng.normal(size=(rows, 6)) @ rng.normal(size=(6, dim)) + 1, 0)
    return (base + 1e-3 * rng.normal(size=(rows, dim))).astype(np.float32)


def value_and_gradient(f, y, dw, config):
    solution = solve(jnp.asarray(f), jnp.asarray(y), len(f), config)
    return solution, adjoint(solution, jnp.asarray(dw), len(f), config)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_gradient_does_not_depend_on_its_scale(form, scale):
    """Squares of 1e-12 / K would leave the range of float32 within the iteration."""
    f, rng = features(30), np.random.default_rng(1)
    y, dw = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
    config = RidgeConfig(1e-4, form, "float32")
    _, (df, dy) = value_and_gradient(f, y, dw, config)
    _, (df_scaled, dy_scaled) = value_and_gradient(f, y, np.float32(scale) * dw, config)
    for ours, theirs in ((df, df_scaled), (dy, dy_scaled)):
        np.testing.assert_allclose(ours, theirs / scale, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize("form", ["dual", "primal"])
def test_a_ridge_out_of_reach_is_raised_to_one_that_is_accurate(form):
    """A ridge of 1e-12 is below what float32 can bound for 60 rows of rank about 6."""
    f = features(60, dim=60)
    y = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    dw = np.ones((60, 3), np.float32)
    solution, (df, dy) = value_and_gradient(f, y, dw, RidgeConfig(1e-12, form, "float32"))
    assert bool(solution.raised)
    used = float(solution.ridge)
    assert 1e-12 < used < 1e-5
    exact, (df_exact, dy_exact) = value_and_gradient(f, y, dw, RidgeConfig(used, form, "float64"))
    for pair in ((solution.w_dK, exact.w_dK), (dy, dy_exact)):
        ours, theirs = map(np.asarray, pair)
        assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()
    assert np.isfinite(df).all() and df_exact.shape == df.shape


def test_features_of_zeros_give_no_number_and_are_reported():
    f, y = jnp.zeros((5, 4)), jnp.ones((5, 2))
    solution = solve(f, y, 5, RidgeConfig(1e-3, "dual", "float32"))
    assert bool(solution.raised)
    assert np.isnan(solution.w_dK).all()


@pytest.mark.parametrize(
    ("rows", "smallest", "raised"), [(64, 1e-5, False), (160, 1e-7, True), (320, 1e-8, True)]
)
def test_an_unreachable_accuracy_raises_the_ridge_and_is_reached_there(rows, smallest, raised):
    """Features with singular values from 1 down to `smallest`, ridge 1e-6, against float64."""
    rng, dim = np.random.default_rng(0), 64
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (rows, dim))
    features = ((u[:, :dim] * np.geomspace(1, smallest, dim)) @ v).astype(np.float32)
    labels = rng.normal(size=(rows, 5)).astype(np.float32)
    config = RidgeConfig(1e-6, precision="float32")
    found = solve(jnp.asarray(features), jnp.asarray(labels), rows, config)
    assert bool(found.raised) == raised
    assert (float(found.ridge) > 1e-6 * (1 + 1e-6)) == raised
    f, y = features.astype(np.float64), labels.astype(np.float64)
    gram = f @ f.T
    rho = float(found.ridge) * np.trace(gram) / rows
    prediction = gram @ np.linalg.solve(gram + rho * np.eye(rows), y)
    error = np.linalg.norm(f @ np.float64(found.w_dK) - prediction) / np.linalg.norm(prediction)
    assert error < 1e-3  # at most 7e-5 was seen
