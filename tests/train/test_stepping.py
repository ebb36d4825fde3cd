"""Several steps in one call are the steps one by one."""

import jax
import numpy as np
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.feed import Feed, target_rows
from frepo_scale.data.net_inputs import replicated
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.stepping import steps_and_batches

pytestmark = pytest.mark.slow
MESH, MOST = single_device_mesh(), 4


def feed(placement):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
    part = Split(images, rng.integers(0, 3, 20).astype(np.int32))
    one = np.full(1, 0.5, np.float32)
    constants = replicated(Preprocessing(one, one, None), MESH)
    return Feed(part, GlobalOrder(20, 8, seed=1), placement, constants, MESH)


def algorithm():
    module = ConvNet(num_classes=3, width=2, depth=1)
    config, pool = DistillConfig(ipc=2, steps=10), PoolConfig(size=4, max_online=3)
    return FRePo(Problem(module, config, pool, RidgeConfig(1e-3), MESH, size=6, batch=8))


def start():
    rng = np.random.default_rng(0)
    return initial_train_state(
        algorithm(),
        DistilledSet(
            rng.normal(size=(6, 4, 4, 1)).astype(np.float32),
            rng.normal(size=(6, 3)).astype(np.float32),
        ),
    )


@pytest.fixture(scope="module")
def several():
    """The function of several steps, compiled once."""
    with steps_and_batches(algorithm(), start(), feed("device"), 0, MOST) as (step, _):
        return step


def run(step, calls):
    """The state at the end, and the metrics of the last step of each call."""
    state, found = start(), {}
    with target_rows(feed("device"), 0) as rows:
        for length in calls:
            state, metrics = step(state, tuple(next(rows) for _ in range(length)))
            found[int(state.algorithm.step)] = {k: float(v) for k, v in metrics.items()}
    return state, found


def test_any_division_into_calls_gives_the_same_bits(several):
    alone, each = run(several, [1] * 7)
    together, some = run(several, [4, 1, 2])
    for one, other in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert some == {at: each[at] for at in (4, 5, 7)}

    # Against one batch at a time: another program, so equal to rounding.
    with steps_and_batches(algorithm(), start(), feed("memory"), 0, 0) as (step, batches):
        state = start()
        for at in range(1, 8):
            state, metrics = step(state, next(batches))
            assert metrics.keys() == each[at].keys()
            np.testing.assert_allclose(metrics["loss"], each[at]["loss"], rtol=1e-5)


def test_a_loss_that_is_not_finite_is_seen_at_its_step(several):
    state = start()
    broken = jax.tree.map(lambda x: x * np.nan, state.algorithm.distilled)
    state = state._replace(algorithm=state.algorithm._replace(distilled=broken, step=np.int32(5)))
    state, _ = several(state, tuple(np.arange(8, dtype=np.int32) for _ in range(3)))
    assert int(state.first_bad_step) == 5 and int(state.algorithm.step) == 8
