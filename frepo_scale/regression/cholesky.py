"""A blocked Cholesky factorisation whose rows may be spread over several devices.

It is for TPUs. There the library's factorisation is unrolled and takes minutes to compile at 2000
rows; this one is a loop over panels and compiles in a few seconds at any size. It is left-looking:
panel k is corrected by all panels before it in one matrix product, so each entry is written once.

Spread over a mesh axis of D devices, block row i (`BLOCK` rows) is on device i mod D
(block-cyclic, so that all devices have work until the end). One block row is broadcast per panel,
and every device factorises its diagonal block itself. Source: the distribution of ScaLAPACK,
reduced to one dimension. Columns are padded to whole blocks only, and there is one panel for each
of them. Every device stores equally many block rows; those behind the last one are zeros that no
panel reads.

A loop of fixed shapes also multiplies zeros: it takes six times the operations of an ideal one,
which is still less than the Gram matrix takes. Loops of growing width would save half of them and
take that many times longer to compile.

Legend: n columns (a multiple of b, see `padded`), b rows of a block, m block rows on this device
(n / b / D, rounded up), K right-hand sides. Functions with `axis` are called inside `shard_map`, or
with axis = None and D = 1 anywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 256
LEAST_BLOCK = 64  # smaller products leave most of a matrix unit idle


class Spread(NamedTuple):
    """How block rows are spread.

    Attributes:
      axis: the mesh axis, None for one device.
      devices: D, its size.
      block: rows of a block.
    """

    axis: str | None = None
    devices: int = 1
    block: int = BLOCK

    def padded(self, rows: int) -> int:
        """n: the least multiple of the block that is at least `rows`."""
        return -(-rows // self.block) * self.block

    def count(self, columns: int) -> int:
        """m: block rows that each device stores, for n columns."""
        return -(-columns // (self.block * self.devices))

    def stored(self, columns: int) -> int:
        """Rows that all devices store together, for n columns: n or more."""
        return self.count(columns) * self.block * self.devices

    def position(self) -> jax.Array:
        """This device's index on the axis."""
        return jnp.int32(0) if self.axis is None else jax.lax.axis_index(self.axis)

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over the devices."""
        return x if self.axis is None else jax.lax.psum(x, self.axis)

    def local(self, x_n: jax.Array) -> jax.Array:
        """This device's block rows (m, b, ...) of an array (n, ...) that all devices hold."""
        missing = self.stored(len(x_n)) - len(x_n)
        if missing:
            x_n = jnp.pad(x_n, [(0, missing)] + [(0, 0)] * (x_n.ndim - 1))
        blocks = x_n.reshape(-1, self.devices, self.block, *x_n.shape[1:])
        return jax.lax.dynamic_index_in_dim(blocks, self.position(), 1, keepdims=False)

    def mask(self, x: jax.Array, k: jax.Array) -> jax.Array:
        """`x` on the device that has block row k, zero elsewhere."""
        return jnp.where(k % self.devices == self.position(), x, 0.0)

    def broadcast(self, x: jax.Array, k: jax.Array) -> jax.Array:
        """On every device the `x` of the device that has block row k."""
        return self.sum(self.mask(x, k))

    def block_indices(self, count: int) -> jax.Array:
        """The indices, in the whole matrix, of this device's `count` block rows."""
        return jnp.arange(count) * self.devices + self.position()

    def row_indices(self, columns: int) -> jax.Array:
        """The indices of this device's rows (m b,); those behind the last row are n or more."""
        first = self.block * self.block_indices(self.count(columns))
        return (first[:, None] + jnp.arange(self.block)).ravel()


def block_of_little_padding(rows: int, devices: int, block: int) -> int:
    """`block`, halved to at least `LEAST_BLOCK` while more than half of `rows` would be added."""
    while block // 2 >= LEAST_BLOCK and Spread(None, devices, block).stored(rows) > 1.5 * rows:
        block //= 2
    return block


