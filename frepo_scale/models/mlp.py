"""A multilayer perceptron.

Source: with two hidden layers of 128 units it is that of the dataset distillation literature (Zhao
and Bilen, "Dataset Condensation with Gradient Matching", `networks.py` of their published code).
"""

import flax.linen as nn
import jax

from frepo_scale.core.errors import InputError
from frepo_scale.models.layers import dense, flattened, relu
from frepo_scale.models.norm import NORMS, groups_of, normalised


class MLP(nn.Module):
    """Hidden layers of [linear, norm, ReLU]; then one linear layer.

    Attributes:
      num_classes: width of the head, K.
      width: units of each hidden layer.
      depth: number of hidden layers.
      norm: one of `models.norm.NORMS` but "instance".
    """

    num_classes: int
    width: int = 128
    depth: int = 3
    norm: str = "none"

    @nn.nowrap
    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises InputError for a norm that would make single values 0."""
        if self.norm == "instance":
            others = ", ".join(norm for norm in NORMS if norm != "instance")
            raise InputError(
                "NORM = 'instance': NET mlp has no maps to normalise",
                f"one of {others}",
                "use --gin.NORM=layer",
            )
        if self.norm == "group" and groups_of(self.width) == self.width:
            raise InputError(
                f"NORM = 'group' with WIDTH = {self.width}: NET mlp would normalise single values",
                "a width whose groups, at most 32, have several units",
                "use --gin.NORM=layer, or --gin.WIDTH=64",
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Images (B, H, W, C) to logits (B, K) and features (B, d), d = `width`."""
        x = flattened(x)
        for i in range(self.depth):
            x = dense(x, self.width, f"hidden{i}")
            x = relu(normalised(x, self.norm, train, f"norm{i}"))
        return dense(x, self.num_classes, "head"), x
