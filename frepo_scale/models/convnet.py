"""The paper's ConvNet.

Source: docs/algorithm.md section 3; Zhou et al. 2022, appendix on architectures.
"""

import flax.linen as nn
import jax

from frepo_scale.core.errors import InputError
from frepo_scale.models.description import noted
from frepo_scale.models.layers import average_pool, conv, dense, flattened, relu
from frepo_scale.models.norm import normalised

ACTIVATIONS = ("relu", "softplus")


class ConvNet(nn.Module):
    """Blocks of [norm, not before the first] conv 3x3, ReLU, 2x2 average pool; then one Dense.

    Attributes:
      num_classes: width of the head, K.
      width: channels of the first block; each further block has twice as many.
      depth: number of blocks.
      norm: one of `models.norm.NORMS`.
      activation: one of `ACTIVATIONS`. "softplus" is `log(1 + exp(beta x)) / beta`, a smooth ReLU.
      softplus_beta: beta.
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    norm: str = "batch"
    activation: str = "relu"
    softplus_beta: float = 60.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images (B, H, W, C) to logits (B, K) and features (B, d), d = the flattened last map."""
        # One-channel images are digits and clothes: 28 px become 32 (docs/algorithm.md section 3).
        first_padding = 3 if x.shape[-1] == 1 else 1
        for block in range(self.depth):
            if block:
                x = normalised(x, self.norm, train, f"norm{block}")
            padding = first_padding if block == 0 else 1
            x = conv(x, self.width * 2**block, 3, f"conv{block}", padding=padding)
            x = average_pool(self._activate(x), 2)
        features = flattened(x)
        return dense(features, self.num_classes, "head"), features

    def _activate(self, x: jax.Array) -> jax.Array:
        if self.activation == "softplus":
            y = nn.softplus(self.softplus_beta * x) / self.softplus_beta
            return noted(y, x, op="softplus", beta=self.softplus_beta)
        return relu(x)

    @nn.nowrap
    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises InputError if the last map of (H, W, C) images would vanish."""
        if smallest_map(image_shape, self.depth) == 0:
            deepest = smallest_map(image_shape, 0).bit_length() - 1  # each block halves the map
            raise InputError(
                f"DEPTH = {self.depth}: the feature map of a {image_shape[0]} px image"
                " shrinks to size 0",
                f"a depth of at most {deepest}" if deepest else "images of at least 2 px",
                f"use --gin.DEPTH={deepest}" if deepest else "use --gin.RESOLUTION=8",
            )


def smallest_map(image_shape: tuple[int, ...], depth: int) -> int:
    """Side of the last map of a ConvNet on (H, W, C) images, in pixels; 0 if it vanishes."""
    height, width, channels = image_shape
    side = min(height, width) + (4 if channels == 1 else 0)
    return side >> depth
