"""Padding to the mesh and back: what a checkpoint holds does not depend on it."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import (
    initial_state,
    padded_size,
    state_shapes,
    unpadded,
    with_padding,
    without_padding,
)
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import MeshConfig, build_mesh, single_device_mesh

MODULE = ConvNet(num_classes=3, width=2, depth=1)
CONFIG, POOL = DistillConfig(ipc=2, steps=10), PoolConfig(size=4, members=2)


def start():
    rng = np.random.default_rng(0)
    return DistilledSet(
        rng.normal(size=(6, 4, 4, 1)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    )


def test_nothing_is_padded_on_one_device():
    mesh = single_device_mesh()
    assert padded_size(6, mesh) == 6
    state = initial_state(MODULE, CONFIG, POOL, start(), mesh)
    assert without_padding(state, 6, mesh) is state
    assert with_padding(state, mesh) is state
    np.testing.assert_array_equal(unpadded(state.distilled, 6).images, start().images)


def test_shapes_without_computing():
    mesh = single_device_mesh()
    shapes = state_shapes(MODULE, CONFIG, POOL, start())
    state = initial_state(MODULE, CONFIG, POOL, start(), mesh)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


def on_eight_devices():
    """Runs in a process of its own; prints what the test asserts on."""
    mesh = build_mesh(MeshConfig(2, 4))
    state = initial_state(MODULE, CONFIG, POOL, start(), mesh)
    cut = without_padding(state, 6, mesh)
    again = with_padding(cut, mesh)
    one = initial_state(MODULE, CONFIG, POOL, start(), single_device_mesh())
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
                "back": same(again, state),
                "shardings_back": all(
                    x.sharding == y.sharding
                    for x, y in zip(*map(jax.tree.leaves, (again, state)), strict=True)
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
