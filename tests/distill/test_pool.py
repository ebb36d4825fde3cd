"""The pool: ages, resets, online steps (docs/algorithm.md sections 3 and 4)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_device import on_one_device, whole_minibatch

from frepo_scale.core.errors import InputError
from frepo_scale.distill.pool import (
    PoolConfig,
    initial_age,
    initial_pool,
    online_loss,
    online_step,
    put_member,
    take_member,
)
from frepo_scale.models.convnet import ConvNet

MODULE = ConvNet(num_classes=3, width=2, depth=2, norm="batch")
IMAGE = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)


@pytest.fixture(scope="module")
def pool():
    return initial_pool(MODULE, PoolConfig(size=4, max_online=10), seed=1, image=IMAGE)


def test_initial_ages_are_the_papers():
    config = PoolConfig()
    assert [initial_age(i, config) for i in range(10)] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_ages_are_staggered_within_each_stratum():
    config = PoolConfig(size=8, members=2, max_online=100)
    assert [initial_age(i, config) for i in range(8)] == [0, 25, 50, 75] * 2


def test_members_per_step_must_divide_the_pool():
    with pytest.raises(InputError, match="possible for MEMBERS: 1, 2, 5, 10"):
        PoolConfig(size=10, members=4)


def test_members_differ_and_are_reproducible(pool):
    kernels = np.asarray(pool.params["conv0"]["kernel"])
    assert kernels.shape[0] == 4
    assert len({k.tobytes() for k in kernels}) == 4
    again = initial_pool(MODULE, PoolConfig(size=4, max_online=10), seed=1, image=IMAGE)
    assert all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (pool, again)), strict=True)
    )
    other = initial_pool(MODULE, PoolConfig(size=4, max_online=10), seed=2, image=IMAGE)
    assert not np.array_equal(kernels, other.params["conv0"]["kernel"])


def test_a_larger_pool_starts_with_the_same_members(pool):
    larger = initial_pool(MODULE, PoolConfig(size=5, max_online=10), seed=1, image=IMAGE)
    kernel = "conv1", "kernel"
    small, large = (p.params[kernel[0]][kernel[1]] for p in (pool, larger))
    np.testing.assert_array_equal(small, large[:4])


def test_put_changes_one_member_only(pool):
    member = take_member(pool, jnp.int32(2))
    changed = jax.tree.map(lambda x: x + 1, member)
    after = put_member(pool, jnp.int32(2), changed)
    for index in range(4):
        before = take_member(pool, jnp.int32(index))
        now = take_member(after, jnp.int32(index))
        same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, now)
        assert all(jax.tree.leaves(same)) == (index != 2)


def test_online_step_is_adam_on_half_squared_error(pool):
    member = take_member(pool, jnp.int32(0))
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    labels = jax.random.normal(jax.random.key(1), (6, 3))
    batch = whole_minibatch(images, labels)
    after, loss = on_one_device(lambda m: online_step(MODULE, PoolConfig(), m, batch))(member)
    (logits, _), _ = MODULE.apply(
        {"params": member.params, "batch_stats": member.stats}, images, True, mutable="batch_stats"
    )
    expected = 0.5 * np.mean(np.sum((np.asarray(logits) - np.asarray(labels)) ** 2, -1))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    loss_of = lambda p: online_loss(MODULE, p, member.stats, batch)[0]  # noqa: E731
    grads = on_one_device(jax.grad(loss_of))(member.params)
    updates, _ = optax.adam(3e-4).update(grads, optax.adam(3e-4).init(member.params))
    expected = optax.apply_updates(member.params, updates)
    for a, b in zip(*map(jax.tree.leaves, (after.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    assert int(after.age) == int(member.age) + 1
    moved = np.asarray(after.stats["norm1"]["mean"])
    assert np.abs(moved).max() > 0  # training mode moved the running statistics


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_bfloat16_online_step_keeps_the_member_in_float32(norm):
    module = ConvNet(num_classes=3, width=4, depth=2, norm=norm)
    config = PoolConfig(size=1, dtype="bfloat16")
    member = take_member(initial_pool(module, config, seed=1, image=IMAGE), jnp.int32(0))
    images = jax.random.normal(jax.random.key(0), (32, 8, 8, 3))
    labels = jax.random.normal(jax.random.key(1), (32, 3))
    batch = whole_minibatch(images, labels)

    def gradient(dtype):
        loss = lambda p: online_loss(module, p, member.stats, batch, dtype)[0]  # noqa: E731
        return on_one_device(jax.value_and_grad(loss))(member.params)

    after, loss = on_one_device(lambda m: online_step(module, config, m, batch))(member)
    types = lambda tree: jax.tree.map(lambda x: x.dtype, tree)  # noqa: E731
    assert types(after) == types(member)
    assert loss.dtype == jnp.float32
    exact_loss, exact = gradient("float32")
    rounded_loss, rounded = gradient("bfloat16")
    assert types(rounded) == types(member.params)
    assert float(loss) == pytest.approx(float(rounded_loss), rel=1e-6)
    # Three layers round weights, input and output by at most 2^-8 each: so much are logits off, and
    # the loss, half a square, relatively twice as much.
    assert 0 < abs(float(rounded_loss / exact_loss) - 1) < 2 * 3 * 3 * 2**-8
    # Rounding moves some values across the ReLU's corner.
    flat = [np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in (exact, rounded)]
    assert np.linalg.norm(flat[1] - flat[0]) < 0.1 * np.linalg.norm(flat[0])
    # Adam's first step is the learning rate, which bfloat16 parameters around 0.1 would not show.
    steps = jax.tree.map(lambda a, b: np.abs(a - b), after.params, member.params)
    np.testing.assert_allclose(steps["head"]["kernel"], 3e-4, rtol=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": 0},
        {"size": 0},
        {"max_online": -1},
        {"size": 2.5},
        {"learning_rate": 0},
        {"batch": 0},
        {"dtype": "float16"},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        PoolConfig(**wrong)
