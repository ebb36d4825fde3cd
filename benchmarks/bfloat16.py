"""What FEATURE_DTYPE and NET_DTYPE = bfloat16 do to an outer step and to the nets of the pool.

    python benchmarks/bfloat16.py fashion_mnist_ipc10.gin --gin.DATA_DIR=PATH --gin.WIDTH=32

The distilled set is the initial one of the recipe (real images); the target batch is real. The
tables have the relative difference of every number from float32; for gradients and parameters, its
norm and the cosine of the angle between the two.

FEATURE_DTYPE: loss and gradient of one outer step, for a fresh net and for one trained by as many
online steps on that set as the recipe lets a net live. Gram matrix and solve have the recipe's
precision in both.

NET_DTYPE: two nets start from the same parameters and are trained in float32 and in bfloat16. The
table has, after some online steps: loss and gradient norm of the float32 net (values); then the
differences of loss and gradient at its parameters, of the change of the parameters since the start,
of the running statistics, and of the loss and the image gradient of an outer step with each net and
features in float32.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from frepo_scale import config
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.pool import Member, Minibatch, fresh_member, online_loss
from frepo_scale.distill.step import make_meta_gradient, make_pool_update
from frepo_scale.jobs.run import build_run
from frepo_scale.parallel.mesh import DATA
from frepo_scale.train.inputs import Inputs

RIDGES = (1e-6, 1e-3, 1e-1)
ONLINE_STEPS = (0, 1, 10, 100)


def gradient(
    problem: Problem, one: Member, start: DistilledSet, batch: Batch
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, image gradient and label gradient of an outer step with one net."""
    pool = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)
    targets = Batch(batch.images[None], batch.labels[None])
    grads, _, metrics = jax.jit(make_meta_gradient(problem))(
        jnp.int32(0), start, None, pool, targets
    )
    return float(metrics["regression_loss"]), np.asarray(grads.images), np.asarray(grads.labels)


def difference(ours: np.ndarray, truth: np.ndarray) -> str:
    """Relative size of the difference, and the cosine of the angle."""
    size = np.linalg.norm(ours - truth) / np.linalg.norm(truth)
    cosine = np.vdot(ours, truth) / np.linalg.norm(ours) / np.linalg.norm(truth)
    return f"{size:.1e} | {cosine:.4f}"


def flat(tree: Any) -> np.ndarray:
    """All numbers of a tree in one vector; a zero if there are none."""
    return np.concatenate([np.zeros(1), *(np.ravel(leaf) for leaf in jax.tree.leaves(tree))])


def trainer(problem: Problem, start: DistilledSet) -> Callable[[Member], Member]:
    """One online step of one net on the distilled set."""
    alone = problem._replace(pool=replace(problem.pool, size=1, members=1))

    @jax.jit
    def train(one: Member) -> Member:
        pool = jax.tree.map(lambda leaf: leaf[None], one)
        pool = make_pool_update(alone)(jnp.int32(0), start, pool)[0]
        return jax.tree.map(lambda leaf: leaf[0], pool)

    return train


def online_gradient(
    problem: Problem, start: DistilledSet, dtype: str
) -> Callable[[Member], tuple[jax.Array, Any]]:
    """Loss and gradient of one online step on the whole distilled set."""

    def loss_and_gradient(one: Member, distilled: DistilledSet) -> tuple[jax.Array, Any]:
        images, labels = distilled
        batch = Minibatch(images, labels, jnp.ones(len(images)), problem.size)
        (loss, _), grads = jax.value_and_grad(
            lambda p: online_loss(problem.module, p, one.stats, batch, dtype), has_aux=True
        )(one.params)
        return jax.lax.psum((loss, grads), DATA)

    on_mesh = jax.shard_map(
        loss_and_gradient,
        mesh=problem.mesh,
        in_specs=(P(), P(DATA)),
        out_specs=P(),
        check_vma=False,
    )
    return lambda one: jax.jit(on_mesh)(one, start)


def print_features(problem: Problem, fresh: Member, start: DistilledSet, batch: Batch) -> None:
    """The table of FEATURE_DTYPE."""
    train, trained = trainer(problem, start), fresh
    for _ in range(problem.pool.max_online):
        trained = train(trained)
    print("\n| FEATURE_DTYPE: net | ridge | loss | images | cosine | labels | cosine |")
    print("|---" * 7 + "|")
    for label, one in (("fresh", fresh), ("trained", trained)):
        for ridge in RIDGES:
            exact = problem._replace(ridge=replace(problem.ridge, ridge=ridge))
            rounded = exact._replace(config=replace(exact.config, feature_dtype="bfloat16"))
            loss, images, labels = gradient(exact, one, start, batch)
            loss16, images16, labels16 = gradient(rounded, one, start, batch)
            print(
                f"| {label} | {ridge:.0e} | {abs(loss16 / loss - 1):.1e} "
                f"| {difference(images16, images)} | {difference(labels16, labels)} |",
                flush=True,
            )


def print_online(problem: Problem, fresh: Member, start: DistilledSet, batch: Batch) -> None:
    """The table of NET_DTYPE."""
    rounded = problem._replace(pool=replace(problem.pool, dtype="bfloat16"))
    train, train16 = trainer(problem, start), trainer(rounded, start)
    online = online_gradient(problem, start, "float32")
    online16 = online_gradient(problem, start, "bfloat16")
    print(
        "\n| NET_DTYPE: online steps | online loss | gradient norm | loss | gradient | cosine ",
        end="",
    )
    print("| change of parameters | cosine | running statistics | outer loss | images | cosine |")
    print("|---" * 12 + "|")
    one, one16, done = fresh, fresh, 0
    for steps in ONLINE_STEPS:
        for _ in range(done, steps):
            one, one16 = train(one), train16(one16)
        done = steps
        (loss, grads), (loss16, grads16) = online(one), online16(one)
        cells = [f"{float(loss):.2e}", f"{np.linalg.norm(flat(grads)):.2e}"]
        cells += [f"{abs(loss16 / loss - 1):.1e}", difference(flat(grads16), flat(grads))]
        if steps:
            first, stats = flat(fresh.params), flat(one.stats)
            cells.append(difference(flat(one16.params) - first, flat(one.params) - first))
            apart = np.linalg.norm(flat(one16.stats) - stats)
            cells.append(f"{apart / np.linalg.norm(stats):.1e}" if apart else "0")
            outer, images, _ = gradient(problem, one, start, batch)
            outer16, images16, _ = gradient(problem, one16, start, batch)
            cells += [f"{abs(outer16 / outer - 1):.1e}", difference(images16, images)]
        else:
            cells.append("| | | | |")
        print(f"| {steps} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Prints both tables."""
    name, *given = sys.argv[1:]
    overrides = dict(item.removeprefix("--gin.").split("=", 1) for item in given)
    built = build_run(config.load_recipe(config.find_recipe(name), overrides))
    split = Inputs(built.dataset, built.dataset.fit_preprocessing(), built.mesh).train
    start = DistilledSet(*map(jnp.asarray, built.start(split)))
    rows = np.random.default_rng(0).permutation(len(split.labels))[: built.config.data.batch]
    batch = Batch(jnp.asarray(split.at(rows)), jnp.asarray(split.labels[rows]))
    problem = built.algorithm.problem
    image = jax.ShapeDtypeStruct(start.images.shape[1:], start.images.dtype)
    fresh = fresh_member(problem.module, problem.pool, jax.random.key(0), image, 0)
    print_online(problem, fresh, start, batch)
    print_features(problem, fresh, start, batch)


if __name__ == "__main__":
    main()
