"""Everything that changes from outer step to outer step, and where it lies on the mesh.

Images, labels and their LAMB moments are split over the mesh axis "data", padded with zeros to a
size that divides; the pool is split over "pool". Padding never gets a gradient, so it stays zero
and no norm or sum sees it.

Legend: N synthetic images, n the same padded to the mesh, P pool size, K classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.config import DistillConfig, lamb
from frepo_scale.distill.pool import PoolConfig, PoolState, initial_pool
from frepo_scale.parallel.mesh import DATA, POOL, over
from frepo_scale.parallel.share import on_host

NEVER = -1


class Best(NamedTuple):
    """The distilled set that did best on the held-out part so far.

    Attributes:
      distilled: the set.
      score: float32 scalar, its held-out accuracy; -1 before the first probe.
      step: int32 scalar, the outer step it is from; `NEVER` before the first probe.
    """

    distilled: DistilledSet
    score: jax.Array
    step: jax.Array


class DistillState(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      step: int32 scalar, outer steps done.
      distilled: the set being learned, (n, H, W, C) and (n, K).
      optimiser: LAMB state.
      pool: the nets.
      best: the best set so far; the step hands it through.
      first_bad_step: int32 scalar, first step whose loss was not finite; `NEVER` so far.
    """

    step: jax.Array
    distilled: DistilledSet
    optimiser: optax.OptState
    pool: PoolState
    best: Best
    first_bad_step: jax.Array


def padded_size(size: int, mesh: Mesh) -> int:
    """The smallest multiple of the "data" axis that holds `size` images."""
    data = mesh.shape[DATA]
    return -(-size // data) * data


def state_shardings(state: DistillState, mesh: Mesh) -> Any:
    """A `DistillState` with a sharding for every leaf of a state (of arrays or of shapes)."""

    def rows_over_data(leaf: jax.Array) -> jax.sharding.Sharding:
        return over(mesh, DATA) if leaf.ndim else over(mesh)

    return state._replace(
        step=over(mesh),  # type: ignore[arg-type]
        distilled=jax.tree.map(rows_over_data, state.distilled),
        optimiser=jax.tree.map(rows_over_data, state.optimiser),
        pool=jax.tree.map(lambda _: over(mesh, POOL), state.pool),
        best=jax.tree.map(rows_over_data, state.best),
        first_bad_step=over(mesh),  # type: ignore[arg-type]
    )


def _build(
    module: nn.Module, config: DistillConfig, pool: PoolConfig, distilled: DistilledSet
) -> DistillState:
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    return DistillState(
        step=jnp.int32(0),
        distilled=distilled,
        optimiser=lamb(config).init(distilled),
        pool=initial_pool(module, pool, config.seed, image),
        # A copy: the state is donated, and a buffer cannot be donated twice.
        best=Best(jax.tree.map(jnp.copy, distilled), jnp.float32(-1), jnp.int32(NEVER)),
        first_bad_step=jnp.int32(NEVER),
    )


def state_shapes(
    module: nn.Module, config: DistillConfig, pool: PoolConfig, distilled: DistilledSet
) -> DistillState:
    """Shapes and dtypes of a state, from those of its distilled set; nothing is computed."""
    return jax.eval_shape(partial(_build, module, config, pool), distilled)


def initial_state(
    module: nn.Module, config: DistillConfig, pool: PoolConfig, start: DistilledSet, mesh: Mesh
) -> DistillState:
    """The state before outer step 0, laid out over the mesh.

    Args:
      module: the pool's net.
      config: the distilled set.
      pool: the pool.
      start: real images (N, H, W, C) and initial labels (N, K), on the host.
      mesh: where it goes.
    """
    extra = padded_size(len(start.images), mesh) - len(start.images)
    host = DistilledSet(*(_with_zero_rows(np, np.asarray(x), extra) for x in start))
    shardings = state_shardings(state_shapes(module, config, pool, host), mesh)
    # Each device makes its own part of the pool; nothing is built in one place and sent.
    built: DistillState = jax.jit(partial(_build, module, config, pool), out_shardings=shardings)(
        host
    )
    return built


def _with_zero_rows(library: Any, x: Any, extra: int) -> Any:
    return library.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))


def _map_rows(function: Callable[[jax.Array], jax.Array], state: DistillState) -> DistillState:
    """`function` on every array that has a row per synthetic image."""

    def on_rows(leaf: jax.Array) -> jax.Array:
        return function(leaf) if leaf.ndim else leaf

    return state._replace(
        distilled=jax.tree.map(on_rows, state.distilled),
        optimiser=jax.tree.map(on_rows, state.optimiser),
        best=jax.tree.map(on_rows, state.best),
    )


def without_padding(state: DistillState, size: int, mesh: Mesh) -> DistillState:
    """The state as checkpoints hold it: N rows, whatever the mesh, so that any mesh can read it.

    Where N does not divide over the "data" axis the rows are replicated: only then does a
    checkpoint cost memory for the whole set on each device.
    """
    if len(state.distilled.images) == size:
        return state
    cut_rows = partial(_map_rows, lambda x: x[:size])
    shapes = jax.eval_shape(cut_rows, state)
    everywhere = jax.tree.map(lambda _: over(mesh), shapes)
    shardings = everywhere._replace(pool=state_shardings(shapes, mesh).pool)
    cut: DistillState = jax.jit(cut_rows, out_shardings=shardings)(state)
    return cut


def with_padding(state: DistillState, mesh: Mesh) -> DistillState:
    """The inverse of `without_padding`, on this mesh."""
    size = len(state.distilled.images)
    extra = padded_size(size, mesh) - size
    if not extra:
        return state
    pad = partial(_map_rows, lambda x: _with_zero_rows(jnp, x, extra))
    shardings = state_shardings(jax.eval_shape(pad, state), mesh)
    padded: DistillState = jax.jit(pad, out_shardings=shardings)(state)
    return padded


def unpadded(distilled: DistilledSet, size: int) -> DistilledSet:
    """The first `size` rows on the host, float32 (N, H, W, C) and (N, K), on every process."""
    return DistilledSet(*(x[:size] for x in on_host(distilled)))


@partial(jax.jit, donate_argnums=0)
def keep_as_best(state: DistillState, score: float) -> DistillState:
    """The state with its current set as the best one; the state passed in is donated."""
    return state._replace(
        best=Best(jax.tree.map(jnp.copy, state.distilled), jnp.float32(score), state.step)
    )
