"""The regression against plain NumPy in float64, and its gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.regression.direct import LARGEST_RESIDUAL, least_ridge
from frepo_scale.regression.loss import half_squared_errors, label_margins
from frepo_scale.regression.ridge import RidgeConfig, adjoint, ridge_weights, solve

FORMS = ("dual", "primal")


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def draw(rows, targets, dim, classes, seed):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(targets, dim)),
        rng.normal(size=(rows, dim)),
        rng.normal(size=(rows, classes)),
        rng.normal(size=(targets, classes)),
    )


def numpy_loss(f_target, f, y, y_target, ridge):
    """The definition, written from docs/algorithm.md alone."""
    k = f @ f.T
    rho = ridge * np.trace(k) / len(f)
    pred = f_target @ f.T @ np.linalg.solve(k + rho * np.eye(len(f)), y)
    ordered = np.sort(y, axis=-1)
    margin = np.minimum(ordered[:, -1] - ordered[:, -2], 1 / y.shape[1])
    loss = 0.5 * ((pred - y_target) ** 2).sum(-1).mean() - margin.mean()
    return pred, loss


def ridge_predict(f_target, f, y, config):
    weights, _ = ridge_weights(f, y, len(f), config)
    return jnp.matmul(f_target, weights, precision="highest")


def mean_loss(pred, y, y_target):
    return jnp.mean(half_squared_errors(pred - y_target)) - jnp.mean(label_margins(y))


def our_loss(f_target, f, y, y_target, config):
    pred = ridge_predict(f_target, f, y, config)
    return mean_loss(pred, y, y_target)


shapes = st.tuples(
    st.integers(1, 9), st.integers(1, 7), st.integers(1, 9), st.integers(2, 5), st.integers(0, 999)
)


@settings(max_examples=12, deadline=None)
@given(shapes, st.sampled_from(FORMS), st.sampled_from([1e-6, 1e-3, 1e-1]))
def test_prediction_and_loss_equal_numpy(shape, form, ridge):
    f_target, f, y, y_target = draw(*shape)
    config = RidgeConfig(ridge, form)
    pred, loss = numpy_loss(f_target, f, y, y_target, ridge)
    # At ridge 1e-6 float64 itself keeps about nine digits of a singular Gram matrix.
    np.testing.assert_allclose(
        ridge_predict(jnp.asarray(f_target), jnp.asarray(f), jnp.asarray(y), config),
        pred,
        rtol=1e-6,
        atol=1e-7 * np.abs(pred).max(),
    )
    ours = our_loss(*map(jnp.asarray, (f_target, f, y, y_target)), config)
    np.testing.assert_allclose(ours, loss, rtol=1e-6)


@settings(max_examples=12, deadline=None)
@given(shapes, st.sampled_from(FORMS))
def test_gradient_equals_finite_differences(shape, form):
    f_target, f, y, y_target = draw(*shape)
    ridge = 1e-2
    config = RidgeConfig(ridge, form)
    grad_f, grad_y = jax.grad(
        lambda f, y: our_loss(jnp.asarray(f_target), f, y, jnp.asarray(y_target), config), (0, 1)
    )(jnp.asarray(f), jnp.asarray(y))
    rng = np.random.default_rng(shape[-1] + 1)
    df, dy = rng.normal(size=f.shape), rng.normal(size=y.shape)
    h = 1e-6
    ahead = numpy_loss(f_target, f + h * df, y + h * dy, y_target, ridge)[1]
    behind = numpy_loss(f_target, f - h * df, y - h * dy, y_target, ridge)[1]
    ours = float((grad_f * df).sum() + (grad_y * dy).sum())
    size = float(jnp.abs(grad_f * df).sum() + jnp.abs(grad_y * dy).sum())
    assert abs((ahead - behind) / (2 * h) - ours) <= 1e-6 * max(size, 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_differentiation_through_the_solve(form):
    """The hand-written backward pass against JAX's own, rho's dependence on F included."""
    f_target, f, y, y_target = map(jnp.asarray, draw(6, 5, 7, 3, 0))

    def plain(f, y):
        k = f @ f.T
        k += 1e-3 * jnp.trace(k) / len(f) * jnp.eye(len(f))
        return mean_loss(f_target @ f.T @ jnp.linalg.solve(k, y), y, y_target)

    ours = jax.grad(
        lambda f, y: our_loss(f_target, f, y, y_target, RidgeConfig(1e-3, form)), (0, 1)
    )
    for mine, theirs in zip(ours(f, y), jax.grad(plain, (0, 1))(f, y), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(shapes)
def test_dual_equals_primal(shape):
    _, f, y, _ = map(jnp.asarray, draw(*shape))
    dual, primal = (ridge_weights(f, y, len(f), RidgeConfig(1e-2, form))[0] for form in FORMS)
    np.testing.assert_allclose(dual, primal, rtol=1e-8, atol=1e-10)


@settings(max_examples=4, deadline=None)
@given(shapes, st.sampled_from(FORMS))
def test_the_blocked_factorisation_gives_the_same_value_and_gradient(shape, form):
    f_target, f, y, y_target = map(jnp.asarray, draw(*shape))
    library = RidgeConfig(1e-2, form)
    blocked = RidgeConfig(1e-2, form, factorisation="blocked", block=4)
    found = [
        jax.value_and_grad(lambda f, c=config: our_loss(f_target, f, y, y_target, c))(f)
        for config in (library, blocked)
    ]
    for theirs, ours in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def test_float32_features_are_solved_in_float64():
    """With cond(K) near 1e9 a float32 solve has no digit left; the answer must still be right."""
    with jax.enable_x64(False):
        rng = np.random.default_rng(0)
        base = rng.normal(size=(40, 64))
        f = (base[rng.integers(0, 8, 40)] + 1e-3 * base).astype(np.float32)  # near duplicates
        y = rng.normal(size=(40, 3)).astype(np.float32)
        f_target = rng.normal(size=(10, 64)).astype(np.float32)
        truth, _ = numpy_loss(*(a.astype(np.float64) for a in (f_target, f, y)), 0.0, 1e-7)
        ours = jax.jit(lambda *a: ridge_predict(*a, RidgeConfig(1e-7)))(f_target, f, y)
        assert ours.dtype == jnp.float32
        assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()
        grad = jax.grad(lambda f: jnp.sum(ridge_predict(f_target, f, y, RidgeConfig(1e-7)) ** 2))
        assert grad(jnp.asarray(f)).dtype == jnp.float32


def test_float32_precision_can_be_asked_for():
    with jax.enable_x64(False):
        f_target, f, y, _ = (a.astype(np.float32) for a in draw(6, 5, 7, 3, 0))
        config = RidgeConfig(1e-2, precision="float32")
        text = jax.jit(lambda *a: ridge_predict(*a, config)).lower(f_target, f, y).as_text()
        assert "f64" not in text
        truth, _ = numpy_loss(*(a.astype(np.float64) for a in (f_target, f, y)), 0.0, 1e-2)
        np.testing.assert_allclose(
            ridge_predict(f_target, f, y, config), truth, rtol=2e-4, atol=1e-4
        )


def test_auto_form_takes_the_smaller_factorisation():
    assert RidgeConfig().is_dual(8, 8)
    assert not RidgeConfig().is_dual(9, 8)
    assert RidgeConfig(form="dual").is_dual(9, 8)


def test_losses_by_hand():
    y = jnp.array([[0.9, -0.1, -0.1], [0.2, 0.1, 0.0], [0.1, 0.1, 0.0]])
    np.testing.assert_allclose(label_margins(y), [1 / 3, 0.1, 0.0], rtol=1e-12)
    np.testing.assert_allclose(
        half_squared_errors(jnp.array([[3.0, 4.0], [0.0, 1.0]])), [12.5, 0.5]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"ridge": -1.0},
        {"ridge": float("nan")},
        {"form": "both"},
        {"precision": "half"},
        {"block": 0},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        RidgeConfig(**wrong)


@pytest.mark.parametrize("form", FORMS)
def test_the_guard_raises_a_ridge_that_cannot_be_solved(form):
    """Equal rows and no ridge: singular. The answer solves the system of the ridge it says."""
    with jax.enable_x64(False):
        rng = np.random.default_rng(0)
        f = np.repeat(rng.normal(size=(3, 6)), 4, axis=0).astype(np.float32)
        y = rng.normal(size=(12, 2)).astype(np.float32)
        solution = solve(jnp.asarray(f), jnp.asarray(y), 12, RidgeConfig(0.0, form, "float32"))
        assert bool(solution.raised)
        used = float(solution.ridge)
        assert used > 0
        wide, right = f.astype(np.float64), f.T.astype(np.float64) @ y
        matrix = wide.T @ wide + used * np.sum(wide**2) / 12 * np.eye(6)
        residual = matrix @ np.asarray(solution.w_dK, np.float64) - right
        assert np.linalg.norm(residual) <= 2 * LARGEST_RESIDUAL * np.linalg.norm(right)
        df, dy, _ = adjoint(solution, jnp.ones((6, 2)), 12, RidgeConfig(0.0, form, "float32"))
        assert np.isfinite(df).all() and np.isfinite(dy).all()


def test_the_guard_leaves_a_good_ridge_alone():
    _, f, y, _ = map(jnp.asarray, draw(6, 5, 7, 3, 0))
    solution = solve(f, y, len(f), RidgeConfig(1e-6))
    assert not bool(solution.raised)
    assert float(solution.ridge) == 1e-6


def test_float64_raises_a_ridge_below_its_error_bound():
    """The condition number of R equal rows is R / ridge; the answer would have no right digit."""
    _, f, y, _ = map(jnp.asarray, draw(6, 5, 7, 3, 0))
    f = jnp.tile(f[:1], (6, 1))
    for ridge, raised in ((0.0, True), (0.5 * least_ridge(6), True), (2 * least_ridge(6), False)):
        weights, guard = ridge_weights(f, y, 6, RidgeConfig(ridge))
        assert bool(guard.raised) == raised
        assert float(guard.ridge) == (least_ridge(6) if raised else ridge)
        # One direction: W = f (mean of y) / (f f (1 + ridge / R)).
        exact = jnp.outer(f[0], y.mean(0)) / jnp.sum(f[0] ** 2)
        np.testing.assert_allclose(weights, exact, rtol=1e-3, atol=1e-3 * jnp.abs(exact).max())


def test_a_raised_ridge_is_a_constant_in_the_gradient():
    _, f, y, _ = map(jnp.asarray, draw(6, 5, 7, 3, 0))
    config = RidgeConfig(1e-2)
    solution = solve(f, y, len(f), config)
    slope = jnp.ones_like(solution.w_dK)
    kept = solution._replace(raised=jnp.bool_(True))
    with_rho, _, _ = adjoint(solution, slope, len(f), config)
    without, _, _ = adjoint(kept, slope, len(f), config)
    rho = 1e-2 * jnp.sum(f**2) / len(f)

    def fixed(f):
        return jnp.sum(f.T @ jnp.linalg.solve(f @ f.T + rho * jnp.eye(len(f)), y))

    np.testing.assert_allclose(without, jax.grad(fixed)(f), rtol=1e-9, atol=1e-12)
    assert not np.allclose(with_rho, without)


def test_rows_of_zeros_change_nothing():
    _, f, y, _ = map(jnp.asarray, draw(6, 5, 7, 3, 0))
    padded = [jnp.concatenate([x, jnp.zeros_like(x[:3])]) for x in (f, y)]
    for form in FORMS:
        config = RidgeConfig(1e-3, form)
        plain, wide = solve(f, y, len(f), config), solve(*padded, len(f), config)
        np.testing.assert_allclose(wide.w_dK, plain.w_dK, rtol=1e-10, atol=1e-12)
