"""Kernel ridge regression on features (ALGORITHM.md section 4, step 3).

The regression is ill-conditioned by design: with the paper's ridge of 1e-6 the condition number of
the regularised Gram matrix reaches 1e6 and more, so float32 loses most of its digits between the
features and the prediction. Where the hardware has float64 (CPU, GPU) the regression runs in it,
whatever the convolutions use; TPUs have none and use float32 at the highest matrix precision.

Forward and backward share one Cholesky factor through a `custom_vjp`: differentiating through the
factorisation itself is several times slower (STACK.md section 6).

Legend: R rows of the regression (N, or 2N with flip), B target batch, d features, K classes.
`f_Rd` synthetic features, `f_Bd` target features, `y_RK` synthetic labels, `w_dK` the solution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from frepo_scale.core.checks import check_choice, check_float

FORMS = ("auto", "dual", "primal")
PRECISIONS = ("auto", "float32", "float64")


@dataclass(frozen=True)
class RidgeConfig:
    """How the regression is regularised and solved.

    Attributes:
      ridge: the multiple of tr(K)/R added to the diagonal; the paper's is 1e-6.
      form: "dual" factorises R x R, "primal" d x d; "auto" takes the smaller.
      precision: of Gram matrix and solve; "auto" is float64 where the device has it.
    """

    ridge: float = 1e-6
    form: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuses a negative ridge, an unknown form and an unknown precision."""
        check_float("RIDGE", self.ridge, low=0.0)
        check_choice("Ridge.form", self.form, FORMS)
        check_choice("Ridge.precision", self.precision, PRECISIONS)

    def is_dual(self, rows: int, dim: int) -> bool:
        """Whether `rows` x `rows` is factorised, for features of dimension `dim`."""
        return self.form == "dual" or (self.form == "auto" and rows <= dim)

    def in_float64(self) -> bool:
        """Whether the regression runs in float64 on the default device."""
        if self.precision == "auto":
            return jax.default_backend() in ("cpu", "gpu")
        return self.precision == "float64"


class _Solution(NamedTuple):
    """What the backward pass needs, in the precision of the solve."""

    f_Rd: jax.Array
    y_RK: jax.Array
    alpha_RK: jax.Array  # (K + rho I)^-1 Y; empty in the primal form
    w_dK: jax.Array
    factor: jax.Array  # lower Cholesky factor, (R, R) or (d, d)


@contextmanager
def _arithmetic(config: RidgeConfig) -> Iterator[None]:
    """Float64 where the configuration says so, and never less than full float32 products.

    Entered by the forward and the backward half each: outside of it JAX would silently cut
    float64 values to float32 (STACK.md section 0, item 5).
    """
    if config.in_float64():
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


def _rho(f_Rd: jax.Array, ridge: float) -> jax.Array:
    return ridge * jnp.sum(jnp.square(f_Rd)) / len(f_Rd)  # tr(F Fᵀ) is the sum of squares


def regularised_gram(f_Rd: jax.Array, ridge: float) -> jax.Array:
    """`F Fᵀ + rho I` (R, R) with `rho = ridge * tr(F Fᵀ) / R`, in the precision of F."""
    k_RR = jnp.matmul(f_Rd, f_Rd.T, precision="highest")
    return k_RR + _rho(f_Rd, ridge) * jnp.eye(len(k_RR), dtype=k_RR.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def ridge_weights(f_Rd: jax.Array, y_RK: jax.Array, config: RidgeConfig) -> jax.Array:
    """The linear map W (d, K) with `F_t W` = the ridge prediction for target features `F_t`.

    Dual: `W = FᵀA, (F Fᵀ + rho I) A = Y`; primal: `(FᵀF + rho I) W = FᵀY`. The two are equal
    (push-through identity) with the same `rho = ridge * tr(F Fᵀ) / R`, which is a function of F
    and carries gradient. Going through W instead of the kernel `F_t Fᵀ` gives the same prediction
    without a (B, R) matrix. First derivatives only.

    Args:
      f_Rd: (R, d) float32 or float64.
      y_RK: (R, K), same dtype.
      config: ridge, form and precision.

    Returns:
      (d, K) in the dtype of `f_Rd`.
    """
    return _solve(f_Rd, y_RK, config)[0]


def _solve(
    f_Rd: jax.Array,
    y_RK: jax.Array,
    config: RidgeConfig,
) -> tuple[jax.Array, _Solution]:
    given = f_Rd.dtype
    with _arithmetic(config):
        if config.in_float64():
            f_Rd, y_RK = f_Rd.astype(jnp.float64), y_RK.astype(jnp.float64)
        rows, dim = f_Rd.shape
        if config.is_dual(rows, dim):
            factor, _ = jsl.cho_factor(regularised_gram(f_Rd, config.ridge), lower=True)
            alpha_RK = jsl.cho_solve((factor, True), y_RK)
            w_dK = f_Rd.T @ alpha_RK
        else:
            rho = _rho(f_Rd, config.ridge)
            g_dd = f_Rd.T @ f_Rd + rho * jnp.eye(dim, dtype=f_Rd.dtype)
            factor, _ = jsl.cho_factor(g_dd, lower=True)
            w_dK = jsl.cho_solve((factor, True), f_Rd.T @ y_RK)
            alpha_RK = jnp.zeros((0, 0), f_Rd.dtype)
        return w_dK.astype(given), _Solution(f_Rd, y_RK, alpha_RK, w_dK, factor)


def _solve_backward(
    config: RidgeConfig, solution: _Solution, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients by the adjoint solve: `B = (K + rho I)^-1 F dW` (dual), `V = G^-1 dW` (primal)."""
    f_Rd, y_RK, alpha_RK, w_dK, factor = solution
    given = cotangent.dtype
    with _arithmetic(config):
        dw_dK = cotangent.astype(f_Rd.dtype)
        rows, dim = f_Rd.shape
        if config.is_dual(rows, dim):
            b_RK = jsl.cho_solve((factor, True), f_Rd @ dw_dK)
            df_Rd = alpha_RK @ (dw_dK - f_Rd.T @ b_RK).T - b_RK @ w_dK.T
            drho = -jnp.sum(b_RK * alpha_RK)
            dy_RK = b_RK
        else:
            v_dK = jsl.cho_solve((factor, True), dw_dK)
            dy_RK = f_Rd @ v_dK
            df_Rd = (y_RK - f_Rd @ w_dK) @ v_dK.T - dy_RK @ w_dK.T
            drho = -jnp.sum(v_dK * w_dK)
        df_Rd = df_Rd + drho * (2 * config.ridge / rows) * f_Rd
        return df_Rd.astype(given), dy_RK.astype(given)


ridge_weights.defvjp(_solve, _solve_backward)


def ridge_predict(
    f_Bd: jax.Array,
    f_Rd: jax.Array,
    y_RK: jax.Array,
    config: RidgeConfig,
) -> jax.Array:
    """Predictions (B, K) for target features: `F_t F_sᵀ (F_s F_sᵀ + rho I)^-1 Y_s`."""
    return jnp.matmul(f_Bd, ridge_weights(f_Rd, y_RK, config), precision="highest")
