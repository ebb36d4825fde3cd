"""Pools of nets from files, and the augmentation of the outer step."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_device import on_one_device

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.augment import AugmentConfig, augment_rows
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.augmented import augmented
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.flops import outer_step_phases
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.frozen import check_frozen
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

MODULE = ConvNet(num_classes=3, width=2, depth=2, norm="batch")
FROZEN = PoolConfig(size=4, members=2, max_online=0, weights=("a", "b"))
SIZE, BATCH = 6, 16


def net(seed):
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    shapes = jax.eval_shape(lambda x: MODULE.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), dict(shapes))


NETS = (net(1), net(2))


def algorithm(pool=FROZEN, nets=NETS, augment=None, chunk=1024):
    config = DistillConfig(ipc=2, steps=50, learning_rate=1e-2, flip=True, seed=5, chunk=chunk)
    mesh = single_device_mesh()
    return FRePo(
        Problem(
            MODULE, config, pool, RidgeConfig(1e-3), mesh, SIZE, BATCH, augment=augment, nets=nets
        )
    )


def start():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(SIZE, 8, 8, 3)).astype(np.float32)
    return DistilledSet(images, rng.normal(size=(SIZE, 3)).astype(np.float32))


def batch(step):
    rng = np.random.default_rng(100 + step)
    images = rng.normal(size=(2 * BATCH, 8, 8, 3)).astype(np.float32)
    return Batch(images, rng.integers(0, 3, 2 * BATCH).astype(np.int32))


def traced(made):
    """The text of an outer step, which is not compiled."""
    state = jax.eval_shape(made.init, start())
    return str(jax.make_jaxpr(made.step)(state, batch(0)))


@cache
def two_steps():
    """Pool before and after, the set and the metrics of each step."""
    made = algorithm()
    state = initial_train_state(made, start())
    before = jax.tree.map(np.array, state.algorithm.pool)
    step = make_train_step(made, state)
    history = []
    for number in range(2):
        state, metrics = step(state, batch(number))
        history.append({name: float(value) for name, value in metrics.items()})
    after = jax.tree.map(np.array, state.algorithm.pool)
    return before, after, jax.tree.map(np.array, state.algorithm.distilled), history


def test_member_m_is_the_net_of_file_m_mod_f_and_stays_as_it_is():
    before, after, distilled, _ = two_steps()
    for m in range(4):
        for name, found in (("params", after.params), ("batch_stats", after.stats)):
            member = jax.tree.map(lambda x, m=m: x[m], found)
            jax.tree.map(np.testing.assert_array_equal, member, net(1 + m % 2)[name])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert np.abs(distilled.images - start().images).max() > 1e-4


def test_no_online_step_is_compiled_or_counted():
    _, after, _, history = two_steps()
    assert jax.tree.leaves(after.optimiser) == []
    assert "online_loss" not in history[0]
    frozen = algorithm(nets=())
    trained = algorithm(PoolConfig(size=4, members=2, max_online=0), ())
    convolutions = [traced(made).count("conv_general_dilated[") for made in (frozen, trained)]
    # Of each of two members: two forward and three back, and two of a fresh net.
    assert convolutions[1] == convolutions[0] + 2 * 7
    operations = [
        outer_step_phases(made.problem, (8, 8, 3), 3)["online step"] for made in (frozen, trained)
    ]
    assert operations[0] == 0 < operations[1]


def test_a_state_without_its_nets_is_refused():
    with pytest.raises(ValueError, match="without nets"):
        initial_train_state(algorithm(nets=()), start())


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"max_online": 1}, "MAX_ONLINE = 1", "--gin.MAX_ONLINE=0"),
        ({"online_steps": 3}, "ONLINE_STEPS = 3", "--gin.ONLINE_STEPS=1"),
        ({"draw_online_steps": True}, "DRAW_ONLINE_STEPS = True", "DRAW_ONLINE_STEPS=False"),
        ({"size": 10, "weights": ("a", "b", "c")}, "POOL_SIZE = 10 with 3", "POOL_SIZE=3"),
        ({"size": 8, "members": 4, "weights": ("a",) * 6}, "POOL_SIZE = 8 with 6", "POOL_SIZE=12"),
    ],
)
def test_settings_that_contradict_frozen_nets_are_refused(settings, what, fix):
    given = {"size": 2, "max_online": 0, "weights": ("a", "b")}
    check_frozen(PoolConfig(**given))
    with pytest.raises(InputError) as caught:
        check_frozen(PoolConfig(**given | settings))
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("wrong", ["net.safetensors", [1], [""], None])
def test_pool_weights_are_a_list_of_paths(wrong):
    with pytest.raises(InputError, match="POOL_WEIGHTS = "):
        PoolConfig(weights=wrong)
    assert PoolConfig(weights=["a"]) == PoolConfig(weights=("a",))


def test_the_step_augments_both_sets_and_pulls_the_gradient_back():
    """Three choices of an operation for each of two members."""
    plain, augmented = (
        traced(algorithm(nets=(), augment=config)).count(" cond[")
        for config in (None, AugmentConfig(flip=True))
    )
    assert augmented >= plain + 2 * 3


@pytest.mark.slow
def test_the_gradient_passes_through_the_augmentation():
    """In chunks; the target images get the same operation, with draws of their own."""
    config = AugmentConfig(flip=True)
    problem = algorithm(augment=config, chunk=4).problem
    given, few = start(), jax.tree.map(lambda x: x[:2], batch(0))
    weight = np.random.default_rng(7).normal(size=given.images.shape).astype(np.float32)

    def ours(step, images):
        own, seen, to_set = augmented(
            problem, step, jnp.int32(1), few, given._replace(images=images)
        )
        pulled = to_set(given._replace(images=jnp.asarray(weight)))
        return own.images, seen.images, pulled.images

    @jax.jit
    def plain(step, images):
        key = key_for(5, Purpose.OUTER_AUGMENT, step, 1)
        seen, back = jax.vjp(
            lambda images: augment_rows(key, images, jnp.arange(SIZE), config), images
        )
        targets = augment_rows(key, few.images, SIZE + jnp.arange(2), config)
        return targets, seen, back(weight)[0]

    check = on_one_device(ours)
    for step in range(4):
        for found, expected in zip(
            check(step, given.images), plain(step, given.images), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(check(step, given.images)[1] - given.images).max() > 0.05
