"""VGG-11.

Source: Simonyan and Zisserman 2015, configuration A. Up to 64 px one linear layer follows the
convolutions, as usual for CIFAR; above, there are three, as in the paper and torchvision.
"""

import flax.linen as nn
import jax

from frepo_scale.models.layers import (
    adaptive_average,
    check_multiplier,
    check_side,
    conv,
    dense,
    flattened,
    is_small,
    max_pool,
    relu,
    scaled,
)
from frepo_scale.models.norm import normalised

# (channels, whether a pooling follows)
_LAYERS = (
    (64, True),
    (128, True),
    (256, False),
    (256, True),
    (512, False),
    (512, True),
    (512, False),
    (512, True),
)


class VGG11(nn.Module):
    """Eight 3x3 convolutions with five poolings; then one linear layer up to 64 px, three above.

    Attributes:
      num_classes: width of the head, K.
      norm: one of `models.norm.NORMS`, after each convolution.
      width_multiplier: of all widths; 1 is the standard net.
    """

    num_classes: int
    norm: str = "none"
    width_multiplier: float = 1.0

    @nn.nowrap
    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises InputError for a wrong multiplier or (H, W, C) images whose map would vanish."""
        check_multiplier(self.width_multiplier)
        smallest = 28 if image_shape[-1] == 1 else 32
        check_side("vgg11", image_shape, smallest, "its five poolings leave no map")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images (B, H, W, C) to logits (B, K) and features (B, d).

        Up to 64 px d = 512 (H / 32)^2, the flattened last map; above, d = 4096, the last hidden
        layer.
        """
        small = is_small(x.shape[1:])
        # One-channel images are digits and clothes: 28 px become 32.
        first_padding = 3 if x.shape[-1] == 1 else 1
        for i, (channels, pooled) in enumerate(_LAYERS):
            padding = first_padding if i == 0 else 1
            x = conv(x, self._width(channels), 3, f"conv{i}", padding=padding)
            x = relu(normalised(x, self.norm, train, f"norm{i}"))
            if pooled:
                x = max_pool(x, 2, 2)
        if not small:
            x = flattened(adaptive_average(x, 7))
            x = relu(dense(x, self._width(4096), "hidden0"))
            x = relu(dense(x, self._width(4096), "hidden1"))
        features = flattened(x)
        return dense(features, self.num_classes, "head"), features

    @nn.nowrap
    def _width(self, channels: int) -> int:
        return scaled(channels, self.width_multiplier)
