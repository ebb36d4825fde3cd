"""The outer step: one update of the distilled set, then one of each pool member that was used.

Source: docs/algorithm.md section 4. The same code runs on one device and on a pod. Every random
choice is a function of (seed, step), so only the target batch comes from the host.

Two `shard_map`s over the mesh ("pool", "data"), and LAMB between them on the sharded arrays:
1. `_meta_gradient`: each row of the mesh computes the gradient of its members. Devices exchange
   features and sums of the regression over "data", the mean gradient and metrics over "pool".
2. `_advance_pool`: each row trains its members on the updated set. Devices exchange the images of
   the online minibatch, the gradient and the BatchNorm sums over "data", nothing over "pool".

No gradient is taken through collectives: `regression.ridge` has its own backward pass, which gives
the gradient with respect to features. Each device computes the gradient of its own images from it.

Legend: N synthetic images, n of them on this device (padded), B target batch, b of it here, R rows
of the regression (N, or 2N with flip), d features, K classes, M members per step, P pool size.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet, centred_onehot
from frepo_scale.distill.algorithm import Metrics, Problem
from frepo_scale.distill.features import chunked_features, chunked_image_gradient
from frepo_scale.distill.pool import (
    Member,
    Minibatch,
    PoolState,
    fresh_member,
    online_step,
    put_member,
    take_member,
)
from frepo_scale.parallel.mesh import DATA, POOL, platform_of
from frepo_scale.regression.loss import half_squared_errors, label_margins
from frepo_scale.regression.ridge import adjoint, solve


def make_meta_gradient(
    problem: Problem,
) -> Callable[[jax.Array, DistilledSet, PoolState, Batch], tuple[DistilledSet, Metrics]]:
    """`(step, distilled, pool, batch) -> (gradient, metrics)`: section 4, steps 1 to 4.

    The batch has a leading axis of M members, (M, B, ...). To be called under `jax.jit`.
    """
    # check_vma is off: values that are equal on all devices of an axis are so by construction, and
    # a gradient inside is that of the device's own values, without a sum over the axis.
    return jax.shard_map(
        partial(_meta_gradient, problem),
        mesh=problem.mesh,
        in_specs=(P(), P(DATA), P(POOL), P(POOL, DATA)),
        out_specs=(P(DATA), P()),
        check_vma=False,
    )


def make_pool_update(
    problem: Problem,
) -> Callable[[jax.Array, DistilledSet, PoolState], tuple[PoolState, jax.Array]]:
    """`(step, distilled, pool) -> (pool, online loss)`: section 4, step 6."""
    return jax.shard_map(
        partial(_advance_pool, problem),
        mesh=problem.mesh,
        in_specs=(P(), P(DATA), P(POOL)),
        out_specs=(P(POOL), P()),
        check_vma=False,
    )


def chosen_members(problem: Problem, step: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """For each stratum of this mesh row: the index of the chosen member here and in the pool."""
    here = problem.pool.members // problem.mesh.shape[POOL]
    first = jax.lax.axis_index(POOL) * here
    chosen = []
    for local in range(here):
        stratum = first + local
        key = key_for(problem.config.seed, Purpose.MEMBER_CHOICE, step, stratum)
        within = jax.random.randint(key, (), 0, problem.pool.stratum)
        chosen.append(
            (local * problem.pool.stratum + within, stratum * problem.pool.stratum + within)
        )
    return chosen


def _meta_gradient(
    problem: Problem, step: jax.Array, distilled: DistilledSet, pool: PoolState, batch: Batch
) -> tuple[DistilledSet, Metrics]:
    """The mean over the members of the gradient of the outer loss, this device's rows of it."""
    images, labels = distilled
    here = jax.lax.axis_index(DATA) * len(images) + jnp.arange(len(images))
    real = (here < problem.size).astype(images.dtype)
    grad_images, grad_labels = jnp.zeros_like(images), jnp.zeros_like(labels)
    sums: Metrics = {}
    for number, (local, _) in enumerate(chosen_members(problem, step)):
        own = Batch(batch.images[number], batch.labels[number])
        d_images, d_labels, found = _member_gradient(
            problem, take_member(pool, local), images, labels, real, own
        )
        grad_images, grad_labels = grad_images + d_images, grad_labels + d_labels
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    members = problem.pool.members
    grads = DistilledSet(grad_images / members, grad_labels / members)
    grads = jax.lax.psum(grads, POOL)
    metrics = {name: jax.lax.psum(value, POOL) / members for name, value in sums.items()}

    # The label margin term is the same for every member.
    def margin(labels: jax.Array) -> jax.Array:
        return -jnp.sum(real * label_margins(labels)) / problem.size

    value, slope = jax.value_and_grad(margin)(labels)
    metrics["label_loss"] = jax.lax.psum(value, DATA)
    metrics["loss"] = metrics["regression_loss"] + metrics["label_loss"]
    return grads._replace(labels=grads.labels + slope), metrics


