"""What the framework stores in addition to an algorithm's state, and the jitted step of both.

Legend: N synthetic images, n the rows that the algorithm stores (`Algorithm.rows`), K classes.
"""

from collections import namedtuple
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Algorithm, Metrics, State
from frepo_scale.parallel.mesh import DATA, POOL, over
from frepo_scale.parallel.share import on_host

NEVER = -1


class Best(NamedTuple):
    """The distilled set with the best score on the held-out images so far.

    Attributes:
      distilled: the set, n rows.
      score: float32 scalar, its held-out accuracy; -1 before the first probe.
      step: int32 scalar, its outer step; `NEVER` before the first probe.
    """

    distilled: DistilledSet
    score: jax.Array
    step: jax.Array


class TrainState(NamedTuple):
    """Everything that changes from outer step to outer step.

    Attributes:
      algorithm: the state of the algorithm.
      best: the best set so far; the step passes it through.
      first_bad_step: int32 scalar, first step whose loss was not finite; `NEVER` so far.
    """

    algorithm: State
    best: Best
    first_bad_step: jax.Array


def _build(algorithm: Algorithm, start: DistilledSet) -> TrainState:
    # A copy: the state is donated, and a buffer cannot be donated twice.
    best = Best(jax.tree.map(jnp.copy, start), jnp.float32(-1), jnp.int32(NEVER))
    return TrainState(algorithm.init(start), best, jnp.int32(NEVER))


def train_state_shapes(algorithm: Algorithm, start: DistilledSet) -> TrainState:
    """Shapes and dtypes of a state, from those of its n images and labels."""
    return jax.eval_shape(partial(_build, algorithm), start)


def train_state_shardings(algorithm: Algorithm, state: TrainState) -> Any:
    """A `TrainState` with a sharding for every leaf of a state (of arrays or of shapes)."""
    mesh = algorithm.problem.mesh

    def rows(leaf: jax.Array) -> jax.sharding.Sharding:
        divides = leaf.ndim and len(leaf) % mesh.shape[DATA] == 0
        return over(mesh, DATA) if divides else over(mesh)

    return TrainState(
        algorithm.shardings(state.algorithm),
        jax.tree.map(rows, state.best),
        over(mesh),  # type: ignore[arg-type]
    )


def initial_train_state(algorithm: Algorithm, start: DistilledSet) -> TrainState:
    """The state before outer step 0, on the devices of the algorithm's mesh.

    Args:
      algorithm: the algorithm.
      start: real images (N, H, W, C) and initial labels (N, K), in host memory.
    """
    extra = algorithm.rows - len(start.images)
    host = DistilledSet(*(_with_zero_rows(np, np.asarray(x), extra) for x in start))
    shardings = train_state_shardings(algorithm, train_state_shapes(algorithm, host))
    # Each device computes its own part; nothing is built on one device and sent to the others.
    build = jax.jit(partial(_build, algorithm), out_shardings=shardings)
    state: TrainState = build(host)
    return state._replace(algorithm=algorithm.loaded(state.algorithm))


