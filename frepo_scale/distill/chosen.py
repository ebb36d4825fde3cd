"""Random synthetic images of an outer step, spread evenly over the devices.

An online minibatch and a gradient for some of the images need the same: rows chosen by a function
of (seed, step, member), the same on every mesh, whatever device holds them. Each chosen row is sent
once.

Legend: N synthetic images, n of them on this device, s chosen ones on this device, both padded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from frepo_scale.parallel.mesh import DATA


class Chosen(NamedTuple):
    """Chosen rows, inside `shard_map` over the mesh.

    Attributes:
      rows: indices of the chosen images among all N, padded with -1 to a multiple of the devices;
        the same on every device.
      total: chosen images, without padding.
    """

    rows: jax.Array
    total: int

    @property
    def share(self) -> int:
        """s, the rows on each device."""
        return len(self.rows) // jax.lax.axis_size(DATA)

    def _local(self, n: int) -> tuple[jax.Array, jax.Array]:
        """The chosen rows as indices into this device's n rows, and which of them are there."""
        local = self.rows - jax.lax.axis_index(DATA) * n
        return jnp.clip(local, 0, n - 1), (local >= 0) & (local < n) & (self.rows >= 0)

    def spread(self, x: jax.Array) -> jax.Array:
        """This device's share (s, ...) of the chosen rows of an array (n, ...); padding is 0."""
        index, mine = self._local(len(x))
        part = x[index] * mine.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
        return jax.lax.psum_scatter(part, DATA, scatter_dimension=0, tiled=True)

    def collect(self, y: jax.Array, n: int) -> jax.Array:
        """The inverse of `spread`: an array (n, ...) with 0 in the rows that are not chosen."""
        index, mine = self._local(n)
        every = jax.lax.all_gather(y, DATA, tiled=True)
        every = every * mine.reshape((-1,) + (1,) * (y.ndim - 1)).astype(y.dtype)
        return jnp.zeros((n, *y.shape[1:]), y.dtype).at[index].add(every)

    def weights(self) -> jax.Array:
        """(s,) bool: False for padding."""
        return jax.lax.axis_index(DATA) * self.share + jnp.arange(self.share) < self.total


def choose(key: jax.Array, size: int, count: int, devices: int) -> Chosen:
    """`count` of `size` images without replacement.

    Args:
      key: of the choice.
      size: N.
      count: images to choose, at most N.
      devices: of the mesh axis "data".
    """
    rows = jax.random.permutation(key, size)[:count]
    share = -(-count // devices)
    return Chosen(jnp.pad(rows, (0, share * devices - count), constant_values=-1), count)
