"""The outer objective: squared error of the regression plus the label margin term.

Source: ALGORITHM.md section 4, step 4. Legend: B target batch, N synthetic images, K classes.
"""

import jax
import jax.numpy as jnp


def regression_loss(pred_BK: jax.Array, y_BK: jax.Array) -> jax.Array:
    """`mean_B ½ ‖pred - y‖²`, a scalar."""
    return 0.5 * jnp.mean(jnp.sum(jnp.square(pred_BK - y_BK), axis=-1))


def label_margins(y_NK: jax.Array) -> jax.Array:
    """`min(top1(y) - top2(y), 1/K)` of each row: (N,). K >= 2."""
    top = jax.lax.top_k(y_NK, 2)[0]
    return jnp.minimum(top[:, 0] - top[:, 1], 1.0 / y_NK.shape[-1])


def label_loss(y_NK: jax.Array) -> jax.Array:
    """`mean_N -min(top1(y) - top2(y), 1/K)`: keeps learned labels decided, a scalar.

    Args:
      y_NK: (N, K) learned labels, without the flipped copies. K >= 2.
    """
    return -jnp.mean(label_margins(y_NK))


def accuracy(pred_BK: jax.Array, y_BK: jax.Array) -> jax.Array:
    """Share of rows whose largest prediction is the target's class, a float32 scalar."""
    return jnp.mean(jnp.argmax(pred_BK, -1) == jnp.argmax(y_BK, -1), dtype=jnp.float32)
