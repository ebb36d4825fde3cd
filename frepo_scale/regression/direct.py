"""The regression in float64: one Cholesky factor, one solve for the value, one for the gradient.

The rounding error of a solve is at most the condition number times the rounding unit. With the
diagonal `rho = ridge tr(K) / R` the condition number is below `R / ridge`, whatever the features:
3e8 at 288 rows and the paper's ridge of 1e-6, which leaves float64 seven digits.
"""

import jax
import jax.numpy as jnp

from frepo_scale.regression.problem import RidgeProblem, Solution

LARGEST_ERROR = 1e-3
LARGEST_RESIDUAL = 1e-3
_RAISE = 10.0
_MOST_RAISES = 8


def least_ridge(rows: int) -> float:
    """The least ridge with an error bound of `LARGEST_ERROR`: 6e-11 for 288 rows."""
    return rows * float(jnp.finfo(jnp.float64).eps) / LARGEST_ERROR


def solve(
    problem: RidgeProblem, matrix: jax.Array, y_rK: jax.Array, ridge: float | jax.Array
) -> Solution:
    """Solves for the map and raises the ridge until the answer can be trusted.

    The ridge is raised at once to `least_ridge`, and tenfold while the relative residual is above
    `LARGEST_RESIDUAL` or not finite.

    Args:
      problem: in float64.
      matrix: this device's rows of the Gram matrix, as `problem.system` stores them.
      y_rK: this device's labels, float64.
      ridge: the configured ridge.
    """
    f_rd, system, rows = problem.f_rd, problem.system, problem.rows
    right = rows.gather(y_rK) if problem.dual else rows.sum(f_rd.T @ y_rK)
    unit, dtype = problem.mean_square(), f_rd.dtype
    least = least_ridge(problem.size)

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
    given = jnp.maximum(jnp.asarray(ridge, dtype), least)
    unknown = jnp.asarray(jnp.inf, dtype)
    factor = jax.eval_shape(system.factorise, matrix)
    start = (given, jnp.zeros(factor.shape, dtype), jnp.zeros_like(right), unknown, jnp.int32(0))
    in_force, factor, x, _, tries = jax.lax.while_loop(unsolved, attempt, start)
    if problem.dual:
        w_dK, alpha = rows.sum(f_rd.T @ rows.local(x, len(f_rd))), x
    else:
        w_dK, alpha = x, jnp.zeros((0, 0), dtype)
    rho, raised = in_force * unit, (tries > 1) | (ridge < least)
    return Solution(w_dK, f_rd, y_rK, alpha, factor, rho, rho, in_force, raised)


def with_labels(problem: RidgeProblem, solution: Solution, y_rK: jax.Array) -> Solution:
    """The solution for other labels (r, K), with the same factor and ridge."""
    f_rd, system, rows = problem.f_rd, problem.system, problem.rows
    if problem.dual:
        x = system.solve(solution.factor, rows.gather(y_rK))
        w_dK = rows.sum(f_rd.T @ rows.local(x, len(f_rd)))
        return solution._replace(w_dK=w_dK, y_rK=y_rK, alpha=x)
    return solution._replace(w_dK=system.solve(solution.factor, rows.sum(f_rd.T @ y_rK)), y_rK=y_rK)


def adjoint(
    problem: RidgeProblem, solution: Solution, dw_dK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One more solve with the existing factor.

    `B = (K + rho I)^-1 F dW` (dual) or `V = (FᵀF + rho I)^-1 dW` (primal).

    Args:
      problem: that of the solution.
      solution: of `solve`.
      dw_dK: the gradient with respect to W, float64, complete on every device.

    Returns:
      Gradients with respect to this device's features (r, d), without what goes through rho, and
      labels (r, K); then the gradient with respect to rho, and a bound of the error of the solve:
      zero here, because the guard of `solve` bounds the condition number.
    """
    f_rd, system, rows = problem.f_rd, problem.system, problem.rows
    if problem.dual:
        b_RK = system.solve(solution.factor, rows.gather(f_rd @ dw_dK))
        b_rK, alpha_rK = (rows.local(x, len(f_rd)) for x in (b_RK, solution.alpha))
        df_rd = alpha_rK @ (dw_dK - rows.sum(f_rd.T @ b_rK)).T - b_rK @ solution.w_dK.T
        return df_rd, b_rK, -jnp.sum(b_RK * solution.alpha), jnp.zeros((), f_rd.dtype)
    v_dK = system.solve(solution.factor, dw_dK)
    dy_rK = f_rd @ v_dK
    df_rd = (solution.y_rK - f_rd @ solution.w_dK) @ v_dK.T - dy_rK @ solution.w_dK.T
    return df_rd, dy_rK, -jnp.sum(v_dK * solution.w_dK), jnp.zeros((), f_rd.dtype)
