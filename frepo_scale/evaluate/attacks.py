"""Changed test images: adversarial ones within a bound of the pixels, noise, blur.

All of it is done on pixels in [0, 1]; the net sees them through normalisation and whitening, and
gradients pass through both.

Sources: FGSM, Goodfellow et al. 2015; PGD, Madry et al. 2018, with the margin of Carlini and Wagner
2017 as the loss: the nets are trained with squared errors, so the scale of their logits carries no
meaning for a cross entropy.

Legend: n images, b of them at a time, H W C their shape, K classes.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.data.net_inputs import Constants, to_net_inputs
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.evaluate.fit import TrainedNet

PGD_STEPS = 10
_STEP = 2.5 / PGD_STEPS  # of a PGD step, in units of the bound
_AT_ONCE = 500


def constants_of(preprocessing: Preprocessing) -> Constants:
    """The preprocessing as arguments of jitted functions, on the device."""
    whitening = preprocessing.whitening
    host = Constants(
        preprocessing.channel_mean,
        preprocessing.channel_std,
        None if whitening is None else whitening.mean,
        None if whitening is None else whitening.matrix,
    )
    constants: Constants = jax.tree.map(jnp.asarray, host)  # the matrix may have 600 MB
    return constants


def pixels_of(inputs: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels (n, H, W, C) in [0, 1], multiples of 1/255, of net inputs of real images."""
    return preprocessing.to_pixels(inputs).astype(np.float32) / np.float32(255)


def correct(
    net: TrainedNet, constants: Constants, pixels: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Whether the net is right, bool (n,), on pixels (n, H, W, C) with labels (n,)."""
    parts = [
        _correct(net.module, net.variables, constants, pixels[rows], labels[rows])
        for rows in _batches(len(pixels))
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def attacked(
    net: TrainedNet,
    constants: Constants,
    pixels: np.ndarray,
    labels: np.ndarray,
    bound: float,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Adversarial images: FGSM, or with a `start` PGD of 10 steps.

    Args:
      net: the net that is attacked.
      constants: from pixels to its inputs.
      pixels: (n, H, W, C) in [0, 1].
      labels: (n,) int.
      bound: the largest change of a pixel.
      start: (n, H, W, C) in [-1, 1], the first change in units of the bound.

    Returns:
      (n, H, W, C) float32 in [0, 1].
    """
    parts = []
    for rows in _batches(len(pixels)):
        origin = now = jnp.asarray(pixels[rows])
        steps, size = 1, bound
        if start is not None:
            now = jnp.clip(origin + bound * start[rows], 0, 1)
            steps, size = PGD_STEPS, bound * _STEP
        for _ in range(steps):
            now = _step(
                net.module, net.variables, constants, origin, now, labels[rows], bound, size
            )
        parts.append(np.asarray(now))
    return np.concatenate(parts)


def _batches(n: int) -> list[slice]:
    return [slice(lo, lo + _AT_ONCE) for lo in range(0, n, _AT_ONCE)]


def _logits(module: nn.Module, variables: Any, constants: Constants, pixels: jax.Array) -> Any:
    inputs = to_net_inputs(constants, 255.0 * pixels)
    return module.apply(variables, inputs, train=False)[0]


@partial(jax.jit, static_argnums=0)
def _correct(
    module: nn.Module, variables: Any, constants: Constants, pixels: jax.Array, labels: jax.Array
) -> jax.Array:
    logits = _logits(module, variables, constants, pixels)
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    return (jnp.argmax(logits, axis=-1) == labels) & finite


@partial(jax.jit, static_argnums=0)
def _step(
    module: nn.Module,
    variables: Any,
    constants: Constants,
    origin: jax.Array,
    now: jax.Array,
    labels: jax.Array,
    bound: float,
    size: float,
) -> jax.Array:
    """One step of `size` along the sign of the gradient, within `bound` of `origin`."""

    def margin(pixels: jax.Array) -> jax.Array:
        logits_bK = _logits(module, variables, constants, pixels)
        own = jax.nn.one_hot(labels, logits_bK.shape[-1], dtype=bool)
        others_b = jnp.max(jnp.where(own, -jnp.inf, logits_bK), axis=-1)
        return jnp.sum(others_b - jnp.sum(jnp.where(own, logits_bK, 0), axis=-1))

    moved = now + size * jnp.sign(jax.grad(margin)(now))
    return jnp.clip(jnp.clip(moved, origin - bound, origin + bound), 0, 1)


def noisy(pixels: np.ndarray, noise: np.ndarray, std: float) -> np.ndarray:
    """Pixels with `std` times standard normal `noise` of their shape, clipped to [0, 1]."""
    return np.clip(pixels + np.float32(std) * noise, 0, 1)


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pixels (n, H, W, C) after a Gaussian filter of `sigma` pixels, edges replicated."""
    from scipy.ndimage import gaussian_filter  # not at the top: only this evaluation needs it

    return np.asarray(gaussian_filter(pixels, (0, sigma, sigma, 0), mode="nearest"))
