"""Target batches in an order that is a pure function of (seed, step).

Every epoch is one permutation of the training part, epochs follow each other without a gap, and
batch s is rows [s B, (s + 1) B) of that endless sequence. The state of the iterator is one
integer, the step; nothing else needs saving.

We permute a whole epoch at once instead of using Grain's `shuffle`, which shuffles element by
element in Python: BUILD_NOTES.md has the measurement. Grain carries the rest: random access,
prefetching threads, and later worker processes.
"""

from collections.abc import Iterator
from functools import lru_cache

import grain
import numpy as np

from frepo_scale.core.types import Batch

_PREFETCH = 4
_THREADS = 1  # gathering rows is a memory copy: more threads only contend with the step


class GlobalOrder:
    """The rows of every global batch: random access, `order[step]` is (B,) int64."""

    def __init__(self, size: int, batch: int, seed: int) -> None:
        """An endless order over `size` images.

        Args:
          size: images in the training part, at least `batch`.
          batch: images per step, B.
          seed: the run's seed.
        """
        self._size, self._batch, self._seed = size, batch, seed
        # A batch touches at most two epochs; a third serves a prefetch across the border.
        self._epoch = lru_cache(maxsize=3)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        # Raw Philox words are guaranteed never to change between NumPy versions; Generator
        # methods are not. Ties are broken by position.
        words = np.random.Philox(key=[self._seed, epoch]).random_raw(self._size)
        return np.argsort(words, kind="stable")

    def __len__(self) -> int:
        """More steps than any run has."""
        return 2**40

    def __getitem__(self, step: int) -> np.ndarray:
        """The rows of one global batch."""
        position = int(step) * self._batch
        rows: list[np.ndarray] = []
        missing = self._batch
        while missing:
            epoch, offset = divmod(position, self._size)
            part = self._epoch(epoch)[offset : offset + missing]
            rows.append(part)
            position += len(part)
            missing -= len(part)
        return rows[0] if len(rows) == 1 else np.concatenate(rows)


def target_batches(
    images: np.ndarray, labels: np.ndarray, batch: int, seed: int, start: int
) -> Iterator[Batch]:
    """Endless target batches from step `start` on, prefetched on a thread.

    Args:
      images: (n, H, W, C) float32 net inputs, in memory.
      labels: (n,) int32.
      batch: B.
      seed: the run's seed.
      start: the first step wanted.
    """
    order = GlobalOrder(len(labels), batch, seed)
    dataset = grain.MapDataset.source(order).map(lambda rows: Batch(images[rows], labels[rows]))
    iterator = iter(
        dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH)
        )
    )
    iterator.set_state({"next_index": start})
    return iterator
