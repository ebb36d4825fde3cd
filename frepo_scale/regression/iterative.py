"""The regression in float32: conjugate gradients behind a Cholesky factor with a larger ridge.

A float32 Gram matrix has errors of `eps tr(K)`, which at the paper's ridge of 1e-6 is more than the
ridge, so its Cholesky factor does not give the solution. With a diagonal above those errors it is a
preconditioner for `conjugate.minimise`, which solves the least-squares problem without the Gram
matrix. At a ridge of 1e-4 and above that takes two to four iterations.

Value and gradient are solutions of one symmetric system,

    rho a + F u = p,    Fᵀa - u = q:

(p, q) = (Y, 0) gives a = alpha and u = W; (0, dW) gives a = B, the gradient with respect to the
labels, and u = -rho V. The gradient with respect to the features is `-alpha uᵀ - B Wᵀ`. Neither
`Y - F W` nor `dW - FᵀB`, differences of nearly equal numbers, is ever taken.
"""

import jax
import jax.numpy as jnp

from frepo_scale.regression.conjugate import ACCEPTABLE, Products, minimise
from frepo_scale.regression.problem import RidgeProblem, Solution

# Shift of the preconditioner, as a part of tr(K), in units of the float32 rounding error.
SHIFT = 1.0
# The least ridge that is tried, as a part of the shift.
LEAST_RIDGE = 1e-4
# Iterations. The guard acts on the value, so the gradient gets twice as many.
LONGEST = 60
_RAISE = 10.0
_MOST_RAISES = 8


def solve(
    problem: RidgeProblem, matrix: jax.Array, y_rK: jax.Array, ridge: float | jax.Array
) -> Solution:
    """Solves for the map and raises the ridge until its error is bounded by `conjugate.ACCEPTABLE`.

    Where there is no Cholesky factor, the shift of the preconditioner is raised tenfold, else the
    ridge.

    Args:
      problem: in float32.
      matrix: this device's rows of the Gram matrix, as `problem.system` stores them.
      y_rK: this device's labels.
      ridge: the configured ridge.
    """
    system, rows = problem.system, problem.rows
    unit, dtype = problem.mean_square(), y_rK.dtype
    zero_dK = jnp.zeros((problem.f_rd.shape[1], y_rK.shape[1]), dtype)

    Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]

    def unsolved(carry: Carry) -> jax.Array:
        *_, error, tries = carry
        return ~(error <= ACCEPTABLE) & (tries <= _MOST_RAISES)

    def attempt(carry: Carry) -> Carry:
        ridge, shift, _, _, _, error, tries = carry
        ridge = jnp.where((tries > 0) & jnp.isfinite(error), ridge * _RAISE, ridge)
        shift = jnp.where((tries > 0) & ~jnp.isfinite(error), shift * _RAISE, shift)
        ridge = jnp.maximum(ridge, shift * LEAST_RIDGE)
        shift = jnp.maximum(shift, ridge)
        factor = system.factorise(system.shifted(matrix, shift * unit))
        a, u, error = _augmented(
            problem, factor, ridge * unit, shift * unit, y_rK, zero_dK, LONGEST
        )
        return ridge, shift, factor, a, u, error, tries + 1

    shift = SHIFT * float(jnp.finfo(dtype).epsneg) * problem.size
    factor = jax.eval_shape(system.factorise, matrix)
    alpha = jax.eval_shape(rows.gather, y_rK) if problem.dual else y_rK
    start = (
        jnp.asarray(ridge, dtype),
        jnp.asarray(shift, dtype),
        jnp.zeros(factor.shape, dtype),
        jnp.zeros(alpha.shape, dtype),
        zero_dK,
        jnp.asarray(jnp.inf, dtype),
        jnp.int32(0),
    )
    in_force, factor_shift, factor, alpha, w_dK, error, _ = jax.lax.while_loop(
        unsolved, attempt, start
    )
    # Without any factor there is no solution; zeros would pass for one.
    w_dK = jnp.where(jnp.isfinite(error), w_dK, jnp.nan)
    raised = (in_force > jnp.asarray(ridge, dtype)) | ~(error <= ACCEPTABLE)
    solved = (w_dK, problem.f_rd, y_rK, alpha, factor)
    return Solution(*solved, in_force * unit, factor_shift * unit, in_force, raised)


