"""The outer step: one update of the distilled set, then one of each pool member that was used.

Source: docs/algorithm.md section 4. The same code runs on one device and on a pod. Every random
choice is a function of (seed, step), so only the target batch comes from the host.

Two `shard_map`s over the mesh ("pool", "data"), and the optimiser between them on the sharded
arrays:
1. `_meta_gradient`: each row of the mesh computes the gradient of its members, which is the part of
   the algorithm (`distill.member_gradient`). Devices exchange features and sums of the regression
   over "data", the mean gradient and metrics over "pool".
2. `_advance_pool`: each row trains its members on the updated set. Devices exchange the images of
   the online minibatch, the gradient and the BatchNorm sums over "data", nothing over "pool".

Legend: N synthetic images, n of them on this device (padded), B target batch, K classes, M members
per step, P pool size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.augmented import augmented
from frepo_scale.distill.chosen import Chosen, choose
from frepo_scale.distill.member_gradient import Gradient, MemberGradient, frepo_gradient
from frepo_scale.distill.members import chosen_member, over_members, sum_over_members
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
from frepo_scale.regression.loss import label_margins


def make_meta_gradient(
    problem: Problem, member_gradient: MemberGradient = frepo_gradient
) -> Callable[[jax.Array, DistilledSet, jax.Array | None, PoolState, Batch], Gradient]:
    """`(step, distilled, sharpness, pool, batch) -> gradient`: section 4, steps 1 to 4.

    The batch has a leading axis of M members, (M, B, ...). To be called under `jax.jit`.

    Args:
      problem: the input of the algorithm.
      member_gradient: the gradient of one member.
    """
    by_row: Any = (P(DATA), P(), P())
    # check_vma is off: values that are equal on all devices of an axis are so by construction, and
    # a gradient inside is that of the device's own values, without a sum over the axis.
    return jax.shard_map(
        partial(_meta_gradient, problem, member_gradient),
        mesh=problem.mesh,
        in_specs=(P(), P(DATA), P(), P(POOL), P(POOL, DATA)),
        out_specs=Gradient(*by_row),
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


def _meta_gradient(
    problem: Problem,
    member_gradient: MemberGradient,
    step: jax.Array,
    distilled: DistilledSet,
    sharpness: jax.Array | None,
    pool: PoolState,
    batch: Batch,
) -> Gradient:
    """The mean over the members of the gradient of the outer loss, this device's rows of it."""
    images, labels = distilled
    here = jax.lax.axis_index(DATA) * len(images) + jnp.arange(len(images))
    real = (here < problem.size).astype(images.dtype)

    def of_member(number: int | jax.Array) -> Gradient:
        local, index = chosen_member(problem, step, number)
        own = Batch(batch.images[number], batch.labels[number])
        chosen = gradient_rows(problem, step, index)
        own, seen, to_set = augmented(problem, step, index, own, distilled)
        found = member_gradient(
            problem, take_member(pool, local), seen, real, own, sharpness, chosen
        )
        return found._replace(distilled=to_set(found.distilled))

    grads, slope, sums = sum_over_members(problem, of_member)
    members = problem.pool.members
    grads, slope = jax.lax.psum(jax.tree.map(lambda x: x / members, (grads, slope)), POOL)
    metrics = {name: jax.lax.psum(value, POOL) / members for name, value in sums.items()}

    # The label margin term is the same for every member.
    def margin(labels: jax.Array) -> jax.Array:
        return -jnp.sum(real * label_margins(labels, problem.outer.margin)) / problem.size

    value, d_labels = jax.value_and_grad(margin)(labels)
    metrics["label_loss"] = jax.lax.psum(value, DATA)
    metrics["loss"] = metrics["regression_loss"] + metrics["label_loss"]
    return Gradient(grads._replace(labels=grads.labels + d_labels), slope, metrics)


def gradient_rows(problem: Problem, step: jax.Array, index: jax.Array) -> Chosen | None:
    """The images that get a gradient through a member at a step; None: all."""
    count = problem.outer.gradient_images
    if not 0 < count < problem.size:
        return None
    key = key_for(problem.config.seed, Purpose.GRADIENT_ROWS, step, index)
    return choose(key, problem.size, count, problem.mesh.shape[DATA])


