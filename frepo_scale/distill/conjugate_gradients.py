"""Conjugate gradients on pytrees that are the same on every device of the mesh axis "data"."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from frepo_scale.parallel.mesh import DATA


class Solved(NamedTuple):
    """A solution of conjugate gradients.

    Attributes:
      x: the solution, a pytree.
      residual: the relative residual in the 2-norm (scalar).
      steps: iterations (int32 scalar).
    """

    x: Any
    residual: jax.Array
    steps: jax.Array


def conjugate_gradients(
    product: Callable[[Any], Any], right: Any, steps: int, tolerance: float, platform: str
) -> Solved:
    """Solves `A x = right` for a symmetric positive definite A, from x = 0.

    Args:
      product: x to A x, pytrees that are the same on every device of the axis "data".
      right: the right-hand side.
      steps: largest number of iterations.
      tolerance: relative residual at which it stops.
      platform: on CPUs all iterations are unrolled, because the gradient of a convolution is many
        times slower inside a loop there; those after the last one change nothing.
    """
    start = optax.tree.vdot(right, right)
    limit = tolerance**2 * start
    zero = jax.tree.map(jnp.zeros_like, right)

    Carry = tuple[Any, Any, Any, jax.Array, jax.Array]

    def active(carry: Carry) -> jax.Array:
        *_, square, count = carry
        # All devices must leave the loop together: there are collectives in it.
        return (jax.lax.pmax(square, DATA) > limit_everywhere) & (count < steps)

    def iterate(carry: Carry) -> Carry:
        x, residual, direction, square, count = carry
        image = product(direction)
        length = square / optax.tree.vdot(direction, image)
        x = jax.tree.map(lambda x, d: x + length * d, x, direction)
        residual = jax.tree.map(lambda r, q: r - length * q, residual, image)
        following = optax.tree.vdot(residual, residual)
        direction = jax.tree.map(lambda r, d: r + following / square * d, residual, direction)
        return x, residual, direction, following, count + 1

    limit_everywhere = jax.lax.pmax(limit, DATA)
    carry: Carry = (zero, right, right, start, jnp.int32(0))
    if platform == "cpu":
        for _ in range(steps):
            used = active(carry)
            carry = jax.tree.map(
                lambda new, old, used=used: jnp.where(used, new, old), iterate(carry), carry
            )
    else:
        carry = jax.lax.while_loop(active, iterate, carry)
    x, _, _, square, count = carry
    tiny = jnp.finfo(start.dtype).tiny
    return Solved(x, jnp.sqrt(square / jnp.maximum(start, tiny)), count)
