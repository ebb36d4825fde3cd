"""Pools of nets from files, and the augmentation of the outer step."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_device import on_one_device

from frepo_scale.core.errors import InputError
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


def algorithm(pool=FROZEN, nets=NETS, augment=None):
    config = DistillConfig(ipc=2, steps=50, learning_rate=1e-2, flip=True, seed=5, chunk=4)
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


@cache
def two_steps(augment=None):
    """Pool before and after, the set and the metrics of each step."""
    made = algorithm(augment=augment)
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
    online = {}
    for pool in (FROZEN, PoolConfig(size=4, members=2, max_online=0)):
        made = algorithm(pool, ())
        state = jax.eval_shape(made.init, start())
        text = str(jax.make_jaxpr(made.step)(state, batch(0)))
        phases = outer_step_phases(made.problem, (8, 8, 3), 3)
        online[pool.frozen] = text.count("conv_general_dilated["), phases["online step"]
    # A member trains with two convolutions forward and three back.
    assert online[False][0] == online[True][0] + 2 * 5
    assert online[True][1] == 0 < online[False][1]


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


def test_augmentation_changes_the_step():
    plain, changed = two_steps(), two_steps(AugmentConfig(flip=True))
    assert plain[3][0]["regression_loss"] != changed[3][0]["regression_loss"]
    assert np.abs(plain[2].images - changed[2].images).max() > 1e-4


@pytest.mark.parametrize("step", [0, 1, 3])
def test_the_gradient_passes_through_the_augmentation(step):
    """Also in chunks; and both sets have the operation and draws of the same key."""
    config = AugmentConfig(flip=True)
    problem = algorithm(augment=config).problem
    given, index = start(), jnp.int32(1)
    weight = np.random.default_rng(7).normal(size=given.images.shape).astype(np.float32)

    def ours(images):
        _, seen, to_set = augmented(
            problem, jnp.int32(step), index, batch(0), given._replace(images=images)
        )
        return seen.images, to_set(given._replace(images=jnp.asarray(weight))).images

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5, impl="threefry2x32"), 14), step)
    key = jax.random.fold_in(key, 1)

    def plain(images):
        return jnp.sum(weight * augment_rows(key, images, jnp.arange(SIZE), config))

    seen, gradient = on_one_device(ours)(given.images)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(plain))(given.images), atol=1e-5)
    assert np.abs(seen - given.images).max() > 0.05
