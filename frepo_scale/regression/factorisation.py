"""Symmetric positive definite systems: complete on every device, or spread over a mesh axis.

`System` is the interface of both to the regression. The library's factorisation works on the
complete matrix; the blocked one (`regression.cholesky`) on this device's rows of it, so that the
devices of the axis share the work of Gram matrix, factorisation, solves and residual.

Legend: n unknowns, s rows of the matrix on this device (s = n where it is complete; whole blocks
otherwise, zeros behind the last row of the matrix), R rows of the regression, r of them on this
device, d features, K right-hand sides.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from frepo_scale.regression.cholesky import Spread, factorise, substitute


class System(NamedTuple):
    """How a system of n equations is stored and solved.

    Attributes:
      unknowns: n.
      spread: how the block rows of the blocked factorisation are spread; None for the library's.
    """

    unknowns: int
    spread: Spread | None

    @property
    def size(self) -> int:
        """Columns of the stored matrix: n, padded to whole blocks."""
        return self.unknowns if self.spread is None else self.spread.padded(self.unknowns)

    def local(self, x_n: jax.Array) -> jax.Array:
        """Of all n rows of an array, those of this device's rows of the matrix: (s, ...)."""
        if self.spread is None:
            return x_n
        return self.spread.local(self._padded(x_n)).reshape(-1, *x_n.shape[1:])

    def gram_of_rows(self, f_Rd: jax.Array) -> jax.Array:
        """This device's rows of `F Fᵀ`, for F complete on every device."""
        return self.local(f_Rd) @ self._padded(f_Rd).T

    def gram_of_columns(self, f_rd: jax.Array, axis: str | None) -> jax.Array:
        """This device's rows of `FᵀF`, for F with its rows spread over `axis`."""
        wide, spread = self._padded(f_rd.T), self.spread
        if spread is None or spread.axis is None:
            product = wide @ wide.T
            return product if axis is None else jax.lax.psum(product, axis)
        # Rows ordered by the device that stores them: the sum is scattered in that order.
        stored = spread.stored(self.size)
        order = jnp.arange(stored).reshape(-1, spread.devices, spread.block)
        rows = jnp.pad(wide, ((0, stored - self.size), (0, 0)))
        product = rows[order.swapaxes(0, 1).reshape(-1)] @ wide.T
        return jax.lax.psum_scatter(product, spread.axis, scatter_dimension=0, tiled=True)

    def shifted(self, matrix: jax.Array, rho: jax.Array) -> jax.Array:
        """`matrix + rho I`, with 1 on the diagonal of the padding."""
        indices = jnp.arange(self.size)
        if self.spread is not None:
            indices = self.spread.row_indices(self.size)
        padding = indices >= self.unknowns
        added = jnp.where(padding, 1.0, rho).astype(matrix.dtype)
        return matrix + jnp.where(jnp.arange(self.size) == indices[:, None], added[:, None], 0.0)

    def factorise(self, matrix: jax.Array) -> jax.Array:
        """The lower Cholesky factor in the form that `solve` takes; NaN where there is none."""
        if self.spread is None:
            return jsl.cho_factor(matrix, lower=True)[0]
        return factorise(matrix.reshape(-1, self.spread.block, self.size), self.spread)

    def solve(self, factor: jax.Array, right_nK: jax.Array) -> jax.Array:
        """The solution (n, K), complete on every device, for complete right-hand sides."""
        if self.spread is None:
            return jsl.cho_solve((factor, True), right_nK)
        return substitute(factor, self._padded(right_nK), self.spread)[: self.unknowns]

    def residual(self, matrix: jax.Array, x_nK: jax.Array, right_nK: jax.Array) -> jax.Array:
        """`‖matrix X - Y‖ / ‖Y‖`, the same on every device."""
        missing = jnp.sum(jnp.square(matrix @ self._padded(x_nK) - self.local(right_nK)))
        if self.spread is not None:
            missing = self.spread.sum(missing)
        scale = jnp.linalg.norm(right_nK) + jnp.finfo(right_nK.dtype).tiny
        return jnp.sqrt(missing) / scale

    def _padded(self, x_n: jax.Array) -> jax.Array:
        width = [(0, self.size - self.unknowns)] + [(0, 0)] * (x_n.ndim - 1)
        return jnp.pad(x_n, width)
