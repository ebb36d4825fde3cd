"""Features of many images, a chunk at a time, and their gradient with recomputation.

The memory for activations is that of one chunk, however many images there are: the forward pass
keeps features only, the backward pass runs each chunk again (DESIGN.md section 4).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import Member


def features_of(
    module: nn.Module, member: Member, images: jax.Array, dtype: str = "float32"
) -> jax.Array:
    """Features (n, d) of images (n, H, W, C) with running BatchNorm statistics.

    With dtype "bfloat16" the net computes in that; the features come back in the images' own.
    """
    variables: Any = {"params": member.params, "batch_stats": member.stats}
    given = images.dtype
    if dtype == "bfloat16":
        variables, images = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (variables, images))
    outputs: Any = module.apply(variables, images, train=False)
    features: jax.Array = outputs[1].astype(given)
    return features


def chunked_features(
    module: nn.Module, member: Member, images: jax.Array, config: DistillConfig
) -> jax.Array:
    """`features_of`, `config.chunk` images at a time."""
    function = partial(features_of, module, member, dtype=config.feature_dtype)
    return _map_chunks(function, config.chunk, images)


def chunked_image_gradient(
    module: nn.Module,
    member: Member,
    images: jax.Array,
    cotangent: jax.Array,
    config: DistillConfig,
) -> jax.Array:
    """The pull-back of a gradient (n, d) of features to images (n, H, W, C)."""
    function = partial(features_of, module, member, dtype=config.feature_dtype)

    def pull_back(images: jax.Array, cotangent: jax.Array) -> jax.Array:
        _, vjp = jax.vjp(function, images)
        return vjp(cotangent)[0]

    return _map_chunks(pull_back, config.chunk, images, cotangent)


def _map_chunks(function: Callable[..., jax.Array], chunk: int, *arrays: jax.Array) -> jax.Array:
    """`function` over row blocks of the arrays, concatenated; the last block may be smaller."""
    rows = len(arrays[0])
    if rows <= chunk:
        return function(*arrays)
    whole = rows - rows % chunk
    if jax.default_backend() == "cpu":
        # Convolution gradients inside XLA loops are many times slower on CPU (STACK.md section 7).
        parts = [function(*(x[lo : lo + chunk] for x in arrays)) for lo in range(0, whole, chunk)]
    else:
        blocks = tuple(x[:whole].reshape(-1, chunk, *x.shape[1:]) for x in arrays)
        mapped = jax.lax.map(lambda block: function(*block), blocks)
        parts = [mapped.reshape(whole, *mapped.shape[2:])]
    if whole < rows:
        parts.append(function(*(x[whole:] for x in arrays)))
    return jnp.concatenate(parts)
