"""What a source of real images delivers: uint8 pixels and integer labels, in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frepo_scale.data.whitening import Preprocessing


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
      images: (n, H, W, C) uint8, C = 1 or 3.
      labels: (n,) int32 in [0, K).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Split":
        """The images at `rows` (int or bool index), as a new split."""
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class RawDataset:
    """A data set as its source delivers it, before whitening and before the held-out split.

    Attributes:
      name: the name the recipe used.
      class_names: K names, index = label.
      train: all images the source offers for training.
      test: the test part.
      fit: how images became squares: "native" (they already were of the right size), "crop" or
        "squash".
      skipped: unreadable images left out because the recipe allowed it.
      origin: where it was read from, for messages and provenance.
      statistics: whether to whiten -> the preprocessing fitted to the images that are not held out,
        where the source knows it; None: to be fitted.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    fit: str
    skipped: int
    origin: str
    statistics: Callable[[bool], Preprocessing] | None = None
