"""The outer step compiled from shapes: it takes what a run's state takes, chunk by chunk."""

import jax
import numpy as np
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.plan.compile import compile_outer_step, cost_of
from frepo_scale.regression.ridge import RidgeConfig

SIDE, CLASSES, WIDTH, BATCH = 16, 2, 8, 4


def built_for(size, chunk):
    return FRePo(
        Problem(
            ConvNet(num_classes=CLASSES, width=WIDTH, depth=1),
            DistillConfig(ipc=size // CLASSES, chunk=chunk),
            PoolConfig(size=2, batch=BATCH),
            RidgeConfig(1e-3, form="dual"),
            single_device_mesh(),
            size,
            BATCH,
        )
    )


def cost(size, chunk):
    return cost_of(compile_outer_step(built_for(size, chunk), (SIDE, SIDE, 3), CLASSES))


def test_arguments_are_the_state_and_a_batch():
    built = built_for(6, 6)
    rng = np.random.default_rng(0)
    start = DistilledSet(
        rng.normal(size=(6, SIDE, SIDE, 3)).astype(np.float32), np.ones((6, CLASSES), np.float32)
    )
    state = initial_train_state(built, start)
    there = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    batch = BATCH * (SIDE * SIDE * 3 * 4 + 4)
    found = cost_of(compile_outer_step(built, (SIDE, SIDE, 3), CLASSES))
    assert found.arguments == there + batch
    assert found.operations > 0


@pytest.mark.slow
def test_memory_follows_the_chunk_and_not_the_number_of_images():
    """Compilers like to merge the second forward pass with the first, and to overlap chunks."""
    small, large, whole = cost(64, 8), cost(128, 8), cost(128, 128)
    # What may grow: images and their gradient, float64 features and theirs, the Gram matrix.
    dim = WIDTH * (SIDE // 2) ** 2
    rows = 4 * (3 * SIDE * SIDE * 3 + 4 * 2 * dim)
    gram = 8 * 3 * (128**2 - 64**2)
    assert large.temporary - small.temporary <= 64 * rows + gram
    activations = 4 * WIDTH * SIDE * SIDE  # of one image, after the convolution
    assert whole.temporary - large.temporary >= (128 - 2 * 8) * activations
