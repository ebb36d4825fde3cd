"""AlexNet.

Sources: up to 64 px the definition of the dataset distillation literature (Zhao and Bilen, "Dataset
Condensation with Gradient Matching" and "... Differentiable Siamese Augmentation", `networks.py`
of their published code); above, Krizhevsky 2014 as torchvision has it.
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

# (channels, side of the kernel, whether a pooling follows)
_SMALL_LAYERS = ((128, 5, True), (192, 5, True), (256, 3, False), (192, 3, False), (192, 3, True))
_LARGE_LAYERS = ((64, 11, True), (192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True))


class AlexNet(nn.Module):
    """Five convolutions; then one linear layer up to 64 px, three above.

    Attributes:
      num_classes: width of the head, K.
      norm: one of `models.norm.NORMS`, after each convolution; the standard net has none.
      width_multiplier: of all widths; 1 is the standard net.
    """

    num_classes: int
    norm: str = "none"
    width_multiplier: float = 1.0

    @nn.nowrap
    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises InputError for a wrong multiplier or (H, W, C) images whose map would vanish."""
        check_multiplier(self.width_multiplier)
        smallest = 4 if image_shape[-1] == 1 else 8
        check_side("alexnet", image_shape, smallest, "its three poolings leave no map")

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images (B, H, W, C) to logits (B, K) and features (B, d).

        Up to 64 px d = 192 (H / 8)^2, the flattened last map; above, d = 4096, the last hidden
        layer.
        """
        small = is_small(x.shape[1:])
        # One-channel images are digits and clothes: 28 px become 32.
        first_padding = 4 if x.shape[-1] == 1 else 2
        for i, (channels, side, pooled) in enumerate(_SMALL_LAYERS if small else _LARGE_LAYERS):
            stride = 4 if i == 0 and not small else 1
            padding = first_padding if i == 0 else None
            x = conv(x, self._width(channels), side, f"conv{i}", stride, padding)
            x = relu(normalised(x, self.norm, train, f"norm{i}"))
            if pooled:
                x = max_pool(x, 2 if small else 3, 2)
        if not small:
            x = flattened(adaptive_average(x, 6))
            x = relu(dense(x, self._width(4096), "hidden0"))
            x = relu(dense(x, self._width(4096), "hidden1"))
        features = flattened(x)
        return dense(features, self.num_classes, "head"), features

    @nn.nowrap
    def _width(self, channels: int) -> int:
        return scaled(channels, self.width_multiplier)
