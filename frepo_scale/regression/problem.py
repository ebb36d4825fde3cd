"""The regression problem and its solution, as the two ways to solve it share them.

`direct` solves in float64, `iterative` in float32. Both take the rows of the regression spread over
a mesh axis, inside `shard_map`.

Legend: R rows of the regression, r of them on this device (r = R without an axis), d features,
K classes, n unknowns: R in the dual form, d in the primal form.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from frepo_scale.regression.factorisation import System


class Rows(NamedTuple):
    """How the rows of an array are spread over the devices of a mesh axis.

    Attributes:
      axis: the mesh axis; None where every row is on this device: then its methods are identities.
    """

    axis: str | None

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over the devices, complete on each."""
        return x if self.axis is None else jax.lax.psum(x, self.axis)

    def gather(self, x_r: jax.Array) -> jax.Array:
        """All rows (R, ...), complete on each device, from this device's rows (r, ...)."""
        return x_r if self.axis is None else jax.lax.all_gather(x_r, self.axis, tiled=True)

    def largest(self, x: jax.Array) -> jax.Array:
        """The elementwise maximum over the devices, the same on each."""
        return x if self.axis is None else jax.lax.pmax(x, self.axis)

    def local(self, x_R: jax.Array, count: int) -> jax.Array:
        """This device's `count` rows of an array that holds all rows."""
        if self.axis is None:
            return x_R
        return jax.lax.dynamic_slice_in_dim(x_R, jax.lax.axis_index(self.axis) * count, count)


class RidgeProblem(NamedTuple):
    """The features and how their regression is solved.

    Attributes:
      f_rd: this device's features, in the precision of the solve.
      size: R, without padding.
      dual: whether the R x R system is solved; else the d x d system.
      system: how it is stored and factorised.
      rows: the axis that the rows are spread over.
    """

    f_rd: jax.Array
    size: int
    dual: bool
    system: System
    rows: Rows

    def mean_square(self) -> jax.Array:
        """`tr(F Fᵀ) / R`, the unit of the ridge."""
        return self.rows.sum(jnp.sum(jnp.square(self.f_rd))) / self.size


class Solution(NamedTuple):
    """The solved regression, in the precision of the solve.

    Attributes:
      w_dK: the linear map: predictions are `F_t W`.
      f_rd: this device's features.
      y_rK: this device's labels.
      alpha: `(K + rho I)^-1 Y`. Dual form: all rows, complete on every device (R, K). Primal form:
        this device's rows (r, K) in float32, empty in float64.
      factor: Cholesky factor, as `System.factorise` gives it.
      rho: the ridge in force times the unit.
      shift: the value added to the diagonal of the factorised Gram matrix; rho in float64.
      ridge: the ridge in force: the configured one unless the guard raised it.
      raised: bool scalar: the ridge was raised, or no ridge was accurate enough.
    """

    w_dK: jax.Array
    f_rd: jax.Array
    y_rK: jax.Array
    alpha: jax.Array
    factor: jax.Array
    rho: jax.Array
    shift: jax.Array
    ridge: jax.Array
    raised: jax.Array
