"""Kernel ridge regression on features (docs/algorithm.md section 4, step 3).

The regression is ill-conditioned by design: with the paper's ridge of 1e-6 the condition number of
the regularised Gram matrix reaches 1e8. On devices with fast float64 the regression runs in it,
whatever the convolutions use (`regression.direct`); elsewhere it runs in float32 at the highest
matrix precision, iteratively (`regression.iterative`). Both meet the same error bounds; where they
cannot, a guard raises the ridge and reports it.

Value and gradient share one Cholesky factor: `ridge_weights` is a function with its own backward
pass, whose halves are `solve` and `adjoint` (differentiating through a factorisation is several
times slower). Both work on rows spread over a mesh axis, inside `shard_map`: what crosses the axis
is the features (dual form) or d x d and d x K sums (primal form), and where the factorisation is
spread too, its block rows; never images or activations.

Legend: R rows of the regression (N, or 2N with flip), r of them on this device (r = R without an
axis), B target batch, d features, K classes. `f_rd` features of the synthetic images, `y_rK` their
labels, `w_dK` the solution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from frepo_scale.core.settings import check_settings, setting
from frepo_scale.regression import direct, iterative
from frepo_scale.regression.cholesky import BLOCK, Spread, block_of_little_padding
from frepo_scale.regression.factorisation import System
from frepo_scale.regression.precision import has_fast_float64
from frepo_scale.regression.problem import RidgeProblem, Rows, Solution

FORMS = ("auto", "dual", "primal")
PRECISIONS = ("auto", "float32", "float64")
FACTORISATIONS = ("auto", "library", "blocked")
SCALES = ("relative", "absolute")


@dataclass(frozen=True)
class RidgeConfig:
    """How the regression is regularised and solved."""

    ridge: float = setting(
        1e-6, "RIDGE", "added to the diagonal of the Gram matrix K, in units of RIDGE_SCALE", low=0
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
        "of Gram matrix and solve; auto: float64 on devices that compute it fast",
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
        BLOCK, "", "most rows of a block of the blocked factorisation", low=1, operational=True
    )
    distribute_above: int = setting(
        4096,
        "",
        "unknowns above which the blocked factorisation is spread over the mesh axis",
        low=0,
        operational=True,
    )
    scale: str = setting(
        "relative",
        "RIDGE_SCALE",
        "unit of RIDGE: relative: tr(K)/rows; absolute: the number of distilled images",
        choices=SCALES,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)

    def resolved(self, device: Any) -> "RidgeConfig":
        """With "auto" replaced by what is right for a device.

        Args:
          device: a `jax.Device`, or a description of one with `platform` and `device_kind`.
        """
        precision, factorisation = self.precision, self.factorisation
        if precision == "auto":
            precision = "float64" if has_fast_float64(device) else "float32"
        if factorisation == "auto":
            library = device.platform in ("cpu", "gpu", "cuda", "rocm")
            factorisation = "library" if library else "blocked"
        return replace(self, precision=precision, factorisation=factorisation)

    def unit(self, images: int) -> float | None:
        """The unit of an absolute ridge, the number of distilled images; None if relative."""
        return float(images) if self.scale == "absolute" else None

    def is_dual(self, rows: int, dim: int) -> bool:
        """Whether `rows` x `rows` is factorised, for features of dimension `dim`."""
        return self.form == "dual" or (self.form == "auto" and rows <= dim)

    def spread(self, unknowns: int, axis: str | None, devices: int, dual: bool) -> Spread | None:
        """How the blocked factorisation is spread; None for the library's.

        In the primal form each device has its part of the sum of all d x d matrices before the sum
        is scattered, so rows of zeros would cost memory and transfer: the block is cut for it. In
        the dual form they cost neither, and a larger block has fewer panels, each with a
        collective.

        Args:
          unknowns: of the system.
          axis: the mesh axis that rows are spread over; None if all are here.
          devices: of the axis.
          dual: whether the matrix is that of the rows.
        """
        if self.factorisation == "library":
            return None
        if axis is None or unknowns <= self.distribute_above:
            return Spread(block=self.block)
        block = self.block
        if not dual:
            block = block_of_little_padding(unknowns, devices, block)
        return Spread(axis, devices, block)


class Guard(NamedTuple):
    """The actions of the guard.

    Attributes:
      raised: whether the ridge in force is not the configured one, or no ridge was accurate (bool).
      ridge: the ridge in force, in the dtype of the features.
    """

    raised: jax.Array
    ridge: jax.Array


@contextmanager
def _arithmetic(config: RidgeConfig) -> Iterator[None]:
    """Float64 where the configuration says so, and never less than full float32 products.

    Entered by each half: outside of it JAX would silently cut float64 values to float32.
    """
    if config.precision == "float64":
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


def solve(
    f_rd: jax.Array,
    y_rK: jax.Array,
    rows: int,
    config: RidgeConfig,
    axis: str | None = None,
    unit: float | None = None,
) -> Solution:
    """The linear map W (d, K) with `F_t W` = the ridge prediction for target features `F_t`.

    Dual: `W = FᵀA, (F Fᵀ + rho I) A = Y`; primal: `(FᵀF + rho I) W = FᵀY`. The two are equal
    (push-through identity) with the same `rho = ridge * tr(F Fᵀ) / R`. Going through W instead of
    the kernel `F_t Fᵀ` gives the same prediction without a (B, R) matrix.

    The guard: where the error of the solution is not bounded by 1e-3 (in float32 by the residual in
    the norm of the system, in float64 by the condition number), the ridge is raised until it is.
    So a wrong but finite answer is detected, as NaN is.

    Args:
      f_rd: this device's rows, (r, d) float32 or float64; rows of zeros change nothing.
      y_rK: (r, K), zero where `f_rd` is padding.
      rows: R, without padding.
      config: ridge, form and precision.
      axis: the mesh axis rows are spread over, None if all are here.
      unit: `rho = ridge * unit` instead, if not None.
    """
    config = config.resolved(jax.devices()[0])
    with _arithmetic(config):
        dual = config.is_dual(rows, f_rd.shape[1])
        # Gathered before they are widened: half the bytes cross the axis.
        f_Rd = Rows(axis).gather(f_rd) if dual else f_rd
        if config.precision == "float64":
            f_rd, y_rK, f_Rd = (x.astype(jnp.float64) for x in (f_rd, y_rK, f_Rd))
        problem = _problem(f_rd, rows, config, axis)
        if dual:
            matrix = problem.system.gram_of_rows(f_Rd)
        else:
            matrix = problem.system.gram_of_columns(f_rd, axis)
        # The guard compares with the mean square of a row, whatever the unit is.
        ridge = config.ridge if unit is None else config.ridge * unit / problem.mean_square()
        return _solver(f_rd).solve(problem, matrix, y_rK, ridge)


def with_labels(
    solution: Solution,
    y_rK: jax.Array,
    rows: int,
    config: RidgeConfig,
    axis: str | None = None,
) -> Solution:
    """The solution for other labels: one more solve with the existing factor.

    Args:
      solution: of `solve`, same rows, config and axis.
      y_rK: the labels (r, K), zero where the features are padding.
      rows: R, without padding.
      config: ridge, form and precision.
      axis: the mesh axis rows are spread over.
    """
    config = config.resolved(jax.devices()[0])
    with _arithmetic(config):
        f_rd = solution.f_rd
        problem = _problem(f_rd, rows, config, axis)
        return _solver(f_rd).with_labels(problem, solution, y_rK.astype(f_rd.dtype))


def coefficients(
    solution: Solution, rows: int, config: RidgeConfig, axis: str | None = None
) -> jax.Array:
    """`(K + rho I)^-1 Y`, this device's rows (r, K), in the precision of the solve.

    Arguments as those of `with_labels`.
    """
    config = config.resolved(jax.devices()[0])
    with _arithmetic(config):
        f_rd = solution.f_rd
        problem = _problem(f_rd, rows, config, axis)
        if problem.dual:
            return problem.rows.local(solution.alpha, len(f_rd))
        if f_rd.dtype == jnp.float64:
            return (solution.y_rK - f_rd @ solution.w_dK) / solution.rho
        return solution.alpha


def adjoint(
    solution: Solution,
    dw_dK: jax.Array,
    rows: int,
    config: RidgeConfig,
    axis: str | None = None,
    unit: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients with respect to this device's features (r, d) and labels (r, K), and their error.

    One more solve with the existing factor. rho's dependence on F is included, unless the ridge is
    absolute or the guard raised it: then rho is a constant.

    Args:
      solution: of `solve`, same rows, config and axis.
      dw_dK: the gradient with respect to W, complete (the same on every device of the axis).
      rows: R, without padding.
      config: ridge, form and precision.
      axis: the mesh axis rows are spread over.
      unit: that of `solve`.

    Returns:
      The gradients in the dtype of `dw_dK`, and a bound of the relative error of the solve behind
      them (scalar; 0 in float64). Nothing is raised for it: the ridge is already in force.
    """
    given = dw_dK.dtype
    config = config.resolved(jax.devices()[0])
    with _arithmetic(config):
        f_rd = solution.f_rd
        problem = _problem(f_rd, rows, config, axis)
        given_dK = dw_dK.astype(f_rd.dtype)
        df_rd, dy_rK, drho, error = _solver(f_rd).adjoint(problem, solution, given_dK)
        if unit is None:
            slope = jnp.where(solution.raised, 0.0, drho * 2 * solution.ridge / rows)
            df_rd = df_rd + slope * f_rd
        return df_rd.astype(given), dy_rK.astype(given), error.astype(given)


