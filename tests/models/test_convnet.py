"""The ConvNet and its norms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.models.convnet import ConvNet, smallest_map
from frepo_scale.models.norm import NORMS, BatchNorm, normalised


@pytest.mark.parametrize(
    ("shape", "depth", "expected"),
    [((32, 32, 3), 3, 8192), ((64, 64, 3), 4, 16384), ((128, 128, 3), 5, 32768)],
)
def test_feature_dimension_of_the_paper(shape, depth, expected):
    module = ConvNet(num_classes=10, depth=depth)
    logits, features = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x)[0],
        jax.ShapeDtypeStruct((2, *shape), jnp.float32),
    )
    assert features.shape == (2, expected)
    assert logits.shape == (2, 10)


def test_one_channel_images_are_padded_to_32():
    assert smallest_map((28, 28, 1), 3) == 4
    assert smallest_map((28, 28, 3), 3) == 3
    assert smallest_map((8, 8, 1), 3) == 1
    assert smallest_map((8, 8, 1), 4) == 0
    module = ConvNet(num_classes=10, width=2)
    _, features = module.init_with_output(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))[0]
    assert features.shape == (1, 8 * 4 * 4)


def test_width_doubles_and_first_block_has_no_norm():
    module = ConvNet(num_classes=4, width=3, depth=3)
    params = module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    assert [params[f"conv{i}"]["kernel"].shape[-1] for i in range(3)] == [3, 6, 12]
    assert "norm0" not in params
    assert {"norm1", "norm2"} <= params.keys()


def test_initialisation_is_lecun_normal_with_zero_bias():
    params = ConvNet(num_classes=4, width=64, depth=2).init(
        jax.random.key(0), jnp.zeros((1, 16, 16, 3))
    )["params"]
    kernel = np.asarray(params["conv1"]["kernel"])
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(9 * 64), rtol=0.03)
    assert all(not np.any(p["bias"]) for name, p in params.items() if name.startswith("conv"))


@pytest.mark.parametrize(
    ("norm", "axes"), [("layer", (1, 2, 3)), ("instance", (1, 2)), ("batch", (0, 1, 2))]
)
def test_each_norm_normalises_over_its_axes(norm, axes):
    class Probe(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return normalised(x, norm, train, "norm1")

    x = 3 + 2 * jax.random.normal(jax.random.key(0), (5, 6, 6, 4))
    module = Probe()
    variables = module.init(jax.random.key(1), x)
    y, _ = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.mean(y, axes), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, axes), 1, atol=1e-3)


def test_group_norm_takes_the_largest_group_count_that_divides():
    module = ConvNet(num_classes=2, width=3, depth=2, norm="group")  # 3 channels: 3 groups
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    logits, _ = module.apply(variables, jnp.ones((2, 8, 8, 3)))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_mixes_images_and_only_in_training(norm):
    module = ConvNet(num_classes=3, width=4, depth=2, norm=norm)
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = module.init(jax.random.key(1), x)
    assert ("batch_stats" in variables) == (norm == "batch")

    def first_row(images, train):
        return module.apply(variables, images, train, mutable=["batch_stats"])[0][0][0]

    other = x.at[1:].add(1.0)
    assert np.allclose(first_row(x, False), first_row(other, False), atol=1e-6)
    assert np.allclose(first_row(x, True), first_row(other, True), atol=1e-6) == (norm != "batch")


def test_running_statistics_by_hand():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) * 2 + 1
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # init does not count
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * np.mean(x, (0, 1, 2)), rtol=1e-5)
    biased = np.var(np.asarray(x), (0, 1, 2))
    np.testing.assert_allclose(stats["var"], 0.1 + 0.9 * biased, rtol=1e-5)
    y = module.apply({**variables, **updated}, x, train=False)
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_softplus_is_a_smooth_relu():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    smooth = ConvNet(num_classes=3, width=2, depth=2, norm="none", activation="softplus")
    sharp = ConvNet(num_classes=3, width=2, depth=2, norm="none")
    variables = sharp.init(jax.random.key(0), images)

    def difference(beta):
        found = smooth.clone(softplus_beta=beta).apply(variables, images)[1]
        return float(jnp.abs(found - sharp.apply(variables, images)[1]).max())

    assert 0 < difference(1000.0) < difference(60.0) < difference(5.0)
    # One value of the formula, through a net of one block: log(1 + exp(beta x)) / beta.
    np.testing.assert_allclose(smooth._activate(jnp.float32(0.01)), np.log1p(np.exp(0.6)) / 60)
