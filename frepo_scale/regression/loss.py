"""The outer objective, row by row: squared error of the regression and the label margin.

Source: docs/algorithm.md section 4, step 4: `loss = mean_B ½‖pred - y‖² - mean_N margin`. Each
device sums its own rows; the caller takes the means over all devices.

Legend: B target batch, N distilled images, K classes.
"""

import jax
import jax.numpy as jnp


def half_squared_errors(error_BK: jax.Array) -> jax.Array:
    """`½ ‖pred - y‖²` of each row of the errors: (B,)."""
    return 0.5 * jnp.sum(jnp.square(error_BK), axis=-1)


def label_margins(y_NK: jax.Array) -> jax.Array:
    """`min(top1(y) - top2(y), 1/K)` of each row: (N,).

    The term keeps the largest label of a row apart from the second.

    Args:
      y_NK: (N, K) learned labels, without the flipped copies. K >= 2.
    """
    top = jax.lax.top_k(y_NK, 2)[0]
    return jnp.minimum(top[:, 0] - top[:, 1], 1.0 / y_NK.shape[-1])
