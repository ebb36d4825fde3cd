"""ResNets of basic blocks: ResNet-10, ResNet-18, and ResNet-34 by their number of blocks.

Source: He et al. 2016. Up to 64 px the first layer is a 3x3 convolution of stride 1 without
pooling, as usual for CIFAR; above, it is the paper's 7x7 convolution of stride 2 with a max
pooling.
"""

import flax.linen as nn
import jax

from frepo_scale.core.errors import InputError
from frepo_scale.models.layers import (
    added,
    check_multiplier,
    check_side,
    conv,
    dense,
    is_small,
    max_pool,
    mean_over_map,
    relu,
    scaled,
)
from frepo_scale.models.norm import groups_of, normalised

_CHANNELS = (64, 128, 256, 512)  # of the four stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shapes differ.

    Attributes:
      channels: of the result.
      stride: of the first convolution and of the shortcut.
      norm: one of `models.norm.NORMS`; convolutions have a bias where it is "none".
    """

    channels: int
    stride: int
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) to (B, H / stride, W / stride, channels)."""
        bias = self.norm == "none"
        y = conv(x, self.channels, 3, "conv0", self.stride, bias=bias)
        y = relu(normalised(y, self.norm, train, "norm0"))
        y = conv(y, self.channels, 3, "conv1", bias=bias)
        y = normalised(y, self.norm, train, "norm1")
        if x.shape != y.shape:
            x = conv(x, self.channels, 1, "shortcut", self.stride, bias=bias)
            x = normalised(x, self.norm, train, "shortcut_norm")
        return relu(added(x, y))


class ResNet18(nn.Module):
    """A first layer, four stages of basic blocks, the mean over the last map, one linear layer.

    Attributes:
      num_classes: width of the head, K.
      norm: one of `models.norm.NORMS`, after each convolution; the standard net has "batch".
      width_multiplier: of all widths; 1 is the standard net.
      blocks: number of blocks of each stage; (3, 4, 6, 3) makes a ResNet-34.
    """

    num_classes: int
    norm: str = "batch"
    width_multiplier: float = 1.0
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    @nn.nowrap
    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises InputError for wrong fields, or where a norm would normalise single pixels."""
        check_multiplier(self.width_multiplier)
        blocks: object = self.blocks
        ok = isinstance(blocks, tuple) and len(blocks) == len(_CHANNELS)
        if not ok or not all(type(count) is int and count > 0 for count in self.blocks):
            raise InputError(
                f"NET_ARGS: blocks = {blocks!r}",
                "four whole numbers of at least 1",
                """for example --gin.NET_ARGS="{'blocks': [2, 2, 2, 2]}" """,
            )
        last = scaled(_CHANNELS[-1], self.width_multiplier)
        if self.norm == "instance" or (self.norm == "group" and groups_of(last) == last):
            why = f"{self.norm} norm makes maps of one pixel 0"
            check_side("resnet", image_shape, 9, why)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images (B, H, W, C) to logits (B, K) and features (B, d), d = 512."""
        small, bias = is_small(x.shape[1:]), self.norm == "none"
        widths = [scaled(channels, self.width_multiplier) for channels in _CHANNELS]
        side, stride = (3, 1) if small else (7, 2)
        x = conv(x, widths[0], side, "conv0", stride, bias=bias)
        x = relu(normalised(x, self.norm, train, "norm0"))
        if not small:
            x = max_pool(x, 3, 2, padding=1)
        for stage, (channels, count) in enumerate(zip(widths, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                block = BasicBlock(channels, stride, self.norm, name=f"stage{stage}_block{i}")
                x = block(x, train)
        features = mean_over_map(x)
        return dense(features, self.num_classes, "head"), features


class ResNet10(ResNet18):
    """One basic block in each stage."""

    blocks: tuple[int, ...] = (1, 1, 1, 1)
