"""The outer step as a whole: what changes, when, and that the seed fixes it."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_parts.hlo import NETS, counts, frames_of

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import NEVER, initial_train_state, make_keep_as_best, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

MODULE = ConvNet(num_classes=3, width=2, depth=2, norm="batch")
POOL = PoolConfig(size=3, max_online=4)
CONFIG = DistillConfig(ipc=2, steps=50, learning_rate=1e-2, flip=True, seed=5)


@cache
def algorithm(config=CONFIG, pool=POOL):
    mesh = single_device_mesh()
    return FRePo(Problem(MODULE, config, pool, RidgeConfig(1e-3), mesh, size=6, batch=16))


@cache
def outer_step(config=CONFIG, pool=POOL):
    return make_train_step(algorithm(config, pool), start(config, pool))


def start(config=CONFIG, pool=POOL):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 8, 8, 3)).astype(np.float32)
    labels = rng.normal(size=(6, 3)).astype(np.float32)
    return initial_train_state(algorithm(config, pool), DistilledSet(images, labels))


def batch(step):
    rng = np.random.default_rng(100 + step)
    images = rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
    return Batch(images, rng.integers(0, 3, 16).astype(np.int32))


def run(steps, config=CONFIG, state=None, first=0):
    state = start(config) if state is None else state
    history = []
    for step in range(first, first + steps):
        state, metrics = outer_step(config)(state, batch(step))
        history.append(
            {k: float(v) for k, v in metrics.items()} | {"ages": np.array(state.algorithm.pool.age)}
        )
    return state, history


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_the_same_seed_gives_the_same_bits():
    first, _ = run(12)
    second, _ = run(12)
    assert equal(first, second)


def test_another_seed_gives_another_run():
    first, _ = run(3)
    second, _ = run(3, DistillConfig(ipc=2, steps=50, learning_rate=1e-2, flip=True, seed=6))
    assert not equal(first.algorithm.distilled, second.algorithm.distilled)


def test_stopping_in_between_changes_nothing():
    whole, _ = run(10)
    half, _ = run(4)
    copied = jax.tree.map(lambda x: jax.device_put(np.array(x), x.sharding), half)
    rest, _ = run(6, state=copied, first=4)
    assert equal(whole, rest)


def test_the_loss_is_the_sum_of_its_parts_and_falls():
    state, history = run(40)
    for row in history:
        np.testing.assert_allclose(
            row["loss"], row["regression_loss"] + row["label_loss"], rtol=1e-5, atol=1e-6
        )
    first, last = (np.mean([r["loss"] for r in h]) for h in (history[:8], history[-8:]))
    assert last < first
    assert int(state.algorithm.step) == 40
    assert int(state.first_bad_step) == NEVER


def test_one_member_is_chosen_per_step_and_ages_and_resets():
    """The chosen member ages by one; past T it is replaced and starts at 0."""
    before = np.array(start().algorithm.pool.age)
    assert before.tolist() == [0, 1, 2]
    _, history = run(40)
    resets = 0
    for step, row in enumerate(history):
        chosen = int(
            jax.random.randint(key_for(CONFIG.seed, Purpose.MEMBER_CHOICE, step, 0), (), 0, 3)
        )
        expected = before.copy()
        expected[chosen] = 0 if before[chosen] > POOL.max_online else before[chosen] + 1
        resets += before[chosen] > POOL.max_online
        np.testing.assert_array_equal(row["ages"], expected)
        before = expected
    assert resets >= 3
    assert before.max() <= POOL.max_online + 1


def test_a_reset_member_is_fresh():
    pool = PoolConfig(size=1, max_online=0)
    step = outer_step(CONFIG, pool)
    state = start(CONFIG, pool)
    kernels = [np.array(state.algorithm.pool.params["conv0"]["kernel"][0])]
    for number in range(4):
        state, _ = step(state, batch(number))
        kernels.append(np.array(state.algorithm.pool.params["conv0"]["kernel"][0]))
    # age 0: trained; age 1 > 0: replaced; age 0: trained; replaced again.
    small, large = (
        (lambda a, b: np.abs(a - b).max() < 1e-3),
        (lambda a, b: np.abs(a - b).max() > 0.05),
    )
    assert small(kernels[0], kernels[1])
    assert large(kernels[1], kernels[2])
    assert small(kernels[2], kernels[3])
    assert large(kernels[3], kernels[4])
    assert int(state.algorithm.pool.age[0]) == 0
    assert float(jnp.abs(state.algorithm.pool.optimiser[0].mu["conv0"]["kernel"]).max()) == 0
    assert int(state.algorithm.pool.optimiser[0].count[0]) == 0
    np.testing.assert_array_equal(state.algorithm.pool.stats["norm1"]["var"][0], 1.0)


def test_the_online_step_sees_the_updated_set():
    """If the member were trained on the old set, another LAMB step would not change it."""
    states = []
    for rate in (1e-2, 5e-2):
        config = DistillConfig(ipc=2, steps=50, learning_rate=rate, flip=True, seed=5)
        states.append(run(1, config)[0])
    assert not equal(states[0].algorithm.pool.params, states[1].algorithm.pool.params)


def test_frozen_labels_stay():
    config = DistillConfig(
        ipc=2, steps=50, learning_rate=1e-2, flip=True, seed=5, learn_labels=False
    )
    state, _ = run(3, config)
    np.testing.assert_array_equal(
        state.algorithm.distilled.labels, start().algorithm.distilled.labels
    )
    assert not np.array_equal(state.algorithm.distilled.images, start().algorithm.distilled.images)


def test_flip_doubles_the_regression():
    plain = DistillConfig(ipc=2, steps=50, learning_rate=1e-2, flip=False, seed=5)
    _, with_flip = run(1)
    _, without = run(1, plain)
    assert with_flip[0]["regression_loss"] != without[0]["regression_loss"]
    assert with_flip[0]["label_loss"] == without[0]["label_loss"]


def test_the_first_bad_step_is_kept():
    state = start()
    good, bad = batch(0), batch(1)
    state, _ = outer_step()(state, good)
    state, _ = outer_step()(state, bad._replace(images=np.full_like(bad.images, np.nan)))
    state, _ = outer_step()(state, batch(2))
    assert int(state.first_bad_step) == 1


def test_the_best_set_is_a_copy_and_survives_steps():
    state, _ = run(2)
    kept = np.array(state.algorithm.distilled.images)
    state = make_keep_as_best(algorithm(), state)(state, 0.5)
    state, _ = run(3, state=state, first=2)
    np.testing.assert_array_equal(state.best.distilled.images, kept)
    assert int(state.best.step) == 2
    assert float(state.best.score) == 0.5
    assert not np.array_equal(state.algorithm.distilled.images, kept)


def test_a_minibatch_of_the_set_is_used_where_it_is_large():
    pool = PoolConfig(size=2, max_online=4, batch=4)
    whole = PoolConfig(size=2, max_online=4)
    part_state, part = outer_step(CONFIG, pool)(start(CONFIG, pool), batch(0))
    whole_state, all_of_it = outer_step(CONFIG, whole)(start(CONFIG, whole), batch(0))
    assert float(part["online_loss"]) != float(all_of_it["online_loss"])
    assert equal(part_state.algorithm.distilled, whole_state.algorithm.distilled)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ipc": 0},
        {"ipc": 1.5},
        {"ipc": True},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "high"},
        {"flip": 1},
        {"seed": -1},
        {"seed": 2**31},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        DistillConfig(**wrong)


@pytest.mark.slow
def test_the_compiled_step_has_one_factorisation_and_float64_in_the_regression_only():
    text = outer_step().lower(start(), batch(0)).compile().as_text()
    found = counts(text)
    assert "f64[" in text and frames_of(text, NETS)  # what is counted is there
    assert found.float64_in_nets == 0
    assert found.factorisations == 1 and found.host == 0
    # Target features, synthetic features, their gradient with no second forward pass, online step.
    assert found.convolutions == 2 + 2 + 2 + (2 + 1 + 2)
