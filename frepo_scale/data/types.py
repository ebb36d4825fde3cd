"""Parts of data sets: images with integer labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from frepo_scale.data.whitening import Preprocessing


class Rows(Protocol):
    """One part of a data set, in memory, in records, or made on demand."""

    @property
    def labels(self) -> np.ndarray:
        """(n,) int32 in [0, K)."""

    def __len__(self) -> int:
        """n."""

    def at(self, rows: np.ndarray) -> np.ndarray:
        """The images (b, H, W, C) at `rows` (b,) int64: uint8 pixels, or float32 net inputs."""


@dataclass(frozen=True)
class Split:
    """One part of a data set, in memory.

    Attributes:
      images: (n, H, W, C), C = 1 or 3: uint8 pixels, or float32 net inputs.
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

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self.images[rows]


class Chosen:
    """Some rows of a part, which is not copied."""

    def __init__(self, source: Rows, chosen: np.ndarray) -> None:
        """The rows `chosen` (m,) int64 of `source`."""
        self._source, self._chosen = source, chosen
        self.labels = source.labels[chosen]

    def __len__(self) -> int:
        """m."""
        return len(self._chosen)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._source.at(self._chosen[rows])


def everything(part: Rows) -> np.ndarray:
    """All images of a part (n, H, W, C) in order; without a copy where they are in memory."""
    return part.images if isinstance(part, Split) else part.at(np.arange(len(part)))


@dataclass(frozen=True)
class RawDataset:
    """A data set as it is read, before whitening and before the held-out split.

    Legend: n images, H W height and width in pixels, C channels, K classes.

    Attributes:
      name: its name in the recipe.
      class_names: K names, index = label.
      train: all training images, uint8.
      test: the test part, likewise; only a prepared set's may be empty.
      image_shape: (H, W, C).
      fit: how images became squares: "native" (they already were of the right size), "crop" or
        "squash".
      skipped: unreadable images left out because the recipe allowed it.
      origin: its path, for messages and provenance.
      statistics: whether to whiten -> the preprocessing fitted to the images that are not held out;
        None: not known.
      fitted: whether `statistics` computes no eigenvectors.
      fingerprint: sha256 of all pixels and labels; None: not known.
      notes: decisions about the data and the count of all files, one line each.
    """

    name: str
    class_names: tuple[str, ...]
    train: Rows
    test: Rows
    image_shape: tuple[int, int, int]
    fit: str
    skipped: int
    origin: str
    statistics: Callable[[bool], Preprocessing] | None = None
    fitted: bool = False
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()