def _problem(f_rd: jax.Array, rows: int, config: RidgeConfig, axis: str | None) -> RidgeProblem:
    dual = config.is_dual(rows, f_rd.shape[1])
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    unknowns = len(f_rd) * devices if dual else f_rd.shape[1]
    system = System(unknowns, config.spread(unknowns, axis, devices, dual))
    return RidgeProblem(f_rd, rows, dual, system, Rows(axis))


def _solver(f_rd: jax.Array) -> Any:
    return direct if f_rd.dtype == jnp.float64 else iterative


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def ridge_weights(
    f_rd: jax.Array, y_rK: jax.Array, rows: int, config: RidgeConfig, axis: str | None = None
) -> tuple[jax.Array, Guard]:
    """`solve` as a function with first derivatives: W (d, K) in the dtype of `f_rd`, and the guard.

    Inside `shard_map` its derivative takes the complete gradient with respect to W, the same on
    every device of the axis, to this device's rows.
    """
    return _forward(f_rd, y_rK, rows, config, axis)[0]


def _forward(
    f_rd: jax.Array, y_rK: jax.Array, rows: int, config: RidgeConfig, axis: str | None
) -> tuple[tuple[jax.Array, Guard], Solution]:
    solution = solve(f_rd, y_rK, rows, config, axis)
    guard = Guard(solution.raised, solution.ridge.astype(f_rd.dtype))
    return (solution.w_dK.astype(f_rd.dtype), guard), solution


def _backward(
    rows: int, config: RidgeConfig, axis: str | None, solution: Solution, slopes: Any
) -> tuple[jax.Array, jax.Array]:
    return adjoint(solution, slopes[0], rows, config, axis)[:2]


ridge_weights.defvjp(_forward, _backward)
