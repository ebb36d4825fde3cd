"""The containers that packages exchange.

Legend: N synthetic images, B target batch, H W height and width in pixels, C channels, K classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = Any  # a jax.Array on devices, an np.ndarray on the host


class DistilledSet(NamedTuple):
    """The synthetic images and labels being learned (docs/algorithm.md section 2).

    Attributes:
      images: (N, H, W, C) float, as the net sees them: normalised and whitened.
      labels: (N, K) float, learned soft labels; each row is centred at the start.
    """

    images: Array
    labels: Array


class Batch(NamedTuple):
    """Real images with their targets.

    Attributes:
      images: (B, H, W, C) float, normalised and whitened.
      labels: (B,) int32 classes; `centred_onehot` makes the targets on the device, so that
        4 bytes per image are sent and not 4 K.
    """

    images: Array
    labels: Array


def centred_onehot(labels: Array, num_classes: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """`onehot - 1/K` of integer labels (B,): float (B, K) (docs/algorithm.md section 1)."""
    return jax.nn.one_hot(labels, num_classes, dtype=dtype) - 1.0 / num_classes
