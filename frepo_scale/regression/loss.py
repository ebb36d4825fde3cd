"""The outer objective, row by row: the loss of the predictions, and the label margin.

Source: docs/algorithm.md section 4, step 4: `loss = mean_B ½‖pred - y‖² - mean_N margin`; the
cross-entropy with a learned temperature is that of section 8a. Each device sums its own rows; the
caller takes the means over all devices.

Legend: B target batch, N distilled images, K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def half_squared_errors(error_BK: jax.Array) -> jax.Array:
    """`½ ‖pred - y‖²` of each row of the errors: (B,)."""
    return 0.5 * jnp.sum(jnp.square(error_BK), axis=-1)


def label_margins(y_NK: jax.Array, cap: float = 1.0) -> jax.Array:
    """`min(top1(y) - top2(y), cap/K)` of each row: (N,).

    The term keeps the largest label of a row apart from the second.

    Args:
      y_NK: (N, K) learned labels, without the flipped copies. K >= 2.
      cap: in units of 1/K.
    """
    top = jax.lax.top_k(y_NK, 2)[0]
    return jnp.minimum(top[:, 0] - top[:, 1], cap / y_NK.shape[-1])


class RowLoss(NamedTuple):
    """The loss of predictions and its derivatives.

    Attributes:
      loss_B: of each row.
      error_BK: its derivative with respect to the predictions.
      slope_B: its derivative with respect to the logarithm of the inverse temperature; None
        without a temperature.
    """

    loss_B: jax.Array
    error_BK: jax.Array
    slope_B: jax.Array | None


def squared_loss(pred_BK: jax.Array, targets_BK: jax.Array) -> RowLoss:
    """`½ ‖pred - y‖²` for centred one-hot targets."""
    error_BK = pred_BK - targets_BK
    return RowLoss(half_squared_errors(error_BK), error_BK, None)


def cross_entropy_loss(pred_BK: jax.Array, labels_B: jax.Array, sharpness: jax.Array) -> RowLoss:
    """The cross-entropy of `softmax(pred * exp(sharpness))`.

    Args:
      pred_BK: predictions.
      labels_B: integer classes.
      sharpness: the logarithm of the inverse temperature, a scalar.
    """
    scale = jnp.exp(sharpness)
    logits_BK = pred_BK * scale
    log_softmax_BK = jax.nn.log_softmax(logits_BK)
    onehot_BK = jax.nn.one_hot(labels_B, pred_BK.shape[-1], dtype=pred_BK.dtype)
    error_BK = jnp.exp(log_softmax_BK) - onehot_BK
    loss_B = -jnp.sum(onehot_BK * log_softmax_BK, -1)
    return RowLoss(loss_B, error_BK * scale, jnp.sum(error_BK * logits_BK, -1))
