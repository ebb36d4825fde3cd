"""Layers that the standard nets share.

The nets are those of the literature, with two changes. Weights start as in the ConvNet: LeCun
normal, biases zero (docs/algorithm.md section 3). Dropout is left out: nets get no random keys.

Legend: B images, H W height and width of a map, C channels.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.checks import check_float
from frepo_scale.core.errors import InputError
from frepo_scale.models.description import noted

# Images up to this side get the form of a net that the literature uses for CIFAR; larger ones get
# the form for ImageNet.
SMALL = 64


def is_small(image_shape: Sequence[int]) -> bool:
    """Whether images (H, W, C) get the form for CIFAR."""
    return min(image_shape[:2]) <= SMALL


def scaled(channels: int, multiplier: float) -> int:
    """`channels` of the standard net times the width multiplier, at least 1."""
    return max(1, round(channels * multiplier))


def check_multiplier(multiplier: float) -> None:
    """Raises InputError for a width multiplier that is not a number greater than 0."""
    check_float("NET_ARGS: width_multiplier", multiplier, 0, 64, open_low=True)


def check_side(name: str, image_shape: Sequence[int], smallest: int, why: str) -> None:
    """Raises InputError for images (H, W, C) whose side is less than `smallest` pixels."""
    side = min(image_shape[:2])
    if side < smallest:
        raise InputError(
            f"NET {name} on {side} px images: {why}",
            f"images of at least {smallest} px",
            "use another net, for example --gin.NET=convnet",
        )


def conv(
    x: jax.Array, channels: int, side: int, name: str, stride: int = 1, padding: int | None = None,
    bias: bool = True,
) -> jax.Array:  # fmt: skip
    """A `side` x `side` convolution of (B, H, W, C) to `channels`, padded by side // 2 unless told.

    To be called in a compact method of a flax module, like all layers here.
    """
    around = side // 2 if padding is None else padding
    layer = nn.Conv(
        channels,
        (side, side),
        strides=(stride, stride),
        padding=around,
        use_bias=bias,
        param_dtype=x.dtype,
        name=name,
    )
    sizes = {"inputs": x.shape[-1], "channels": channels, "kernel": side, "stride": stride}
    return noted(layer(x), x, op="convolution", layer=layer, **sizes, padding=around, bias=bias)


def dense(x: jax.Array, width: int, name: str) -> jax.Array:
    """A linear layer of (B, F) to (B, width)."""
    layer = nn.Dense(width, param_dtype=x.dtype, name=name)
    return noted(layer(x), x, op="linear", layer=layer, inputs=x.shape[-1], outputs=width)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0)."""
    return noted(nn.relu(x), x, op="relu")


def added(x: jax.Array, y: jax.Array) -> jax.Array:
    """x + y, of a block and its shortcut."""
    return noted(x + y, x, y, op="add")


def average_pool(x: jax.Array, side: int) -> jax.Array:
    """Means over windows of (B, H, W, C) side by side; what does not fill a window is left out."""
    y = nn.avg_pool(x, (side, side), strides=(side, side))
    return noted(y, x, op="average pool", side=side, stride=side)


def mean_over_map(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, C)."""
    return noted(jnp.mean(x, axis=(1, 2)), x, op="global average pool")


def max_pool(x: jax.Array, side: int, stride: int, padding: int = 0) -> jax.Array:
    """Maxima over windows of (B, H, W, C); what does not fill a window is left out."""
    both = (padding, padding)
    y = nn.max_pool(x, (side, side), strides=(stride, stride), padding=(both, both))
    return noted(y, x, op="max pool", side=side, stride=stride, padding=padding)


def adaptive_average(x: jax.Array, side: int) -> jax.Array:
    """(B, H, W, C) averaged to (B, side, side, C), as PyTorch's `AdaptiveAvgPool2d`.

    Window i of n pixels goes from floor(i n / side) to ceil((i + 1) n / side).
    """
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (jnp.asarray(_averaging(n, side), x.dtype) for n in x.shape[1:3])
    highest = jax.lax.Precision.HIGHEST
    y = jnp.einsum("bhwc,ih,jw->bijc", x, rows, columns, precision=highest)
    return noted(y, x, op="adaptive average pool", side=side)


def _averaging(n: int, side: int) -> np.ndarray:
    matrix = np.zeros((side, n))
    for i in range(side):
        low, high = i * n // side, -(-(i + 1) * n // side)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def flattened(x: jax.Array) -> jax.Array:
    """(B, ...) to (B, F)."""
    return noted(x.reshape(x.shape[0], -1), x, op="flatten")
