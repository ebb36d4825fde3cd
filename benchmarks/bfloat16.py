"""What FEATURE_DTYPE = bfloat16 does to the loss and the gradient of one outer step.

    python benchmarks/bfloat16.py fashion_mnist_ipc10.gin --gin.DATA_DIR=PATH --gin.WIDTH=32

The distilled set is the recipe's start (real images), the target batch real, the nets one fresh
and one trained by as many online steps on that set as the recipe lets a net live. Against float32:
relative difference of the loss, and of the gradient with respect to images and labels its relative
size and the cosine between the two. Gram matrix and solve have the recipe's precision in both.
"""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale import config
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.pool import Member, fresh_member
from frepo_scale.distill.step import make_meta_gradient, make_pool_update
from frepo_scale.jobs.run import build_run
from frepo_scale.train.inputs import Inputs

RIDGES = (1e-6, 1e-3, 1e-1)


def gradient(
    problem: Problem, one: Member, start: DistilledSet, batch: Batch
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss, image gradient and label gradient for one net."""
    pool = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)
    targets = Batch(batch.images[None], batch.labels[None])
    grads, metrics = jax.jit(make_meta_gradient(problem))(jnp.int32(0), start, pool, targets)
    return float(metrics["regression_loss"]), np.asarray(grads.images), np.asarray(grads.labels)


def difference(ours: np.ndarray, truth: np.ndarray) -> str:
    """Relative size of the difference, and the cosine of the angle."""
    size = np.linalg.norm(ours - truth) / np.linalg.norm(truth)
    cosine = np.vdot(ours, truth) / np.linalg.norm(ours) / np.linalg.norm(truth)
    return f"{size:.1e} | {cosine:.4f}"


def main() -> None:
    """Prints the table."""
    name, *given = sys.argv[1:]
    overrides = dict(item.removeprefix("--gin.").split("=", 1) for item in given)
    built = build_run(config.load_recipe(config.find_recipe(name), overrides))
    split = Inputs(built.dataset, built.dataset.fit_preprocessing(), built.mesh).train
    start = DistilledSet(*map(jnp.asarray, built.start(split)))
    rows = np.random.default_rng(0).permutation(len(split.labels))[: built.config.data.batch]
    batch = Batch(jnp.asarray(split.at(rows)), jnp.asarray(split.labels[rows]))

    step = replace_ridge(built.algorithm.problem, 1e-6)
    image = jax.ShapeDtypeStruct(start.images.shape[1:], start.images.dtype)
    fresh = fresh_member(step.module, step.pool, jax.random.key(0), image, 0)
    alone = step._replace(pool=replace(step.pool, size=1, members=1))
    train = jax.jit(lambda pool: make_pool_update(alone)(jnp.int32(0), start, pool)[0])
    pool = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], fresh)
    for _ in range(step.pool.max_online):
        pool = train(pool)
    trained = jax.tree.map(lambda leaf: leaf[0], pool)

    print("| net | ridge | loss | images | cosine | labels | cosine |")
    print("|---" * 7 + "|")
    for label, one in (("fresh", fresh), ("trained", trained)):
        for ridge in RIDGES:
            exact = replace_ridge(step, ridge)
            rounded = exact._replace(config=replace(exact.config, feature_dtype="bfloat16"))
            loss, images, labels = gradient(exact, one, start, batch)
            loss16, images16, labels16 = gradient(rounded, one, start, batch)
            print(
                f"| {label} | {ridge:.0e} | {abs(loss16 / loss - 1):.1e} "
                f"| {difference(images16, images)} | {difference(labels16, labels)} |",
                flush=True,
            )


def replace_ridge(step: Problem, ridge: float) -> Problem:
    """The same step with another ridge."""
    return step._replace(ridge=replace(step.ridge, ridge=ridge))


if __name__ == "__main__":
    main()
