"""Kernel ridge regression on features (ALGORITHM.md section 4, step 3).

The regression is ill-conditioned by design: with the paper's ridge of 1e-6 the condition number of
the regularised Gram matrix reaches 1e6 and more, so float32 loses most of its digits between the
features and the prediction. Where the hardware has float64 (CPU, GPU) the regression runs in it,
whatever the convolutions use; TPUs have none and use float32 at the highest matrix precision.

Value and gradient share one Cholesky factor: `ridge_weights` is a function with its own backward
pass, whose halves are `solve` and `adjoint` (differentiating through a factorisation is several
times slower, STACK.md section 6). Both work on rows spread over a mesh axis, inside `shard_map`:
what crosses the axis is the features (dual form) or d x d and d x K sums (primal form), and where
the factorisation is spread too, its block rows; never images or activations.

Legend: R rows of the regression (N, or 2N with flip), r of them on this device (r = R without an
axis), B target batch, d features, K classes. `f_rd` synthetic features, `y_rK` synthetic labels,
`w_dK` the solution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from frepo_scale.core.settings import check_settings, setting
from frepo_scale.regression.cholesky import BLOCK, Spread
from frepo_scale.regression.factorisation import System

FORMS = ("auto", "dual", "primal")
PRECISIONS = ("auto", "float32", "float64")
FACTORISATIONS = ("auto", "library", "blocked")
LARGEST_RESIDUAL = 1e-3
_RAISE = 10.0
_MOST_RAISES = 8


@dataclass(frozen=True)
class RidgeConfig:
    """How the regression is regularised and solved."""

    ridge: float = setting(
        1e-6, "RIDGE", "multiple of tr(K)/rows added to the diagonal of the Gram matrix K", low=0
    )
    form: str = setting(
        "auto",
        "",
        "dual factorises rows x rows, primal features x features; auto: the smaller one",
        choices=FORMS,
    )
    precision: str = setting(
        "auto",
        "",
        "of Gram matrix and solve; auto: float64 where the device has it",
        choices=PRECISIONS,
    )
    factorisation: str = setting(
        "auto",
        "",
        "library: of LAPACK or the accelerator; blocked: our own, which compiles fast on TPUs",
        choices=FACTORISATIONS,
        operational=True,
    )
    block: int = setting(
        BLOCK, "", "rows of a block of the blocked factorisation", low=1, operational=True
    )
    distribute_above: int = setting(
        4096,
        "",
        "unknowns above which the blocked factorisation is spread over the mesh axis",
        low=0,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)

    def resolved(self, platform: str) -> "RidgeConfig":
        """With "auto" replaced by what is right on a platform: "cpu", "gpu" or "tpu"."""
        library = platform in ("cpu", "gpu", "cuda", "rocm")
        precision, factorisation = self.precision, self.factorisation
        if precision == "auto":
            precision = "float64" if library else "float32"
        if factorisation == "auto":
            factorisation = "library" if library else "blocked"
        return replace(self, precision=precision, factorisation=factorisation)

    def is_dual(self, rows: int, dim: int) -> bool:
        """Whether `rows` x `rows` is factorised, for features of dimension `dim`."""
        return self.form == "dual" or (self.form == "auto" and rows <= dim)

    def system(self, unknowns: int, axis: str | None) -> System:
        """How a system of that many unknowns is solved; to be called inside `shard_map`."""
        if self.factorisation == "library":
            return System(unknowns, None)
        if axis is not None and unknowns > self.distribute_above:
            return System(unknowns, Spread(axis, jax.lax.axis_size(axis), self.block))
        return System(unknowns, Spread(block=self.block))


class Solution(NamedTuple):
    """The solved regression, in the precision of the solve.

    Attributes:
      w_dK: the linear map: predictions are `F_t W`.
      f_rd: this device's features.
      y_rK: this device's labels.
      alpha_RK: `(K + rho I)^-1 Y` of all rows; empty in the primal form.
      factor: Cholesky factor, as `System.factorise` gives it.
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
    if config.precision == "float64":
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
    config = config.resolved(jax.default_backend())
    with _arithmetic(config):
        dual = config.is_dual(rows, f_rd.shape[1])
        # Gathered before they are widened: half the bytes cross the axis.
        f_Rd, y_RK = (_gather(f_rd, axis), _gather(y_rK, axis)) if dual else (f_rd, y_rK)
        if config.precision == "float64":
            f_rd, y_rK, f_Rd, y_RK = (x.astype(jnp.float64) for x in (f_rd, y_rK, f_Rd, y_RK))
        dtype = f_rd.dtype
        if dual:
            system, right = config.system(len(f_Rd), axis), y_RK
            matrix = system.gram_of_rows(f_Rd)
        else:
            system, right = config.system(f_rd.shape[1], axis), _sum(f_rd.T @ y_rK, axis)
            matrix = system.gram_of_columns(f_rd, axis)
        unit = _sum(jnp.sum(jnp.square(f_rd)), axis) / rows

        Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

        def unsolved(carry: Carry) -> jax.Array:
            _, _, _, residual, tries = carry
            return ~(residual <= LARGEST_RESIDUAL) & (tries <= _MOST_RAISES)

        def attempt(carry: Carry) -> Carry:
            ridge, _, _, _, tries = carry
            raised = jnp.maximum(ridge, jnp.finfo(jnp.float32).eps) * _RAISE
            ridge = jnp.where(tries == 0, ridge, raised)
            regularised = system.shifted(matrix, ridge * unit)
            factor = system.factorise(regularised)
            x = system.solve(factor, right)
            return ridge, factor, x, system.residual(regularised, x, right), tries + 1

        # The first attempt is inside the loop, or the factorisation would be compiled twice.
        given, unknown = jnp.asarray(config.ridge, dtype), jnp.asarray(jnp.inf, dtype)
        factor = jax.eval_shape(system.factorise, matrix)
        start = (given, jnp.zeros(factor.shape, dtype), jnp.zeros_like(right), unknown)
        ridge, factor, x, _, tries = jax.lax.while_loop(unsolved, attempt, (*start, jnp.int32(0)))
        if dual:
            w_dK = _sum(f_rd.T @ _own(x, len(f_rd), axis), axis)
            alpha_RK = x
        else:
            w_dK, alpha_RK = x, jnp.zeros((0, 0), dtype)
        return Solution(w_dK, f_rd, y_rK, alpha_RK, factor, ridge, tries > 1)


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
    config = config.resolved(jax.default_backend())
    with _arithmetic(config):
        dw_dK = dw_dK.astype(f_rd.dtype)
        if config.is_dual(rows, f_rd.shape[1]):
            seen_RK = _gather(f_rd @ dw_dK, axis)
            b_RK = config.system(len(seen_RK), axis).solve(factor, seen_RK)
            b_rK, alpha_rK = (_own(x, len(f_rd), axis) for x in (b_RK, alpha_RK))
            df_rd = alpha_rK @ (dw_dK - _sum(f_rd.T @ b_rK, axis)).T - b_rK @ w_dK.T
            drho = -jnp.sum(b_RK * alpha_RK)
            dy_rK = b_rK
        else:
            v_dK = config.system(len(dw_dK), axis).solve(factor, dw_dK)
            dy_rK = f_rd @ v_dK
            df_rd = (y_rK - f_rd @ w_dK) @ v_dK.T - dy_rK @ w_dK.T
            drho = -jnp.sum(v_dK * w_dK)
        slope = jnp.where(raised, 0.0, drho * 2 * ridge / rows)
        df_rd = df_rd + slope * f_rd
        return df_rd.astype(given), dy_rK.astype(given)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def ridge_weights(
    f_rd: jax.Array, y_rK: jax.Array, rows: int, config: RidgeConfig, axis: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """`solve` as a function with first derivatives: (W (d, K) in the dtype of `f_rd`, raised).

    Inside `shard_map` its derivative takes the complete gradient with respect to W, the same on
    every device of the axis, to this device's rows.
    """
    solution = solve(f_rd, y_rK, rows, config, axis)
    return solution.w_dK.astype(f_rd.dtype), solution.raised


def _forward(
    f_rd: jax.Array, y_rK: jax.Array, rows: int, config: RidgeConfig, axis: str | None
) -> tuple[tuple[jax.Array, jax.Array], Solution]:
    solution = solve(f_rd, y_rK, rows, config, axis)
    return (solution.w_dK.astype(f_rd.dtype), solution.raised), solution


def _backward(
    rows: int, config: RidgeConfig, axis: str | None, solution: Solution, slopes: Any
) -> tuple[jax.Array, jax.Array]:
    return adjoint(solution, slopes[0], rows, config, axis)


ridge_weights.defvjp(_forward, _backward)
