"""The outer step: one update of the distilled set, then one of each pool member that judged it.

Source: ALGORITHM.md section 4. One jitted call per step, the same on one device and on a pod. Every
random choice is a function of (seed, step), so nothing but the target batch comes from the host.

Two `shard_map`s over the mesh ("pool", "data"), and LAMB between them on the sharded arrays:
1. `_meta_gradient`: each row of the mesh computes the gradient of its members; over "data" only
   features and sums of the regression travel, over "pool" only the mean gradient and metrics.
2. `_advance_pool`: each row trains its members on the updated set; over "data" travel the images
   of the online minibatch, the gradient and the BatchNorm sums, over "pool" nothing.

Gradients are not taken through collectives: `regression.ridge` has its own backward pass, which
gives the gradient with respect to features, and each device pulls its own back to its own images.

Legend: N synthetic images, n of them on this device (padded), B target batch, b of it here, R rows
of the regression (N, or 2N with flip), d features, K classes, M members per step, P pool size.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet, centred_onehot
from frepo_scale.distill.config import DistillConfig, lamb, learning_rate_schedule
from frepo_scale.distill.features import chunked_features, chunked_image_gradient
from frepo_scale.distill.pool import (
    Member,
    Minibatch,
    PoolConfig,
    PoolState,
    fresh_member,
    online_step,
    put_member,
    take_member,
)
from frepo_scale.distill.state import NEVER, DistillState, state_shardings
from frepo_scale.parallel.mesh import DATA, POOL, check_sizes, over, platform_of
from frepo_scale.regression.loss import half_squared_errors, label_margins
from frepo_scale.regression.ridge import RidgeConfig, ridge_weights

Metrics = dict[str, jax.Array]


class OuterStep(NamedTuple):
    """What the step is made of; all of it static.

    Attributes:
      module: the pool's net.
      config: the distilled set.
      pool: the pool.
      ridge: the regression.
      mesh: where it runs.
      size: synthetic images, N.
      batch: target batch of one member, B.
    """

    module: nn.Module
    config: DistillConfig
    pool: PoolConfig
    ridge: RidgeConfig
    mesh: Mesh
    size: int
    batch: int


def make_outer_step(
    parts: OuterStep, state: DistillState
) -> Callable[[DistillState, Batch], tuple[DistillState, Metrics]]:
    """The outer step as one jitted function `(state, batch) -> (state, metrics)`.

    The batch is the global one on the host: (M B, H, W, C) images and (M B,) labels, rows m B to
    (m + 1) B for member m. The state is donated: the one passed in must not be used again. Metrics
    are scalars on the device: loss, regression_loss, label_loss, target_accuracy, online_loss,
    ridge_raised, ridge_in_force, grad_norm_images, grad_norm_labels, learning_rate; means over the
    members.

    Args:
      parts: what the step is made of.
      state: a state (or its shapes) as `initial_state` gives it.

    Raises:
      InputError: the sizes do not divide over the mesh.
    """
    config, mesh = parts.config, parts.mesh
    check_sizes(mesh, parts.pool.members, parts.batch)
    optimiser, schedule = lamb(config), learning_rate_schedule(config)
    members = parts.pool.members

    gradient_map, pool_map = make_meta_gradient(parts), make_pool_update(parts)

    def step(state: DistillState, batch: Batch) -> tuple[DistillState, Metrics]:
        by_member = jax.tree.map(lambda x: x.reshape(members, parts.batch, *x.shape[1:]), batch)
        grads, metrics = gradient_map(state.step, state.distilled, state.pool, by_member)
        if not config.learn_labels:
            grads = grads._replace(labels=jnp.zeros_like(grads.labels))
        updates, optimiser_state = optimiser.update(grads, state.optimiser, state.distilled)
        distilled = DistilledSet(*optax.apply_updates(state.distilled, updates))
        pool, online = pool_map(state.step, distilled, state.pool)
        metrics |= {
            "online_loss": online,
            "grad_norm_images": optax.tree.norm(grads.images),
            "grad_norm_labels": optax.tree.norm(grads.labels),
            "learning_rate": jnp.asarray(schedule(state.step)),
        }
        newly_bad = (state.first_bad_step == NEVER) & ~jnp.isfinite(metrics["loss"])
        new_state = DistillState(
            step=state.step + 1,
            distilled=distilled,
            optimiser=optimiser_state,
            pool=pool,
            best=state.best,
            first_bad_step=jnp.where(newly_bad, state.step, state.first_bad_step),
        )
        return new_state, metrics

    shardings = state_shardings(state, mesh)
    # A batch comes in as rows over both axes: member by member, each over its row of the mesh.
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, over(mesh, (POOL, DATA))),
        out_shardings=(shardings, over(mesh)),
    )


def make_meta_gradient(
    parts: OuterStep,
) -> Callable[[jax.Array, DistilledSet, PoolState, Batch], tuple[DistilledSet, Metrics]]:
    """`(step, distilled, pool, batch) -> (gradient, metrics)`: section 4, steps 1 to 4.

    The batch has a leading axis of M members, (M, B, ...). To be called under `jax.jit`.
    """
    # check_vma is off: what is the same on all devices of an axis is so by construction here, and
    # the gradients inside are the pmap kind (STACK.md section 0, item 3).
    return jax.shard_map(
        partial(_meta_gradient, parts),
        mesh=parts.mesh,
        in_specs=(P(), P(DATA), P(POOL), P(POOL, DATA)),
        out_specs=(P(DATA), P()),
        check_vma=False,
    )


def make_pool_update(
    parts: OuterStep,
) -> Callable[[jax.Array, DistilledSet, PoolState], tuple[PoolState, jax.Array]]:
    """`(step, distilled, pool) -> (pool, online loss)`: section 4, step 6."""
    return jax.shard_map(
        partial(_advance_pool, parts),
        mesh=parts.mesh,
        in_specs=(P(), P(DATA), P(POOL)),
        out_specs=(P(POOL), P()),
        check_vma=False,
    )


def chosen_members(parts: OuterStep, step: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """For each stratum of this mesh row: the chosen member's place here and in the whole pool."""
    here = parts.pool.members // parts.mesh.shape[POOL]
    first = jax.lax.axis_index(POOL) * here
    chosen = []
    for local in range(here):
        stratum = first + local
        key = key_for(parts.config.seed, Purpose.MEMBER_CHOICE, step, stratum)
        within = jax.random.randint(key, (), 0, parts.pool.stratum)
        chosen.append((local * parts.pool.stratum + within, stratum * parts.pool.stratum + within))
    return chosen


