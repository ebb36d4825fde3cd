"""The members that one row of the mesh uses in an outer step, one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.distill.algorithm import Problem
from frepo_scale.parallel.mesh import POOL, platform_of


def members_here(problem: Problem) -> int:
    """How many members each row of the mesh uses in a step."""
    return problem.pool.members // problem.mesh.shape[POOL]


def chosen_member(
    problem: Problem, step: jax.Array, number: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The member that is chosen in a stratum of this row: its index here and in the whole pool.

    Inside `shard_map` over the mesh.

    Args:
      problem: the input of the algorithm.
      step: the outer step.
      number: of the stratum in this row, below `members_here`.
    """
    size = problem.pool.stratum
    stratum = jax.lax.axis_index(POOL) * members_here(problem) + number
    key = key_for(problem.config.seed, Purpose.MEMBER_CHOICE, step, stratum)
    within = jax.random.randint(key, (), 0, size)
    return number * size + within, stratum * size + within


def sum_over_members(problem: Problem, function: Callable[[Any], Any]) -> Any:
    """The sum of `function(number)`, a pytree of arrays, over the strata of this row.

    On accelerators in a loop: the compiler otherwise works on several members at once, which takes
    the memory of all of them, and compiles each.
    """
    here = members_here(problem)
    if not _rolled(problem):
        total = function(0)
        for number in range(1, here):
            total = jax.tree.map(jnp.add, total, function(number))
        return total
    shapes = jax.eval_shape(function, jnp.int32(0))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(
        0, here, lambda number, total: jax.tree.map(jnp.add, total, function(number)), zero
    )


def over_members(problem: Problem, function: Callable[[Any, Any], Any], start: Any) -> Any:
    """`function(number, value)` for each stratum of this row in turn, from the value `start`."""
    if _rolled(problem):
        return jax.lax.fori_loop(0, members_here(problem), function, start)
    value = start
    for number in range(members_here(problem)):
        value = function(number, value)
    return value


def _rolled(problem: Problem) -> bool:
    # On CPU the gradient of a convolution is many times slower inside XLA's control flow.
    return members_here(problem) > 1 and platform_of(problem.mesh) != "cpu"