def _member_gradient(
    problem: Problem,
    member: Member,
    images: jax.Array,
    labels: jax.Array,
    real: jax.Array,
    batch: Batch,
) -> tuple[jax.Array, jax.Array, Metrics]:
    """One member's regression on this device's rows: gradients and metrics (section 4, 2 to 4)."""
    config, module, platform = problem.config, problem.module, platform_of(problem.mesh)
    ridge = problem.ridge.resolved(problem.mesh.devices.flat[0])
    rows = 2 * problem.size if config.flip else problem.size
    if config.flip:
        seen = jnp.concatenate([images, images[:, :, ::-1]])
        y_rK, weight = jnp.concatenate([labels, labels]), jnp.concatenate([real, real])[:, None]
    else:
        seen, y_rK, weight = images, labels, real[:, None]

    f_bd = chunked_features(module, member, batch.images, config, platform)
    f_rd = chunked_features(module, member, seen, config, platform) * weight
    solution = solve(f_rd, y_rK, rows, ridge, DATA)
    w_dK = solution.w_dK.astype(f_rd.dtype)
    targets = centred_onehot(batch.labels, labels.shape[-1], labels.dtype)
    with jax.default_matmul_precision("highest"):
        pred_bK = f_bd @ w_dK
        error_bK = pred_bK - targets
        dw_dK = jax.lax.psum(f_bd.T @ error_bK, DATA) / problem.batch
    df_rd, dy_rK, error = adjoint(solution, dw_dK, rows, ridge, DATA)
    d_seen = chunked_image_gradient(module, member, seen, df_rd * weight, config, platform)
    dy_rK = dy_rK * weight
    if config.flip:
        n = len(images)
        d_images, d_labels = d_seen[:n] + d_seen[n:, :, ::-1], dy_rK[:n] + dy_rK[n:]
    else:
        d_images, d_labels = d_seen, dy_rK
    hits = jnp.sum(jnp.argmax(pred_bK, -1) == batch.labels, dtype=labels.dtype)
    squared = jnp.sum(half_squared_errors(error_bK))
    metrics = {
        "regression_loss": jax.lax.psum(squared, DATA) / problem.batch,
        "target_accuracy": jax.lax.psum(hits, DATA) / problem.batch,
        "ridge_raised": solution.raised.astype(labels.dtype),
        "ridge_in_force": solution.ridge.astype(labels.dtype),
        "gradient_error_bound": error.astype(labels.dtype),
    }
    return d_images, d_labels, metrics


def _advance_pool(
    problem: Problem, step: jax.Array, distilled: DistilledSet, pool: PoolState
) -> tuple[PoolState, jax.Array]:
    """Section 4, step 6, for each chosen member: replaced if too old, else trained once."""
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    config, seed = problem.pool, problem.config.seed
    losses = jnp.zeros((), distilled.labels.dtype)
    for local, index in chosen_members(problem, step):
        member = take_member(pool, local)
        trained, loss = online_step(
            problem.module, config, member, online_minibatch(problem, step, index, distilled)
        )
        key = key_for(seed, Purpose.MEMBER_RESET, step, index)
        # The online step is outside of the conditional: on CPU the gradient of a convolution is
        # many times slower inside XLA's control flow. One update in T + 1 is discarded.
        member = jax.lax.cond(
            member.age > config.max_online,
            lambda key=key: fresh_member(problem.module, config, key, image, 0),
            lambda trained=trained: trained,
        )
        pool = put_member(pool, local, member)
        losses = losses + loss
    return pool, jax.lax.psum(losses, POOL) / config.members


def online_minibatch(
    problem: Problem, step: jax.Array, index: jax.Array, distilled: DistilledSet
) -> Minibatch:
    """This device's part of the `min(N, batch)` synthetic images a member trains on.

    If all images fit, each device uses its own: the mean over a batch does not depend on the order.
    Otherwise a sample without replacement, a function of (seed, step, member), is spread evenly
    over the devices; each image is then sent once.
    """
    images, labels = distilled
    data, n = problem.mesh.shape[DATA], len(images)
    first = jax.lax.axis_index(DATA) * n
    if problem.size <= problem.pool.batch:
        return Minibatch(images, labels, first + jnp.arange(n) < problem.size, problem.size)
    size = problem.pool.batch
    key = key_for(problem.config.seed, Purpose.ONLINE_BATCH, step, index)
    rows = jax.random.permutation(key, problem.size)[:size]
    share = -(-size // data)
    rows = jnp.pad(rows, (0, share * data - size), constant_values=-1)
    local = rows - first
    mine = (local >= 0) & (local < n)

    def spread(x: jax.Array) -> jax.Array:
        shape = (-1,) + (1,) * (x.ndim - 1)
        part = x[jnp.clip(local, 0, n - 1)] * mine.reshape(shape).astype(x.dtype)
        return jax.lax.psum_scatter(part, DATA, scatter_dimension=0, tiled=True)

    weights = jax.lax.axis_index(DATA) * share + jnp.arange(share) < size
    return Minibatch(spread(images), spread(labels), weights, size)