def with_labels(problem: RidgeProblem, solution: Solution, y_rK: jax.Array) -> Solution:
    """The solution for other labels (r, K), with the same factor and ridge."""
    zero_dK = jnp.zeros_like(solution.w_dK)
    alpha, w_dK, _ = _augmented(
        problem, solution.factor, solution.rho, solution.shift, y_rK, zero_dK, LONGEST
    )
    return solution._replace(w_dK=w_dK, y_rK=y_rK, alpha=alpha)


def adjoint(
    problem: RidgeProblem, solution: Solution, dw_dK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The same system with the existing factor. Arguments and results as `direct.adjoint`."""
    rho, w_dK = solution.rho, solution.w_dK
    b, u_dK, error = _augmented(
        problem, solution.factor, rho, solution.shift, None, dw_dK, 2 * LONGEST
    )
    b_rK, alpha_rK = b, solution.alpha
    if problem.dual:
        b_rK, alpha_rK = (problem.rows.local(x, len(problem.f_rd)) for x in (b, solution.alpha))
    df_rd = -alpha_rK @ u_dK.T - b_rK @ w_dK.T
    # <B, alpha> = <V, W>, and u = -rho V.
    return df_rd, b_rK, jnp.sum(u_dK * w_dK) / rho, error


def _augmented(
    problem: RidgeProblem,
    factor: jax.Array,
    rho: jax.Array,
    shift: jax.Array,
    p_rK: jax.Array | None,
    q_dK: jax.Array,
    longest: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The solution (a, u) of `rho a + F u = p, Fᵀa - u = q`, and its error bound.

    `a` is complete (R, K) in the dual form, this device's rows (r, K) in the primal form. `p_rK` is
    None for zeros, which then need not be gathered.
    """
    f_rd, system, rows = problem.f_rd, problem.system, problem.rows
    # Squares of small gradients would underflow.
    classes, zeros = q_dK.shape[1], p_rK is None
    p_rK = jnp.zeros((len(f_rd), classes), q_dK.dtype) if p_rK is None else p_rK
    largest = jnp.maximum(jnp.max(jnp.abs(p_rK)), jnp.max(jnp.abs(q_dK)))
    scale = rows.largest(largest) + jnp.finfo(q_dK.dtype).tiny
    p_rK, q_dK = p_rK / scale, q_dK / scale

    def precondition(r: jax.Array) -> jax.Array:
        return system.solve(factor, r)

    if problem.dual:  # G = Fᵀ, x = a, G x - c = u
        products = Products(
            forward=lambda x_RK: rows.sum(f_rd.T @ rows.local(x_RK, len(f_rd))),
            transpose=lambda v_dK: rows.gather(f_rd @ v_dK),
            precondition=precondition,
            squares=lambda v_dK: jnp.sum(jnp.square(v_dK), 0),
            agree=rows.largest,
        )
        e_RK = jnp.zeros((system.unknowns, classes), q_dK.dtype) if zeros else rows.gather(p_rK)
        found = minimise(products, e_RK, q_dK, rho, shift, longest)
        return scale * found.x_nK, scale * found.v_mK, found.error
    products = Products(  # G = F, x = u, G x - c = -rho a
        forward=lambda x_dK: f_rd @ x_dK,
        transpose=lambda v_rK: rows.sum(f_rd.T @ v_rK),
        precondition=precondition,
        squares=lambda v_rK: rows.sum(jnp.sum(jnp.square(v_rK), 0)),
        agree=rows.largest,
    )
    found = minimise(products, -rho * q_dK, p_rK, rho, shift, longest)
    return -scale * found.v_mK / rho, scale * found.x_nK, found.error
