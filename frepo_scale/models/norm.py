"""The norms of the nets, and batch normalisation over a batch spread over devices.

`BatchNorm` replaces flax's layer for two reasons. The running statistics follow
`r <- 0.1 r + 0.9 batch` with the *biased* variance (docs/algorithm.md section 3). And a batch may
be spread over devices unevenly, with no image on some: it is normalised by its global sums and
counts, where flax takes the mean of local means.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from frepo_scale.models.description import noted

NORMS = ("batch", "layer", "group", "instance", "none")
BATCH_NORM_EPSILON = 1e-5
RUNNING_WEIGHT = 0.1  # weight of the old running value
_GROUPS = 32


class _Spread(NamedTuple):
    weights: jax.Array  # (b,) 1 for an image, 0 for padding
    axis: str


# Set while a training-mode forward pass is traced. It is not an argument of the nets, so that a
# user's own net only has to use this layer to be right on every mesh.
_spread: ContextVar[_Spread | None] = ContextVar("spread", default=None)


@contextmanager
def batch_spread_over(axis: str, weights: jax.Array) -> Iterator[None]:
    """A context in which training-mode statistics are over all images of weight 1 on all devices.

    Args:
      axis: the mesh axis the batch is spread over.
      weights: (b,) of this device's images, 1 or 0.
    """
    token = _spread.set(_Spread(weights, axis))
    try:
        yield
    finally:
        _spread.reset(token)


def _mean_over_batch(x: jax.Array) -> jax.Array:
    """Mean per channel (C,) of the global batch of (b, H, W, C) or (b, C)."""
    spread = _spread.get()
    axes = tuple(range(x.ndim - 1))
    if spread is None:
        return jnp.mean(x, axes)
    weights = spread.weights.astype(x.dtype)
    each = weights.reshape(-1, *[1] * (x.ndim - 1))
    total = jax.lax.psum(jnp.sum(x * each, axes), spread.axis)
    images = jax.lax.psum(jnp.sum(weights), spread.axis)
    return total / (images * math.prod(x.shape[1:-1]))


class BatchNorm(nn.Module):
    """Normalises channels over the batch (training) or by running statistics (evaluation).

    Collections: `params` holds scale and bias (C,), `batch_stats` mean and var (C,).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) or (B, C) float to the same.

        It updates `batch_stats` if `train` is true and the collection is mutable.

        bfloat16 is computed in float32 and rounded at the end: sums over thousands of pixels lose
        all their digits in 8 bits.
        """
        given, shape = x.dtype, (x.shape[-1],)
        x = x.astype(jnp.promote_types(given, jnp.float32))
        scale = self.param("scale", nn.initializers.ones, shape, x.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, x.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, x.dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, x.dtype)
        if train:
            batch_mean = _mean_over_batch(x)
            # Two passes: E[x^2] - E[x]^2 loses the small variances of late, sparse channels.
            batch_var = _mean_over_batch(jnp.square(x - batch_mean))
            if not self.is_initializing():
                mean.value = RUNNING_WEIGHT * mean.value + (1 - RUNNING_WEIGHT) * batch_mean
                var.value = RUNNING_WEIGHT * var.value + (1 - RUNNING_WEIGHT) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        y = (x - batch_mean) * (scale / jnp.sqrt(batch_var + BATCH_NORM_EPSILON)) + bias
        return y.astype(given)


def groups_of(channels: int) -> int:
    """The number of groups of the norm "group": the largest up to 32 that divides `channels`."""
    return next(groups for groups in range(_GROUPS, 0, -1) if channels % groups == 0)


def normalised(x: jax.Array, norm: str, train: bool, name: str) -> jax.Array:
    """`x` after the norm layer `name`, which becomes a child of the net being applied.

    To be called in a compact method of a flax module.

    Args:
      x: (B, H, W, C) maps, or (B, C) vectors.
      norm: one of `NORMS`. "batch" normalises over the batch and (H, W), "layer" over (H, W, C),
        "instance" over (H, W) per channel, "group" over (H, W) and the channels of one of up to
        32 groups; "none" returns `x`.
      train: training mode of "batch".
      name: of the layer.

    Returns:
      Shape and dtype of `x`.
    """
    layer: nn.Module
    match norm:
        case "batch":
            layer = BatchNorm(name=name)
            y = layer(x, train)
            constants = {"epsilon": BATCH_NORM_EPSILON, "running_weight": RUNNING_WEIGHT}
        case "layer":
            axes = tuple(range(1 - x.ndim, 0))
            layer = nn.LayerNorm(
                reduction_axes=axes, feature_axes=-1, param_dtype=x.dtype, name=name
            )
            y, constants = layer(x), {"epsilon": layer.epsilon}
        case "group":
            groups = groups_of(x.shape[-1])
            layer = nn.GroupNorm(num_groups=groups, param_dtype=x.dtype, name=name)
            y, constants = layer(x), {"epsilon": layer.epsilon, "groups": groups}
        case "instance":
            layer = nn.GroupNorm(num_groups=None, group_size=1, param_dtype=x.dtype, name=name)
            y, constants = layer(x), {"epsilon": layer.epsilon}
        case _:
            return x
    return noted(y, x, op=f"{norm} norm", layer=layer, channels=x.shape[-1], **constants)
