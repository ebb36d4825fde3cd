"""The two containers that travel between packages.

Legend: N synthetic images, B target batch, H W height and width in pixels, C channels, K classes.
"""

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray


class DistilledSet(NamedTuple):
    """The synthetic images and labels being learned (ALGORITHM.md section 2).

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
      labels: (B, K) float, `onehot - 1/K`.
    """

    images: Array
    labels: Array