def make_train_step(
    algorithm: Algorithm, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The outer step as one jitted function `(state, batch) -> (state, metrics)`.

    The batch is the global one: `algorithm.batch_size` images (B, H, W, C) and labels (B,), sharded
    by rows over all devices. The state is donated: the one passed in must not be used again.
    Metrics are scalars on the device.

    Args:
      algorithm: the algorithm.
      state: a state, or its shapes.
    """
    mesh, shardings = algorithm.problem.mesh, train_state_shardings(algorithm, state)
    return jax.jit(
        partial(_step, algorithm),
        donate_argnums=0,
        in_shardings=(shardings, over(mesh, (POOL, DATA))),
        out_shardings=(shardings, over(mesh)),
    )


def _step(algorithm: Algorithm, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    inner, metrics = algorithm.step(state.algorithm, batch)
    newly_bad = (state.first_bad_step == NEVER) & ~jnp.isfinite(metrics["loss"])
    first_bad_step = jnp.where(newly_bad, state.algorithm.step, state.first_bad_step)
    return TrainState(inner, state.best, first_bad_step), metrics


def make_train_steps(
    algorithm: Algorithm, state: TrainState, batch_of: Callable[[Any, jax.Array], Batch]
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Several outer steps as one jitted function `(state, held, rows, count) -> (state, metrics)`.

    `held` is a pytree of arrays on the devices from which the batches are made. `rows` (S, B) int32
    says which rows of it each step uses; the first `count` (int32 scalar, 1 to S) steps are done.
    The state is donated. Metrics are those of the last of the steps.

    The number of iterations is computed: one program does any number of steps, so the results do
    not depend on how steps are divided into calls.

    Args:
      algorithm: the algorithm.
      state: a state, or its shapes.
      batch_of: `(held, rows of one step) -> batch`, sharded by rows over all devices.
    """
    mesh, shardings = algorithm.problem.mesh, train_state_shardings(algorithm, state)

    def once(state: TrainState, held: Any, rows: jax.Array) -> tuple[TrainState, Metrics]:
        state, metrics = _step(algorithm, state, batch_of(held, rows))
        return jax.lax.with_sharding_constraint(state, shardings), metrics

    def steps(
        state: TrainState, held: Any, rows: jax.Array, count: jax.Array
    ) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(once, state, held, rows[0])[1]
        none: Metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        done: tuple[TrainState, Metrics] = jax.lax.fori_loop(
            0, count, lambda number, carry: once(carry[0], held, rows[number]), (state, none)
        )
        return done

    held_as_it_is = None  # its sharding is that of its arrays
    return jax.jit(
        steps,
        donate_argnums=0,
        in_shardings=(shardings, held_as_it_is, over(mesh), over(mesh)),
        out_shardings=(shardings, over(mesh)),
    )


def unpadded(distilled: DistilledSet, size: int) -> DistilledSet:
    """The first `size` rows in host memory, float32 (N, H, W, C) and (N, K), on every process."""
    return DistilledSet(*(x[:size] for x in on_host(distilled)))


def make_keep_as_best(
    algorithm: Algorithm, state: TrainState
) -> Callable[[TrainState, float], TrainState]:
    """A jitted function `(state, score) -> state`: the current set becomes the best one.

    The state passed to it is donated.

    Args:
      algorithm: the algorithm.
      state: a state, or its shapes.
    """

    def keep(state: TrainState, score: float) -> TrainState:
        distilled = jax.tree.map(jnp.copy, algorithm.distilled(state.algorithm))
        return state._replace(best=Best(distilled, jnp.float32(score), state.algorithm.step))

    shardings = train_state_shardings(algorithm, state)
    return jax.jit(keep, donate_argnums=0, out_shardings=shardings)


# Checkpoints ------------------------------------------------------------------------------------


def checkpoint_tree(algorithm: Algorithm, state: TrainState) -> Any:
    """The state as a checkpoint holds it: N rows on every mesh, so that any mesh can read it.

    One flat NamedTuple: the fields of the algorithm's state, then `best` and `first_bad_step`.
    Where N does not divide over the "data" axis, rows are replicated while they are saved: a
    checkpoint then needs memory for the whole set on each device.
    """
    if algorithm.rows != algorithm.problem.size:
        state = _resharded(algorithm, state, partial(_without_padding, algorithm))
    # A part without arrays, such as that of a switch which is off, is not on disk: checkpoints of a
    # version without that part can be read.
    parts = state.algorithm._asdict().items()
    inner = {name: part for name, part in parts if jax.tree.leaves(part)}
    # The names of fields are the names of the arrays on disk; the name of the class is not stored.
    tree: Any = _tree_class((*inner, "best", "first_bad_step"))
    return tree(**inner, best=state.best, first_bad_step=state.first_bad_step)


@cache
def _tree_class(fields: tuple[str, ...]) -> Any:
    return namedtuple("CheckpointTree", list(fields))


def from_checkpoint_tree(algorithm: Algorithm, tree: Any, like: TrainState) -> TrainState:
    """The inverse of `checkpoint_tree`, on the algorithm's mesh.

    Args:
      algorithm: the algorithm.
      tree: as `checkpoint_tree` gives it.
      like: a state of the algorithm, for the parts without arrays.
    """
    inner = tree._asdict()
    best, first_bad_step = inner.pop("best"), inner.pop("first_bad_step")
    state = TrainState(like.algorithm._replace(**inner), best, first_bad_step)
    if algorithm.rows != algorithm.problem.size:
        state = _resharded(algorithm, state, partial(_with_padding, algorithm))
    return state


def _resharded(
    algorithm: Algorithm, state: TrainState, change: Callable[[TrainState], TrainState]
) -> TrainState:
    shardings = train_state_shardings(algorithm, jax.eval_shape(change, state))
    changed: TrainState = jax.jit(change, out_shardings=shardings)(state)
    return changed


def _without_padding(algorithm: Algorithm, state: TrainState) -> TrainState:
    size = algorithm.problem.size
    distilled = jax.tree.map(lambda x: x[:size], state.best.distilled)
    return state._replace(
        algorithm=algorithm.without_padding(state.algorithm),
        best=state.best._replace(distilled=distilled),
    )


def _with_padding(algorithm: Algorithm, state: TrainState) -> TrainState:
    extra = algorithm.rows - algorithm.problem.size
    distilled = jax.tree.map(lambda x: _with_zero_rows(jnp, x, extra), state.best.distilled)
    return state._replace(
        algorithm=algorithm.with_padding(state.algorithm),
        best=state.best._replace(distilled=distilled),
    )


def _with_zero_rows(library: Any, x: Any, extra: int) -> Any:
    return library.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))