def _meta_gradient(
    parts: OuterStep, step: jax.Array, distilled: DistilledSet, pool: PoolState, batch: Batch
) -> tuple[DistilledSet, Metrics]:
    """The mean over the members of the gradient of the outer loss, this device's rows of it."""
    images, labels = distilled
    here = jax.lax.axis_index(DATA) * len(images) + jnp.arange(len(images))
    real = (here < parts.size).astype(images.dtype)
    grad_images, grad_labels = jnp.zeros_like(images), jnp.zeros_like(labels)
    sums: Metrics = {}
    for number, (local, _) in enumerate(chosen_members(parts, step)):
        own = Batch(batch.images[number], batch.labels[number])
        d_images, d_labels, found = _member_gradient(
            parts, take_member(pool, local), images, labels, real, own
        )
        grad_images, grad_labels = grad_images + d_images, grad_labels + d_labels
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    members = parts.pool.members
    grads = DistilledSet(grad_images / members, grad_labels / members)
    grads = jax.lax.psum(grads, POOL)
    metrics = {name: jax.lax.psum(value, POOL) / members for name, value in sums.items()}

    # The label margin term is the same for every member.
    def margin(labels: jax.Array) -> jax.Array:
        return -jnp.sum(real * label_margins(labels)) / parts.size

    value, slope = jax.value_and_grad(margin)(labels)
    metrics["label_loss"] = jax.lax.psum(value, DATA)
    metrics["loss"] = metrics["regression_loss"] + metrics["label_loss"]
    return grads._replace(labels=grads.labels + slope), metrics