def _advance_pool(
    problem: Problem, step: jax.Array, distilled: DistilledSet, pool: PoolState
) -> tuple[PoolState, jax.Array]:
    """Section 4, step 6, for each chosen member: replaced if too old, else trained once."""
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    config, seed = problem.pool, problem.config.seed
    count = online_count(problem, step)

    def advance(
        number: int | jax.Array, carry: tuple[PoolState, jax.Array]
    ) -> tuple[PoolState, jax.Array]:
        pool, losses = carry
        local, index = chosen_member(problem, step, number)
        member = take_member(pool, local)
        trained, loss = _train_online(problem, step, index, count, member, distilled)
        key = key_for(seed, Purpose.MEMBER_RESET, step, index)
        # The online step is outside of the conditional: on CPU the gradient of a convolution is
        # many times slower inside XLA's control flow. One update in T + 1 is discarded.
        member = jax.lax.cond(
            member.age > config.max_online,
            lambda: fresh_member(problem.module, config, key, image, 0),
            lambda: trained,
        )
        return put_member(pool, local, member), losses + loss

    start = pool, jnp.zeros((), distilled.labels.dtype)
    pool, losses = over_members(problem, advance, start)
    return pool, jax.lax.psum(losses, POOL) / config.members


def online_count(problem: Problem, step: jax.Array) -> int | jax.Array:
    """Online steps of this outer step: fixed, or drawn from 1 to `ONLINE_STEPS`.

    One draw for all members: the devices of a pod then leave the loop together.
    """
    most = problem.pool.online_steps
    if not problem.pool.draw_online_steps or most == 1:
        return most
    key = key_for(problem.config.seed, Purpose.ONLINE_COUNT, step)
    return jax.random.randint(key, (), 1, most + 1)


def _train_online(
    problem: Problem,
    step: jax.Array,
    index: jax.Array,
    count: int | jax.Array,
    member: Member,
    distilled: DistilledSet,
) -> tuple[Member, jax.Array]:
    """A member after `count` online steps, and the loss before the first of them."""
    most = problem.pool.online_steps

    def once(number: int | jax.Array, member: Member) -> tuple[Member, jax.Array]:
        minibatch = online_minibatch(problem, step, index, distilled, number)
        return online_step(problem.module, problem.pool, member, minibatch)

    first = once(0, member)
    if most == 1:
        return first
    if platform_of(problem.mesh) == "cpu":
        # Unrolled: on CPU the gradient of a convolution is many times slower inside a loop. The
        # steps beyond a drawn count are computed too, and their result is not used.
        trained = first[0]
        for number in range(1, most):
            following, _ = once(number, trained)
            used = jnp.asarray(number < count)
            trained = jax.tree.map(partial(jnp.where, used), following, trained)
    else:
        trained = jax.lax.fori_loop(
            1, count, lambda number, member: once(number, member)[0], first[0]
        )
    return trained, first[1]


def online_minibatch(
    problem: Problem,
    step: jax.Array,
    index: jax.Array,
    distilled: DistilledSet,
    number: int | jax.Array = 0,
) -> Minibatch:
    """This device's part of the `min(N, batch)` synthetic images a member trains on.

    If all images fit, each device uses its own: the mean over a batch does not depend on the order.
    Otherwise a sample without replacement, a function of (seed, step, member) and of the number of
    the online step where there are several, is spread evenly over the devices; each image is then
    sent once.
    """
    images, labels = distilled
    if problem.size <= problem.pool.batch:
        here = jax.lax.axis_index(DATA) * len(images) + jnp.arange(len(images))
        return Minibatch(images, labels, here < problem.size, problem.size)
    size = problem.pool.batch
    key = key_for(problem.config.seed, Purpose.ONLINE_BATCH, step, index)
    if problem.pool.online_steps > 1:
        key = jax.random.fold_in(key, number)
    chosen = choose(key, problem.size, size, problem.mesh.shape[DATA])
    return Minibatch(chosen.spread(images), chosen.spread(labels), chosen.weights(), size)
