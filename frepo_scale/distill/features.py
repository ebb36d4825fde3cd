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

from frepo_scale.distill.pool import Member


def features_of(module: nn.Module, member: Member, images: jax.Array) -> jax.Array:
    """Features (n, d) of images (n, H, W, C) with running BatchNorm statistics."""
    variables = {"params": member.params, "batch_stats": member.stats}
    outputs: Any = module.apply(variables, images, train=False)
    return outputs[1]


def chunked_features(module: nn.Module, member: Member, images: jax.Array, chunk: int) -> jax.Array:
    """`features_of`, `chunk` images at a time."""
    return _map_chunks(partial(features_of, module, member), chunk, images)


def chunked_image_gradient(
    module: nn.Module, member: Member, images: jax.Array, cotangent: jax.Array, chunk: int
) -> jax.Array:
    """The pull-back of a gradient (n, d) of features to images (n, H, W, C)."""

    def pull_back(images: jax.Array, cotangent: jax.Array) -> jax.Array:
        _, vjp = jax.vjp(partial(features_of, module, member), images)
        return vjp(cotangent)[0]

    return _map_chunks(pull_back, chunk, images, cotangent)


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
