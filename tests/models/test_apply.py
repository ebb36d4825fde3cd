"""Nets applied in float32 and in bfloat16; BatchNorm sums of bfloat16 activations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.models.apply import apply_net
from frepo_scale.models.convnet import ConvNet
from frepo_scale.models.norm import NORMS, BatchNorm


def net(norm="batch", dtype=jnp.float32):
    module = ConvNet(num_classes=3, width=4, depth=2, norm=norm)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3), dtype)
    variables = module.init(jax.random.key(1), images)
    return module, variables["params"], variables.get("batch_stats", {}), images


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_without_bfloat16_it_is_the_net_bit_for_bit(norm, dtype):
    with jax.enable_x64(dtype == "float64"):
        module, params, stats, images = net(norm, dtype)
        variables = {"params": params, "batch_stats": stats}
        for train in (False, True):
            found = apply_net(module, params, stats, images, "float32", train)
            (logits, features), updated = module.apply(
                variables, images, train=train, mutable=["batch_stats"]
            )
            expected = (logits, features, updated["batch_stats"] if stats else {})
            jax.tree.map(np.testing.assert_array_equal, tuple(found), expected)
            assert dtypes(found) == {jnp.dtype(dtype)}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_is_used_inside_and_not_seen_outside(norm, train):
    module, params, stats, images = net(norm)

    def loss(params):
        found = apply_net(module, params, stats, images, "bfloat16", train)
        return jnp.sum(found.logits**2), found

    grads, found = jax.grad(loss, has_aux=True)(params)
    exact = apply_net(module, params, stats, images, "float32", train)
    assert dtypes((grads, found)) == {jnp.dtype("float32")}
    for rounded in found[:2]:  # the net returned bfloat16
        np.testing.assert_array_equal(rounded, rounded.astype(jnp.bfloat16).astype(jnp.float32))
    # Three layers round weights, input and output by at most 2^-8 each.
    error = np.linalg.norm(found.logits - exact.logits) / np.linalg.norm(exact.logits)
    assert 0 < error < 3 * 3 * 2**-8


def test_sums_of_bfloat16_activations_are_float32():
    """Values of 8 bits around 3: sums over 4096 pixels in bfloat16 stop growing near 1000."""
    x = (3 + 0.25 * jax.random.normal(jax.random.key(0), (16, 16, 16, 2))).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    assert dtypes(variables) == {jnp.dtype("float32")}
    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    stats = updated["batch_stats"]
    assert dtypes(stats) == {jnp.dtype("float32")}
    np.testing.assert_allclose(stats["mean"], 0.9 * exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.1 + 0.9 * exact.var((0, 1, 2)), rtol=1e-6)
    assert y.dtype == jnp.bfloat16
    normalised = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    # One rounding, at the end.
    np.testing.assert_allclose(np.asarray(y, np.float64), normalised, rtol=2**-8, atol=1e-6)


class OwnStatistics(nn.Module):
    """A net of a user that keeps the mean of its images in the dtype they come in."""

    @nn.compact
    def __call__(self, x, train=False):
        mean = self.variable("batch_stats", "mean", jnp.zeros, (), x.dtype)
        if train:
            mean.value = jnp.mean(x)
        features = x.reshape(len(x), -1)
        return nn.Dense(3)(features), features


def test_statistics_of_other_layers_keep_their_dtype():
    module, images = OwnStatistics(), jnp.full((2, 8, 8, 1), 1.0)
    variables = module.init(jax.random.key(0), images)
    found = apply_net(
        module, variables["params"], variables["batch_stats"], images, "bfloat16", train=True
    )
    assert found.stats["mean"].dtype == jnp.float32
    assert float(found.stats["mean"]) == 1.0
