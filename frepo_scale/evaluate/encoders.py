"""The nets of `POOL_WEIGHTS`, for evaluations of their features."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn

from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.models.weights import read_net_file, variables_of


class Encoder(NamedTuple):
    """A net with given parameters.

    Attributes:
      path: of its file.
      sha256: of its file.
      module: the net, `module.apply(variables, images, train=False)` returns logits and features.
      variables: `params` and `batch_stats`, host arrays.
    """

    path: str
    sha256: str
    module: nn.Module
    variables: dict[str, Any]


@dataclass(frozen=True)
class Encoders:
    """Files of nets.

    Attributes:
      paths: of the files.
      net: the net that they hold.
      num_classes: K.
      image_shape: (H, W, C).
    """

    paths: tuple[str, ...]
    net: NetConfig
    num_classes: int
    image_shape: tuple[int, ...]

    def load(self) -> list[Encoder]:
        """Reads the files.

        Raises:
          InputError: a file is missing or damaged, or does not suit the net.
        """
        module = build_net(self.net, self.num_classes, self.image_shape)
        found = []
        for path in self.paths:
            file = read_net_file(path)
            variables = variables_of(file, self.net, module, self.image_shape)
            found.append(Encoder(path, file.sha256, module, variables))
        return found