def _member_gradient(
    parts: OuterStep,
    member: Member,
    images: jax.Array,
    labels: jax.Array,
    real: jax.Array,
    batch: Batch,
) -> tuple[jax.Array, jax.Array, Metrics]:
    """One member's regression on this device's rows: gradients and metrics (section 4, 2 to 4)."""
    config, module, platform = parts.config, parts.module, platform_of(parts.mesh)
    ridge = parts.ridge.resolved(parts.mesh.devices.flat[0])
    rows = 2 * parts.size if config.flip else parts.size
    if config.flip:
        seen = jnp.concatenate([images, images[:, :, ::-1]])
        y_rK, weight = jnp.concatenate([labels, labels]), jnp.concatenate([real, real])[:, None]
    else:
        seen, y_rK, weight = images, labels, real[:, None]

    f_bd = chunked_features(module, member, batch.images, config, platform)
    f_rd = chunked_features(module, member, seen, config, platform) * weight
    weights = partial(ridge_weights, rows=rows, config=ridge, axis=DATA)
    w_dK, pull_back, guard = jax.vjp(weights, f_rd, y_rK, has_aux=True)
    targets = centred_onehot(batch.labels, labels.shape[-1], labels.dtype)
    with jax.default_matmul_precision("highest"):
        pred_bK = f_bd @ w_dK
        error_bK = pred_bK - targets
        dw_dK = jax.lax.psum(f_bd.T @ error_bK, DATA) / parts.batch
    df_rd, dy_rK = pull_back(dw_dK)
    d_seen = chunked_image_gradient(module, member, seen, df_rd * weight, config, platform)
    dy_rK = dy_rK * weight
    if config.flip:
        n = len(images)
        d_images, d_labels = d_seen[:n] + d_seen[n:, :, ::-1], dy_rK[:n] + dy_rK[n:]
    else:
        d_images, d_labels = d_seen, dy_rK
    hits = jnp.sum(jnp.argmax(pred_bK, -1) == batch.labels, dtype=labels.dtype)
    metrics = {
        "regression_loss": jax.lax.psum(jnp.sum(half_squared_errors(error_bK)), DATA) / parts.batch,
        "target_accuracy": jax.lax.psum(hits, DATA) / parts.batch,
        "ridge_raised": guard.raised.astype(labels.dtype),
        "ridge_in_force": guard.ridge,
    }
    return d_images, d_labels, metrics


def _advance_pool(
    parts: OuterStep, step: jax.Array, distilled: DistilledSet, pool: PoolState
) -> tuple[PoolState, jax.Array]:
    """Section 4, step 6, for each chosen member: replaced if too old, else trained once."""
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    config, seed = parts.pool, parts.config.seed
    losses = jnp.zeros((), distilled.labels.dtype)
    for local, index in chosen_members(parts, step):
        member = take_member(pool, local)
        trained, loss = online_step(
            parts.module, config, member, online_minibatch(parts, step, index, distilled)
        )
        key = key_for(seed, Purpose.MEMBER_RESET, step, index)
        # Only the cheap branch sits in the conditional: convolution gradients inside XLA's control
        # flow are many times slower on CPU (STACK.md section 7). One update in T is thrown away.
        member = jax.lax.cond(
            member.age > config.max_online,
            lambda key=key: fresh_member(parts.module, config, key, image, 0),
            lambda trained=trained: trained,
        )
        pool = put_member(pool, local, member)
        losses = losses + loss
    return pool, jax.lax.psum(losses, POOL) / config.members


def online_minibatch(
    parts: OuterStep, step: jax.Array, index: jax.Array, distilled: DistilledSet
) -> Minibatch:
    """This device's part of the `min(N, batch)` synthetic images a member trains on.

    All of them where they fit, each where it is: the mean over a batch does not depend on order.
    Otherwise a draw without replacement that is a function of (seed, step, member), spread evenly;
    each image then crosses the axis once.
    """
    images, labels = distilled
    data, n = parts.mesh.shape[DATA], len(images)
    first = jax.lax.axis_index(DATA) * n
    if parts.size <= parts.pool.batch:
        return Minibatch(images, labels, first + jnp.arange(n) < parts.size, parts.size, DATA)
    size = parts.pool.batch
    key = key_for(parts.config.seed, Purpose.ONLINE_BATCH, step, index)
    rows = jax.random.permutation(key, parts.size)[:size]
    share = -(-size // data)
    rows = jnp.pad(rows, (0, share * data - size), constant_values=-1)
    local = rows - first
    mine = (local >= 0) & (local < n)

    def spread(x: jax.Array) -> jax.Array:
        shape = (-1,) + (1,) * (x.ndim - 1)
        part = x[jnp.clip(local, 0, n - 1)] * mine.reshape(shape).astype(x.dtype)
        return jax.lax.psum_scatter(part, DATA, scatter_dimension=0, tiled=True)

    weights = jax.lax.axis_index(DATA) * share + jnp.arange(share) < size
    return Minibatch(spread(images), spread(labels), weights, size, DATA)
