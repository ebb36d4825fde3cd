"""Pixels to net inputs on the devices: cast, normalise, whiten.

Whitening a 64 px image is a product with a 12 288 x 12 288 matrix (604 MB, on every device). It is
computed in full float32: a TPU's default matrix precision is off by 1.5 % here
(docs/algorithm.md section 1).

Legend: n images, b of them at a time, H W height and width, C channels, D = H W C, E of one grid
(`data.whitening_grid`), D up to 64 px.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from frepo_scale.core.types import Array
from frepo_scale.data.types import Rows
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.data.whitening_grid import grid_of, join_grids, split_grids
from frepo_scale.parallel.mesh import over

_AT_ONCE = 1024  # images; bounds the memory for their float copies


class Constants(NamedTuple):
    """A `Preprocessing` as arguments of a jitted function.

    Attributes:
      channel_mean: (C,) float32.
      channel_std: (C,) float32.
      mean: (D,) float32, or None where nothing is whitened.
      matrix: (E, E) float32, or None.
    """

    channel_mean: Array
    channel_std: Array
    mean: Array | None
    matrix: Array | None


def replicated(preprocessing: Preprocessing, mesh: Mesh) -> Constants:
    """The constants, whole on every device of the mesh."""
    whitening = preprocessing.whitening
    host = Constants(
        preprocessing.channel_mean,
        preprocessing.channel_std,
        None if whitening is None else whitening.mean,
        None if whitening is None else whitening.matrix,
    )
    put = partial(jax.make_array_from_process_local_data, over(mesh))
    constants: Constants = jax.tree.map(put, host)
    return constants


def to_net_inputs(constants: Constants, pixels: jax.Array) -> jax.Array:
    """uint8 (b, H, W, C) pixels to float32 net inputs, as `Preprocessing.apply`; to be jitted."""
    x = (pixels.astype(jnp.float32) / 255.0 - constants.channel_mean) / constants.channel_std
    if constants.matrix is None or constants.mean is None:
        return x
    grid = grid_of(constants.mean, constants.matrix)
    rows = split_grids(x - constants.mean.reshape(x.shape[1:]), grid)
    product = jnp.matmul(rows, constants.matrix, precision=jax.lax.Precision.HIGHEST)
    return jnp.asarray(join_grids(product, x.shape, grid))


class NetInputs:
    """Net inputs of a part, made of its pixels when they are read."""

    def __init__(self, pixels: Rows, constants: Constants) -> None:
        """Computes from the part `pixels` on the first device of this process."""
        self._pixels = pixels
        self._constants = jax.tree.map(lambda x: x.addressable_data(0), constants)
        self._apply = jax.jit(to_net_inputs)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32."""
        return self._pixels.labels

    def __len__(self) -> int:
        """n."""
        return len(self._pixels)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Net inputs (b, H, W, C) float32 at `rows` (b,) int64."""
        parts = [
            np.asarray(self._apply(self._constants, self._pixels.at(rows[lo : lo + _AT_ONCE])))
            for lo in range(0, max(len(rows), 1), _AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
