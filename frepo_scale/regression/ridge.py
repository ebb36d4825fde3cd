"""Kernel ridge regression on features (ALGORITHM.md section 4, step 3).

The regression is ill-conditioned by design: with the paper's ridge of 1e-6 the condition number of
the regularised Gram matrix reaches 1e6 and more, so float32 loses most of its digits between the
features and the prediction. Where the hardware has float64 (CPU, GPU) the regression runs in it,
whatever the convolutions use; TPUs have none and use float32 at the highest matrix precision.

Value and gradient share one Cholesky factor: `solve` keeps it for `adjoint`, which is the backward
pass written out (differentiating through a factorisation is several times slower, STACK.md section
6). Both work on rows spread over a mesh axis, inside `shard_map`: what crosses the axis is the
features (dual form) or d x d and d x K sums (primal form), never images or activations.

Legend: R rows of the regression (N, or 2N with flip), r of them on this device (r = R without an
axis), B target batch, d features, K classes. `f_rd` synthetic features, `y_rK` synthetic labels,
`w_dK` the solution.
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
LARGEST_RESIDUAL = 1e-3
_RAISE = 10.0
_MOST_RAISES = 8


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


class Solution(NamedTuple):
    """The solved regression, in the precision of the solve.

    Attributes:
      w_dK: the linear map: predictions are `F_t W`.
      f_rd: this device's features.
      y_rK: this device's labels.
      alpha_RK: `(K + rho I)^-1 Y` of all rows; empty in the primal form.
      factor: lower Cholesky factor, (R, R) or (d, d).
      ridge: the ridge in force: the configured one unless the guard raised it.
      raised: whether the guard raised it (bool scalar).
    """

    w_dK: jax.Array
    f_rd: jax.Array
    y_rK: jax.Array
    alpha_RK: jax.Array
    factor: jax.Array
    ridge: jax.Array
    raised: jax.Array


@contextmanager
def _arithmetic(config: RidgeConfig) -> Iterator[None]:
    """Float64 where the configuration says so, and never less than full float32 products.

    Entered by each half: outside of it JAX would silently cut float64 values to float32
    (STACK.md section 0, item 5).
    """
    if config.in_float64():
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


def _sum(x: jax.Array, axis: str | None) -> jax.Array:
    return x if axis is None else jax.lax.psum(x, axis)


def _gather(x: jax.Array, axis: str | None) -> jax.Array:
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def _own(x: jax.Array, rows: int, axis: str | None) -> jax.Array:
    """This device's `rows` of an array that holds all rows."""
    if axis is None:
        return x
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * rows, rows)


def regularised_gram(f_Rd: jax.Array, ridge: float) -> jax.Array:
    """`F Fᵀ + rho I` (R, R) with `rho = ridge * tr(F Fᵀ) / R`, in the precision of F."""
    k_RR = jnp.matmul(f_Rd, f_Rd.T, precision="highest")
    rho = ridge * jnp.trace(k_RR) / len(f_Rd)
    return k_RR + rho * jnp.eye(len(k_RR), dtype=k_RR.dtype)


