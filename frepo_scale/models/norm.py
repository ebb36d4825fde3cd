"""Batch normalisation with the paper's running average.

Our own small layer instead of flax's: the running statistics follow `r <- 0.1 r + 0.9 batch` with
the *biased* variance (ALGORITHM.md section 3), and a batch spread over devices must be normalised
by its global sums, which flax's mean of local means is not.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

BATCH_NORM_EPSILON = 1e-5
RUNNING_WEIGHT = 0.1  # weight of the old running value


class BatchNorm(nn.Module):
    """Normalises channels over the batch (training) or by running statistics (evaluation).

    Collections: `params` holds scale and bias (C,), `batch_stats` mean and var (C,).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) float to the same; updates `batch_stats` if `train` and it is mutable."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, x.dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, x.dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, x.dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, x.dtype)
        if train:
            axes = tuple(range(x.ndim - 1))
            batch_mean = jnp.mean(x, axes)
            # Two passes: E[x^2] - E[x]^2 loses the small variances of late, sparse channels.
            batch_var = jnp.mean(jnp.square(x - batch_mean), axes)
            if not self.is_initializing():
                mean.value = RUNNING_WEIGHT * mean.value + (1 - RUNNING_WEIGHT) * batch_mean
                var.value = RUNNING_WEIGHT * var.value + (1 - RUNNING_WEIGHT) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        return (x - batch_mean) * (scale / jnp.sqrt(batch_var + BATCH_NORM_EPSILON)) + bias
