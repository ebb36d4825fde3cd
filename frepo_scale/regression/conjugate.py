"""Preconditioned conjugate gradients for regularised least squares, with an error bound.

    minimise ‖G x - c‖² + rho ‖x‖² - 2 eᵀx

takes products with G and Gᵀ only. Its condition number is the square root of that of `GᵀG + rho I`,
so float32 has digits to spare: `eps sqrt(R / ridge)` is 1e-3 at 288 rows and a ridge of 1e-6.

The iteration is CGLS (Björck, Numerical Methods for Least Squares Problems, SIAM 1996, section
7.4) with the preconditioner `P = GᵀG + shift I`, shift >= rho. P has the eigenvectors of the system
and at most `shift / rho` times its eigenvalues, so the residual r bounds the errors of x and of
`v = G x - c` without an estimate of a condition number:

    ‖v - v*‖² + rho ‖x - x*‖² <= (shift / rho) rᵀP⁻¹r,    ‖x - x*‖ <= (shift / rho) ‖P⁻¹r‖.

What is not in the bound is the rounding of P, G x and the residual, a small multiple of it.

Legend: n unknowns, m rows of G, K right-hand sides. Both may be spread over a mesh axis: the
products are functions of the caller.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# The relative error at which the iteration stops.
TARGET = 1e-4
# It also stops where the error is acceptable and its bound did not fall to half in this many
# iterations: the rounding error of the products is reached.
ACCEPTABLE = 1e-3
PATIENCE = 4


class Products(NamedTuple):
    """The least-squares problem, as functions.

    Attributes:
      forward: x (n, K) to G x (m, K).
      transpose: v (m, K) to Gᵀv (n, K).
      precondition: r (n, K) to `P⁻¹ r` (n, K).
      squares: v (m, K) to the sums of squares of its columns (K,).
      agree: values that the devices computed alike to values that are the same to the bit. All
        devices must leave the loop together, as there are collectives in it.
    """

    forward: Callable[[jax.Array], jax.Array]
    transpose: Callable[[jax.Array], jax.Array]
    precondition: Callable[[jax.Array], jax.Array]
    squares: Callable[[jax.Array], jax.Array]
    agree: Callable[[jax.Array], jax.Array]


class Minimum(NamedTuple):
    """The minimum that was found.

    Attributes:
      x_nK: the solution.
      v_mK: `G x - c`, more accurate than that product.
      error: a bound of the relative errors of x and of v in the 2-norm, the largest of the columns;
        inf where the preconditioner is not a number.
    """

    x_nK: jax.Array
    v_mK: jax.Array
    error: jax.Array


class _Iteration(NamedTuple):
    number: jax.Array
    stalled: jax.Array  # iterations since the bound of any column fell to half
    x: jax.Array
    v: jax.Array
    direction: jax.Array
    gamma: jax.Array  # rᵀP⁻¹r of each column
    broken: jax.Array  # whether anything is NaN
    best_x: jax.Array
    best_v: jax.Array
    best: jax.Array  # the square of the bound of each column


def minimise(
    products: Products,
    e_nK: jax.Array,
    c_mK: jax.Array,
    rho: jax.Array,
    shift: jax.Array,
    longest: int,
) -> Minimum:
    """Solves `(GᵀG + rho I) x = Gᵀc + e` to an error of `TARGET`, or as far as float32 goes.

    Args:
      products: G and the preconditioner.
      e_nK: (n, K) float32.
      c_mK: (m, K).
      rho: the ridge times the mean square of a row, > 0.
      shift: what the preconditioner has on its diagonal instead; at least rho.
      longest: iterations after which it gives up.
    """
    ratio = shift / rho

    def unfinished(state: _Iteration) -> jax.Array:
        hopeless = state.broken | (state.number >= longest)
        enough = (state.stalled > PATIENCE) & jnp.all(state.best <= ACCEPTABLE**2)
        return ~hopeless & ~enough & ~jnp.all(state.best <= TARGET**2)

    def iterate(state: _Iteration) -> _Iteration:
        # From x and v, not by recursion: otherwise the residual drifts away from the true one.
        r = e_nK - rho * state.x - products.transpose(state.v)
        z = products.precondition(r)
        gamma = jnp.sum(r * z, 0)
        bound = products.agree(_bound(products, state, r, z, gamma, e_nK, rho, ratio))
        better, halved = bound < state.best, bound < 0.25 * state.best
        conjugate = jnp.where(state.gamma > 0, gamma / state.gamma, 0.0)
        direction = z + conjugate * state.direction
        g = products.forward(direction)
        curvature = products.squares(g) + rho * jnp.sum(jnp.square(direction), 0)
        active = (curvature > 0) & (bound > TARGET**2)
        length = jnp.where(active, gamma / curvature, 0.0)
        return _Iteration(
            number=state.number + 1,
            stalled=jnp.where(jnp.any(halved), 0, state.stalled + 1),
            x=state.x + length * direction,
            v=state.v + length * g,
            direction=direction,
            gamma=gamma,
            broken=jnp.any(jnp.isnan(bound)),
            best_x=jnp.where(better, state.x, state.best_x),
            best_v=jnp.where(better, state.v, state.best_v),
            best=jnp.where(better, bound, state.best),
        )

    zero, v = jnp.zeros_like(e_nK), -c_mK
    columns = jnp.zeros_like(e_nK[0])
    start = _Iteration(
        number=jnp.int32(0),
        stalled=jnp.int32(0),
        x=zero,
        v=v,
        direction=zero,
        gamma=columns,
        broken=jnp.bool_(False),
        best_x=zero,
        best_v=v,
        best=columns + jnp.inf,
    )
    end = jax.lax.while_loop(unfinished, iterate, start)
    return Minimum(end.best_x, end.best_v, jnp.sqrt(jnp.max(end.best)))


def _bound(
    products: Products,
    state: _Iteration,
    r: jax.Array,
    z: jax.Array,
    gamma: jax.Array,
    e_nK: jax.Array,
    rho: jax.Array,
    ratio: jax.Array,
) -> jax.Array:
    """The square of the error bound of each column: the largest of three.

    That of v relative to v, that of x relative to x, and the residual relative to e. The last is
    what bounds `Gᵀ(v - v*)`, in the dual form the predictions for the rows of the regression.
    """

    def squares(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x), 0)

    of_v = ratio * gamma / products.squares(state.v)
    of_x = ratio * jnp.minimum(ratio * squares(z), gamma / rho) / squares(state.x)
    e = squares(e_nK)
    of_e = jnp.where(e > 0, squares(r) / e, 0.0)
    # A residual that is not zero with a gamma that is not positive: the factor is of no use.
    undefined = jnp.where(jnp.any(r != 0, 0), jnp.inf, 0.0)
    bound = jnp.maximum(jnp.maximum(of_v, of_x), of_e)
    return jnp.where(gamma <= 0, undefined, bound)
