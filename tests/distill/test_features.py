"""Features in chunks, and their gradient with recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.features import (
    chunked_features,
    chunked_image_gradient,
    even_chunk,
    features_of,
)
from frepo_scale.distill.pool import PoolConfig, fresh_member
from frepo_scale.models.convnet import ConvNet

MODULE = ConvNet(num_classes=3, width=4, depth=2, norm="batch")
IMAGE = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)


@pytest.fixture(scope="module")
def member():
    return fresh_member(MODULE, PoolConfig(), jax.random.key(0), IMAGE, 0)


IMAGES = jax.random.normal(jax.random.key(1), (11, 8, 8, 3))
COTANGENT = jax.random.normal(jax.random.key(2), (11, 32))


def whole_gradient(member):
    _, vjp = jax.vjp(lambda x: features_of(MODULE, member, x), IMAGES)
    return vjp(COTANGENT)[0]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("chunk", [3, 11, 100])
def test_chunks_change_nothing(member, chunk, platform):
    """11 images, in chunks of 3, 3, 3, 2 or whole; unrolled as on CPU, rolled as elsewhere."""
    config = DistillConfig(chunk=chunk)
    features = chunked_features(MODULE, member, IMAGES, config, platform)
    np.testing.assert_allclose(features, features_of(MODULE, member, IMAGES), rtol=1e-5, atol=1e-6)
    gradient = chunked_image_gradient(MODULE, member, IMAGES, COTANGENT, config, platform)
    np.testing.assert_allclose(gradient, whole_gradient(member), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "most", "chunk"),
    [
        (2500, 256, 250),
        (256, 256, 256),
        (10, 100, 10),
        (11, 3, 3),
        (12, 5, 4),
        (7, 1, 1),
        (13, 6, 5),
    ],
)
def test_chunks_divide_the_rows_where_they_can(rows, most, chunk):
    assert even_chunk(rows, most) == chunk


def test_bfloat16_is_close_and_really_used(member):
    config = DistillConfig(feature_dtype="bfloat16")
    exact = features_of(MODULE, member, IMAGES)
    rounded = chunked_features(MODULE, member, IMAGES, config, "cpu")
    assert rounded.dtype == jnp.float32
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 2e-2
    gradient = chunked_image_gradient(MODULE, member, IMAGES, COTANGENT, config, "cpu")
    assert gradient.dtype == jnp.float32
    truth = whole_gradient(member)
    # Six percent here: rounding moves some values across the ReLU's corner.
    assert np.linalg.norm(gradient - truth) < 0.1 * np.linalg.norm(truth)
