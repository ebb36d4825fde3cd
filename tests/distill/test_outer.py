"""The switches of the outer step, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.outer import (
    OuterConfig,
    OuterState,
    averaged,
    clipped,
    initial_outer_state,
    learning_rate_schedule,
    optimiser,
    updated,
    without_effect,
)
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import (
    checkpoint_tree,
    from_checkpoint_tree,
    initial_train_state,
    make_train_step,
)
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

CONFIG = DistillConfig(ipc=2, steps=50, learning_rate=1e-2, seed=5)
ALL = OuterConfig(
    loss="cross_entropy",
    optimiser="adabelief",
    schedule="constant",
    average=0.9,
    clip=2.0,
    margin=0.5,
)
POOL = PoolConfig(size=2)
OFF = OuterState(None, None, None, None)


def start():
    rng = np.random.default_rng(0)
    return DistilledSet(
        jnp.asarray(rng.normal(size=(6, 8, 8, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(6, 3)), jnp.float32),
    )


def test_without_switches_there_is_no_state():
    assert jax.tree.leaves(initial_outer_state(CONFIG, OuterConfig(), start())) == []
    assert clipped(OuterConfig(), OFF, start())[0] is not None
    assert updated(CONFIG, OuterConfig(), OFF, start(), None) == OFF


@pytest.mark.parametrize("name", ["lamb", "adabelief", "adam"])
def test_the_optimiser_is_that_of_optax(name):
    outer = OuterConfig(optimiser=name, schedule="constant")
    ours, theirs = optimiser(CONFIG, outer), getattr(optax, name)(1e-2)
    grads = jax.tree.map(lambda x: 0.1 * x + 1, start())
    found, _ = ours.update(grads, ours.init(start()), start())
    expected, _ = theirs.update(grads, theirs.init(start()), start())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_schedules():
    cosine = learning_rate_schedule(CONFIG, OuterConfig())
    constant = learning_rate_schedule(CONFIG, OuterConfig(schedule="constant"))
    assert [float(cosine(s)) for s in (0, 50)] == pytest.approx([1e-2, 1e-3])
    assert [float(constant(s)) for s in (0, 50)] == pytest.approx([1e-2, 1e-2])


def test_the_average_is_corrected_for_its_start():
    outer = OuterConfig(average=0.9)
    state = initial_outer_state(CONFIG, outer, start())
    sets = [jax.tree.map(lambda x, k=k: x + k, start()) for k in range(4)]
    assert np.array_equal(averaged(outer, state, sets[0], jnp.int32(0)).images, sets[0].images)
    for one in sets[1:]:
        state = updated(CONFIG, outer, state, one, None)
    weights = np.array([0.9**2, 0.9, 1.0])
    expected = sum(w * np.asarray(s.images) for w, s in zip(weights, sets[1:], strict=True))
    found = averaged(outer, state, sets[-1], jnp.int32(3)).images
    np.testing.assert_allclose(found, expected / weights.sum(), rtol=2e-5, atol=1e-6)


def test_the_average_of_a_constant_set_is_that_set():
    """To the rounding of float32: the weights add up to one also where the decay is near one."""
    outer, same = OuterConfig(average=0.9999), DistilledSet(jnp.full(3, 7.0), jnp.full(2, -0.3))
    state = initial_outer_state(CONFIG, outer, same)
    for _ in range(3):
        state = updated(CONFIG, outer, state, same, None)
    found = averaged(outer, state, same, jnp.int32(3))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, same)


def test_a_gradient_is_clipped_to_a_multiple_of_the_running_norm():
    outer = OuterConfig(clip=2.0)
    state = OFF._replace(norm=jnp.float32(0))
    one = DistilledSet(jnp.array([3.0]), jnp.array([4.0]))
    found, state = clipped(outer, state, one)
    assert np.array_equal(found.images, one.images) and state.norm == 5
    found, state = clipped(outer, state, jax.tree.map(lambda x: 100 * x, one))
    np.testing.assert_allclose(optax.tree.norm(found), 10.0, rtol=1e-6)
    np.testing.assert_allclose(state.norm, 0.9 * 5 + 0.1 * 10, rtol=1e-6)
    found, _ = clipped(outer, state, one)
    np.testing.assert_allclose(found.labels, one.labels, rtol=1e-6)


def test_the_sharpness_follows_its_gradient_at_ten_times_the_rate():
    outer = OuterConfig(loss="cross_entropy", optimiser="adam", schedule="constant")
    state = initial_outer_state(CONFIG, outer, start())
    state = updated(CONFIG, outer, state, start(), jnp.float32(2.5))
    np.testing.assert_allclose(state.sharpness, -0.1, rtol=1e-5)  # Adam's first step is its rate


@pytest.mark.parametrize("clip", [0.001, 0.999, 1])
def test_a_clip_that_only_lowers_the_running_norm_is_refused(clip):
    with pytest.raises(InputError) as refused:
        OuterConfig(clip=clip)
    assert refused.value.what == f"CLIP = {clip:g}"
    assert OuterConfig(clip=1.001) and OuterConfig(clip=0)


def test_settings_without_effect_are_named():
    drawn = PoolConfig(draw_online_steps=True)
    assert without_effect(OuterConfig(), PoolConfig(online_steps=3), 10) == []
    assert without_effect(OuterConfig(gradient_images=9), POOL, 10) == []
    some, draw = without_effect(OuterConfig(gradient_images=50), drawn, 10)
    assert "GRADIENT_IMAGES = 50" in some and "10" in some
    assert "DRAW_ONLINE_STEPS = True" in draw and "ONLINE_STEPS = 1" in draw


def algorithm(outer, pool=POOL):
    module = ConvNet(num_classes=3, width=2, depth=1, norm="none")
    mesh = single_device_mesh()
    return FRePo(Problem(module, CONFIG, pool, RidgeConfig(1e-3), mesh, 6, 16, outer))


def batch():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(16, 8, 8, 3)).astype(np.float32)
    return Batch(images, rng.integers(0, 3, 16).astype(np.int32))


def test_all_switches_together_train_and_survive_a_checkpoint_tree():
    frepo = algorithm(ALL)
    state = initial_train_state(frepo, DistilledSet(*map(np.asarray, start())))
    step = make_train_step(frepo, state)
    losses = []
    for _ in range(15):
        state, metrics = step(state, batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert metrics["inverse_temperature"] != 1
    found, raw = frepo.distilled(state.algorithm), state.algorithm.distilled
    assert not np.array_equal(found.images, raw.images)
    again = from_checkpoint_tree(frepo, checkpoint_tree(frepo, state), state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("rolled", [False, True])
def test_several_online_steps_are_as_many_single_ones(rolled, monkeypatch):
    """The members differ from those of one step by the number of updates of Adam."""
    if rolled:
        monkeypatch.setattr("frepo_scale.distill.step.platform_of", lambda mesh: "gpu")
    counts = set()
    for draw in (False, True):
        pool = PoolConfig(size=1, online_steps=3, draw_online_steps=draw, ages="zero")
        frepo = algorithm(OuterConfig(), pool)
        state = initial_train_state(frepo, DistilledSet(*map(np.asarray, start())))
        step = make_train_step(frepo, state)
        ages = [0]
        for _ in range(6):
            state, _ = step(state, batch())
            ages.append(int(state.algorithm.pool.age[0]))
        updates = np.diff(ages)
        assert state.algorithm.pool.optimiser[0].count[0] == ages[-1]
        if draw:
            counts = set(updates.tolist())
        else:
            assert set(updates.tolist()) == {3}
    assert counts <= {1, 2, 3} and len(counts) > 1