def factorise(a_mbn: jax.Array, spread: Spread) -> jax.Array:
    """The lower Cholesky factor of a symmetric matrix, spread as the matrix is.

    Args:
      a_mbn: this device's block rows; only the lower triangle is read.
      spread: how they are spread.

    Returns:
      (m, b, n), zero above the diagonal. NaN from the first panel on whose diagonal block is not
      positive definite.
    """
    count, block, n = a_mbn.shape
    indices = spread.block_indices(count)[:, None, None]

    def panel(k: jax.Array, rows_mbn: jax.Array) -> jax.Array:
        row_bn = spread.broadcast(_block_row(rows_mbn, k, spread), k)
        before_bn = jnp.where(jnp.arange(n) < k * block, row_bn, 0.0)
        column = _columns(rows_mbn, k, 2) - jnp.einsum("mbn,cn->mbc", rows_mbn, before_bn)
        corner = _columns(row_bn, k, 1) - before_bn @ before_bn.T
        l_bb = jax.lax.linalg.cholesky(corner, symmetrize_input=False)
        below = jax.lax.linalg.triangular_solve(
            l_bb, column.reshape(-1, block), lower=True, transpose_a=True
        ).reshape(column.shape)
        column = jnp.where(indices == k, l_bb, jnp.where(indices > k, below, 0.0))
        return jax.lax.dynamic_update_slice_in_dim(rows_mbn, column, k * block, 2)

    return jax.lax.fori_loop(0, n // block, panel, a_mbn)


def substitute(l_mbn: jax.Array, y_nK: jax.Array, spread: Spread) -> jax.Array:
    """`(L Lᵀ)^-1 Y`, complete on every device (n, K), for Y complete on every device.

    Forward, a block of the solution is broadcast and every device subtracts its part from its own
    rows. Backward, the devices' sums over their own rows are added. Both share the work.
    """
    count, block, n = l_mbn.shape
    panels = n // block
    indices = spread.block_indices(count)[:, None, None]

    def forward(k: jax.Array, left_mbK: jax.Array) -> jax.Array:
        # Valid on the device that has block k; `broadcast` discards the others' results.
        l_bb = _columns(_block_row(l_mbn, k, spread), k, 1)
        z_bK = jax.lax.linalg.triangular_solve(
            l_bb, _block_row(left_mbK, k, spread), left_side=True, lower=True
        )
        z_bK = spread.broadcast(z_bK, k)
        rest = left_mbK - jnp.einsum("mbc,cK->mbK", _columns(l_mbn, k, 2), z_bK)
        return jnp.where(indices > k, rest, jnp.where(indices == k, z_bK, left_mbK))

    z_mbK = jax.lax.fori_loop(0, panels, forward, spread.local(y_nK))

    def backward(number: jax.Array, x_nK: jax.Array) -> jax.Array:
        k = panels - 1 - number
        # Block k of x is still zero, so the diagonal block adds nothing.
        known = jnp.einsum("mbc,mbK->cK", _columns(l_mbn, k, 2), spread.local(x_nK))
        right = spread.mask(_block_row(z_mbK, k, spread), k)
        l_bb = spread.broadcast(_columns(_block_row(l_mbn, k, spread), k, 1), k)
        x_bK = jax.lax.linalg.triangular_solve(
            l_bb, spread.sum(right - known), left_side=True, lower=True, transpose_a=True
        )
        return jax.lax.dynamic_update_slice_in_dim(x_nK, x_bK, k * block, 0)

    # As many rows as are stored, so that no panel has to pad them.
    start = jnp.zeros((spread.stored(n), y_nK.shape[1]), y_nK.dtype)
    return jax.lax.fori_loop(0, panels, backward, start)[:n]


def _block_row(x_mbX: jax.Array, k: jax.Array, spread: Spread) -> jax.Array:
    """Block row k on the device that has it, another block row elsewhere."""
    return jax.lax.dynamic_index_in_dim(x_mbX, k // spread.devices, 0, keepdims=False)


def _columns(x: jax.Array, k: jax.Array, dimension: int) -> jax.Array:
    """Block k of the columns."""
    block = x.shape[dimension - 1]
    return jax.lax.dynamic_slice_in_dim(x, k * block, block, dimension)
