"""The standard nets as pool nets: one outer step each."""

import jax
import numpy as np
import pytest

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "args"),
    [
        ("alexnet", 8, {"width_multiplier": 1 / 32}),
        ("vgg11", 32, {"width_multiplier": 1 / 32}),
        ("resnet10", 8, {"width_multiplier": 1 / 32}),
        ("resnet18", 8, {"width_multiplier": 1 / 32}),
        ("mlp", 8, {}),
    ],
)
def test_one_outer_step(name, side, args):
    module = build_net(NetConfig(name, 8, 2, "batch", args), 3, (side, side, 3))
    config = DistillConfig(ipc=1, steps=4, learning_rate=1e-2, flip=False, seed=0)
    problem = Problem(
        module,
        config,
        PoolConfig(size=2, max_online=4),
        RidgeConfig(1e-3),
        single_device_mesh(),
        size=3,
        batch=6,
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(9, side, side, 3)).astype(np.float32)
    labels = (np.eye(3) - 1 / 3).astype(np.float32)
    algorithm = FRePo(problem)
    state = initial_train_state(algorithm, DistilledSet(images[:3], labels))
    pool = jax.tree.map(np.array, (state.algorithm.pool.params, state.algorithm.pool.stats))
    step = make_train_step(algorithm, state)
    state, metrics = step(state, Batch(images[3:], np.array([0, 1, 2] * 2, np.int32)))
    assert all(np.isfinite(float(value)) for value in metrics.values())
    moved = np.asarray(state.algorithm.distilled.images)[:3] - images[:3]
    assert np.isfinite(moved).all() and np.any(moved, axis=(1, 2, 3)).all()
    # One of the two members took an online step: weights and running statistics changed.
    after = (state.algorithm.pool.params, state.algorithm.pool.stats)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    changed = [
        np.any(old != np.asarray(new), axis=tuple(range(1, old.ndim)))
        for old, new in zip(*map(jax.tree.leaves, (pool, after)), strict=True)
    ]
    assert np.mean([members.sum() == 1 for members in changed]) > 0.8