def solve(
    f_rd: jax.Array, y_rK: jax.Array, rows: int, config: RidgeConfig, axis: str | None = None
) -> Solution:
    """The linear map W (d, K) with `F_t W` = the ridge prediction for target features `F_t`.

    Dual: `W = FᵀA, (F Fᵀ + rho I) A = Y`; primal: `(FᵀF + rho I) W = FᵀY`. The two are equal
    (push-through identity) with the same `rho = ridge * tr(F Fᵀ) / R`. Going through W instead of
    the kernel `F_t Fᵀ` gives the same prediction without a (B, R) matrix.

    The guard: where the relative residual of the solve is above `LARGEST_RESIDUAL` or not finite,
    the ridge is raised tenfold until it is not (DESIGN.md section 4). A wrong but finite answer is
    thereby noticed as much as NaN.

    Args:
      f_rd: this device's rows, (r, d) float32 or float64; rows of zeros change nothing.
      y_rK: (r, K), zero where `f_rd` is padding.
      rows: R, without padding.
      config: ridge, form and precision.
      axis: the mesh axis rows are spread over, None if all are here.
    """
    with _arithmetic(config):
        # Gathered before they are widened: half the bytes cross the axis.
        dual = config.is_dual(rows, f_rd.shape[1])
        f_Rd, y_RK = (_gather(f_rd, axis), _gather(y_rK, axis)) if dual else (f_rd, y_rK)
        if config.in_float64():
            f_rd, y_rK, f_Rd, y_RK = (x.astype(jnp.float64) for x in (f_rd, y_rK, f_Rd, y_RK))
        dtype = f_rd.dtype
        if dual:
            matrix = f_Rd @ f_Rd.T
            right = y_RK
            trace = jnp.trace(matrix)
        else:
            matrix = _sum(f_rd.T @ f_rd, axis)
            right = _sum(f_rd.T @ y_rK, axis)
            trace = jnp.trace(matrix)
        unit = trace / rows * jnp.eye(len(matrix), dtype=dtype)
        scale = jnp.linalg.norm(right) + jnp.finfo(dtype).tiny

        def attempt(ridge: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            regularised = matrix + ridge * unit
            factor, _ = jsl.cho_factor(regularised, lower=True)
            x = jsl.cho_solve((factor, True), right)
            return factor, x, jnp.linalg.norm(regularised @ x - right) / scale

        Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

        def unsolved(carry: Carry) -> jax.Array:
            _, _, _, residual, tries = carry
            return ~(residual <= LARGEST_RESIDUAL) & (tries < _MOST_RAISES)

        def raise_ridge(carry: Carry) -> Carry:
            ridge, _, _, _, tries = carry
            ridge = jnp.maximum(ridge, jnp.finfo(jnp.float32).eps) * _RAISE
            return ridge, *attempt(ridge), tries + 1

        given = jnp.asarray(config.ridge, dtype)
        ridge, factor, x, _, tries = jax.lax.while_loop(
            unsolved, raise_ridge, (given, *attempt(given), jnp.int32(0))
        )
        if dual:
            w_dK = _sum(f_rd.T @ _own(x, len(f_rd), axis), axis)
            alpha_RK = x
        else:
            w_dK, alpha_RK = x, jnp.zeros((0, 0), dtype)
        return Solution(w_dK, f_rd, y_rK, alpha_RK, factor, ridge, tries > 0)


def adjoint(
    solution: Solution, dw_dK: jax.Array, rows: int, config: RidgeConfig, axis: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Gradients with respect to this device's features (r, d) and labels (r, K).

    One more solve with the factor at hand: `B = (K + rho I)^-1 F dW` (dual) or
    `V = (FᵀF + rho I)^-1 dW` (primal). rho's dependence on F is included, unless the guard raised
    the ridge: then it is a constant.

    Args:
      solution: of `solve`, same rows, config and axis.
      dw_dK: the gradient with respect to W, complete (the same on every device of the axis).
      rows: R, without padding.
      config: ridge, form and precision.
      axis: the mesh axis rows are spread over.

    Returns:
      In the dtype of `dw_dK`.
    """
    given = dw_dK.dtype
    w_dK, f_rd, y_rK, alpha_RK, factor, ridge, raised = solution
    with _arithmetic(config):
        dw_dK = dw_dK.astype(f_rd.dtype)
        if config.is_dual(rows, f_rd.shape[1]):
            b_RK = jsl.cho_solve((factor, True), _gather(f_rd @ dw_dK, axis))
            b_rK, alpha_rK = (_own(x, len(f_rd), axis) for x in (b_RK, alpha_RK))
            df_rd = alpha_rK @ (dw_dK - _sum(f_rd.T @ b_rK, axis)).T - b_rK @ w_dK.T
            drho = -jnp.sum(b_RK * alpha_RK)
            dy_rK = b_rK
        else:
            v_dK = jsl.cho_solve((factor, True), dw_dK)
            dy_rK = f_rd @ v_dK
            df_rd = (y_rK - f_rd @ w_dK) @ v_dK.T - dy_rK @ w_dK.T
            drho = -jnp.sum(v_dK * w_dK)
        slope = jnp.where(raised, 0.0, drho * 2 * ridge / rows)
        df_rd = df_rd + slope * f_rd
        return df_rd.astype(given), dy_rK.astype(given)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def ridge_weights(f_Rd: jax.Array, y_RK: jax.Array, config: RidgeConfig) -> jax.Array:
    """`solve` on one device as a differentiable function: W (d, K) in the dtype of `f_Rd`.

    First derivatives only.
    """
    return solve(f_Rd, y_RK, len(f_Rd), config).w_dK.astype(f_Rd.dtype)


def _forward(f_Rd: jax.Array, y_RK: jax.Array, config: RidgeConfig) -> tuple[jax.Array, Solution]:
    solution = solve(f_Rd, y_RK, len(f_Rd), config)
    return solution.w_dK.astype(f_Rd.dtype), solution


def _backward(
    config: RidgeConfig, solution: Solution, dw_dK: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return adjoint(solution, dw_dK, len(solution.f_rd), config)


ridge_weights.defvjp(_forward, _backward)


def ridge_predict(
    f_Bd: jax.Array, f_Rd: jax.Array, y_RK: jax.Array, config: RidgeConfig
) -> jax.Array:
    """Predictions (B, K) for target features: `F_t F_sᵀ (F_s F_sᵀ + rho I)^-1 Y_s`."""
    return jnp.matmul(f_Bd, ridge_weights(f_Rd, y_RK, config), precision="highest")
