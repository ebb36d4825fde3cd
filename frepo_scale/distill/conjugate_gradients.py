"""Conjugate gradients on pytrees that are the same on every device of the mesh axis "data"."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from frepo_scale.parallel.mesh import DATA

_ROOM = 0.5  # for rounding: in exact arithmetic both conditions of `is_reliable` hold with 1


class Solved(NamedTuple):
    """What conjugate gradients found, started from x = 0.

    Attributes:
      x: the solution, a pytree.
      residual: the relative residual in the 2-norm (scalar). It need not fall with the iterations.
      energy: `½ xᵀ A x - xᵀ right` as the recurrences give it (scalar). Every iteration lowers it.
      curvature: the smallest `dᵀ A d / dᵀ d` of the search directions d (scalar); infinity without
        an iteration.
      last: the share of the last iteration in the fall of the energy (scalar); 0 without one.
      steps: iterations (int32 scalar).
    """

    x: Any
    residual: jax.Array
    energy: jax.Array
    curvature: jax.Array
    last: jax.Array
    steps: jax.Array


def is_reliable(found: Solved, energy: jax.Array, least: float) -> jax.Array:
    """Whether a solution is what conjugate gradients give for a positive definite matrix.

    With x* the exact solution, `‖x - x*‖_A² = ‖x*‖_A² + 2 energy`. So the energy is negative
    exactly where x is closer to x* than 0 is. For a positive definite A each iteration lowers it,
    however few there are. Where it does not fall by what the recurrences say, or where a curvature
    is too small, rounding has made the matrix indefinite, or has separated the recurrences from x.

    Args:
      found: the solution.
      energy: `½ xᵀ A x - xᵀ right` of its x, computed from the definition of A (scalar).
      least: a lower bound of the eigenvalues of A.

    Returns:
      A bool scalar; False where anything is not finite.
    """
    positive = found.curvature >= _ROOM * least
    return positive & jnp.isfinite(energy) & (energy <= _ROOM * found.energy)


def conjugate_gradients(
    product: Callable[[Any], Any],
    right: Any,
    steps: int | jax.Array,
    tolerance: float,
    platform: str,
) -> Solved:
    """Solves `A x = right` for a symmetric positive definite A, from x = 0.

    Args:
      product: x to A x, pytrees that are the same on every device of the axis "data".
      right: the right-hand side.
      steps: largest number of iterations; an int on CPUs.
      tolerance: relative residual at which it stops.
      platform: on CPUs all iterations are unrolled, because the gradient of a convolution is many
        times slower inside a loop there; those after the last one change nothing.
    """
    start = optax.tree.vdot(right, right)
    limit = tolerance**2 * start
    zero = jax.tree.map(jnp.zeros_like, right)

    Carry = tuple[Any, Any, Any, jax.Array, jax.Array, jax.Array, jax.Array]

    def active(carry: Carry) -> jax.Array:
        *_, square, _, _, count = carry
        # All devices must leave the loop together: there are collectives in it.
        return (jax.lax.pmax(square, DATA) > limit_everywhere) & (count < steps)

    def iterate(carry: Carry) -> Carry:
        x, residual, direction, square, least, _, count = carry
        image = product(direction)
        curved = optax.tree.vdot(direction, image)
        length = square / curved
        least = jnp.minimum(least, curved / optax.tree.vdot(direction, direction))
        x = jax.tree.map(lambda x, d: x + length * d, x, direction)
        residual = jax.tree.map(lambda r, q: r - length * q, residual, image)
        following = optax.tree.vdot(residual, residual)
        direction = jax.tree.map(lambda r, d: r + following / square * d, residual, direction)
        return x, residual, direction, following, least, 0.5 * length * square, count + 1

    limit_everywhere = jax.lax.pmax(limit, DATA)
    infinity, none = jnp.full_like(start, jnp.inf), jnp.zeros_like(start)
    carry: Carry = (zero, right, right, start, infinity, none, jnp.int32(0))
    if platform == "cpu":
        for _ in range(int(steps)):
            used = active(carry)
            carry = jax.tree.map(
                lambda new, old, used=used: jnp.where(used, new, old), iterate(carry), carry
            )
    else:
        carry = jax.lax.while_loop(active, iterate, carry)
    x, residual, _, square, least, fall, count = carry
    tiny = jnp.finfo(start.dtype).tiny
    energy = -0.5 * (optax.tree.vdot(x, right) + optax.tree.vdot(x, residual))
    last = fall / jnp.maximum(-energy, tiny)
    return Solved(x, jnp.sqrt(square / jnp.maximum(start, tiny)), energy, least, last, count)
