"""Padding to the mesh and back: checkpoints do not depend on it."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import (
    checkpoint_tree,
    from_checkpoint_tree,
    initial_train_state,
    train_state_shapes,
    unpadded,
)
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import MeshConfig, build_mesh, single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

MODULE = ConvNet(num_classes=3, width=2, depth=1)
CONFIG, POOL = DistillConfig(ipc=2, steps=10), PoolConfig(size=4, members=2)


def start():
    rng = np.random.default_rng(0)
    return DistilledSet(
        rng.normal(size=(6, 4, 4, 1)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    )


def algorithm(mesh):
    return FRePo(Problem(MODULE, CONFIG, POOL, RidgeConfig(), mesh, size=6, batch=4))


def test_nothing_is_padded_on_one_device():
    frepo = algorithm(single_device_mesh())
    assert frepo.rows == 6
    state = initial_train_state(frepo, start())
    tree = checkpoint_tree(frepo, state)
    assert tree.distilled.images is state.algorithm.distilled.images
    assert from_checkpoint_tree(frepo, tree, state) == state
    np.testing.assert_array_equal(unpadded(state.algorithm.distilled, 6).images, start().images)


def test_the_tree_on_disk_has_the_fields_of_earlier_versions():
    frepo = algorithm(single_device_mesh())
    tree = checkpoint_tree(frepo, initial_train_state(frepo, start()))
    assert tree._fields == (*("step", "distilled", "optimiser", "pool", "best", "first_bad_step"),)


def test_shapes_without_computing():
    frepo = algorithm(single_device_mesh())
    shapes = train_state_shapes(frepo, start())
    state = initial_train_state(frepo, start())
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


def on_eight_devices():
    """Runs in a separate process; prints what the test asserts on."""
    frepo, alone = algorithm(build_mesh(MeshConfig(2, 4))), algorithm(single_device_mesh())
    train_state = initial_train_state(frepo, start())
    state = train_state.algorithm
    cut = checkpoint_tree(frepo, train_state)
    again = from_checkpoint_tree(frepo, cut, train_state)
    one = checkpoint_tree(alone, initial_train_state(alone, start()))
    same = lambda a, b: all(  # noqa: E731
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    shards = state.distilled.images.addressable_shards
    print(
        json.dumps(
            {
                "padded": list(state.distilled.images.shape),
                "shard": list(shards[0].data.shape),
                "pool_shard": list(state.pool.age.addressable_shards[0].data.shape),
                "padding_is_zero": not np.any(np.asarray(state.distilled.images)[6:]),
                "checkpoint_like_one_device": same(cut, one),
                "back": same(again, train_state),
                "shardings_back": all(
                    x.sharding == y.sharding
                    for x, y in zip(*map(jax.tree.leaves, (again, train_state)), strict=True)
                ),
            }
        )
    )


@pytest.mark.slow
def test_padding_on_a_mesh():
    process = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert json.loads(process.stdout.splitlines()[-1]) == {
        "padded": [8, 4, 4, 1],
        "shard": [2, 4, 4, 1],
        "pool_shard": [2],
        "padding_is_zero": True,
        "checkpoint_like_one_device": True,
        "back": True,
        "shardings_back": True,
    }


if __name__ == "__main__":
    on_eight_devices()
