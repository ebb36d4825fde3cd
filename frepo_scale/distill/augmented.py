"""Augmentation of the images of an outer step (docs/algorithm.md section 8c).

Target batch and synthetic images of a member get the same operation, as in the siamese augmentation
of Zhao and Bilen 2021, and each image strengths of its own. All draws are a function of (seed,
step, member, image), so they are the same on every mesh. The gradient passes through the
augmentation of the synthetic images.

Legend: n synthetic images and b target images of this device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.augment import augment_rows
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.features import map_chunks
from frepo_scale.parallel.mesh import DATA, platform_of


def augmented(
    problem: Problem, step: jax.Array, index: jax.Array, batch: Batch, distilled: DistilledSet
) -> tuple[Batch, DistilledSet, Callable[[DistilledSet], DistilledSet]]:
    """The images that a member sees at a step, inside `shard_map` over the mesh.

    Args:
      problem: the input of the algorithm.
      step: int32 scalar.
      index: int32 scalar, the member.
      batch: this device's target images (b, H, W, C) and labels.
      distilled: this device's synthetic images (n, H, W, C) and labels.

    Returns:
      The augmented batch, the augmented set, and a function from the gradient with respect to the
      augmented set to that with respect to the set. Without augmentation all is as given.
    """
    config = problem.augment
    if config is None:
        return batch, distilled, lambda gradient: gradient
    key = key_for(problem.config.seed, Purpose.OUTER_AUGMENT, step, index)
    chunk, platform = problem.config.chunk, platform_of(problem.mesh)

    def numbers(count: int) -> jax.Array:
        return jax.lax.axis_index(DATA) * count + jnp.arange(count)

    def apply(images: jax.Array, rows: jax.Array) -> jax.Array:
        return augment_rows(key, images, rows, config)

    def pull_back(images: jax.Array, rows: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(lambda images: apply(images, rows), images)[1](cotangent)[0]

    rows = numbers(len(distilled.images))
    seen = map_chunks(apply, chunk, platform, distilled.images, rows)
    # Behind the synthetic images: no target image has the draws of one of them.
    targets = problem.size + numbers(len(batch.images))
    own = batch._replace(images=map_chunks(apply, chunk, platform, batch.images, targets))

    def to_set(gradient: DistilledSet) -> DistilledSet:
        images = map_chunks(pull_back, chunk, platform, distilled.images, rows, gradient.images)
        return gradient._replace(images=images)

    return own, distilled._replace(images=seen), to_set
