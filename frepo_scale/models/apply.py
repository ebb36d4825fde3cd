"""Applying a net in float32 or in bfloat16 with float32 parameters.

In bfloat16 the parameters are rounded inside the function that is differentiated, so their gradient
comes back in float32. Batch statistics are never rounded; `models.norm.BatchNorm` computes them in
float32 from bfloat16 activations.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

NET_DTYPES = ("float32", "bfloat16")


class Outputs(NamedTuple):
    """The output of a net.

    Attributes:
      logits: (B, K), in the dtype of the images.
      features: (B, d), in the dtype of the images.
      stats: flax `batch_stats`, updated in training mode, in the dtypes they were given in.
    """

    logits: jax.Array
    features: jax.Array
    stats: Any


def apply_net(
    module: nn.Module, params: Any, stats: Any, images: jax.Array, dtype: str, train: bool
) -> Outputs:
    """Applies a net to images (B, H, W, C).

    Args:
      module: the net.
      params: flax parameters.
      stats: flax `batch_stats`, empty for nets without BatchNorm.
      images: net inputs.
      dtype: one of `NET_DTYPES`. With "bfloat16" parameters and images are rounded to it; with
        "float32" nothing is converted, so float64 parameters and images compute in float64.
      train: training mode: BatchNorm normalises by this batch and updates its statistics.
    """
    given = images.dtype
    if dtype == "bfloat16":
        params, images = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, images))
    variables: Any = {"params": params, "batch_stats": stats}
    outputs: Any
    if train:
        outputs, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        # A layer of a user's own net may compute its statistics in bfloat16.
        stats = jax.tree.map(
            lambda new, old: new.astype(old.dtype), updated.get("batch_stats", {}), stats
        )
    else:
        outputs = module.apply(variables, images, train=False)
    logits, features = (x.astype(given) for x in outputs)
    return Outputs(logits, features, stats)
