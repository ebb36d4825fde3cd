"""Target batches in an order that is a pure function of (seed, step).

Every epoch is one permutation of the training part, epochs are concatenated, and
batch s is rows [s B, (s + 1) B) of that endless sequence. The state of the iterator is one
integer, the step.

We permute a whole epoch at once instead of using Grain's `shuffle`, which shuffles element by
element in Python and is slower (BUILD_NOTES.md). Grain does the rest: random access, prefetching
threads, worker processes.
"""

from functools import lru_cache
from typing import Any

import grain
import numpy as np
from absl import flags

from frepo_scale.core.types import Batch
from frepo_scale.data.types import Rows, Split
from frepo_scale.ops.workers import ignore_signals_end_with_parent

_PREFETCH = 4  # batches
_THREADS_IN_MEMORY = 1  # gathering copies memory: more threads compete with the step
_THREADS_READING = 4


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
        # A batch has rows of at most two epochs; the third is for prefetching.
        self._epoch = lru_cache(maxsize=3)(self._permutation)

    def __reduce__(self) -> Any:
        """Without the cache, for workers."""
        return GlobalOrder, (self._size, self._batch, self._seed)

    def _permutation(self, epoch: int) -> np.ndarray:
        # Raw Philox words are guaranteed never to change between NumPy versions; Generator
        # methods are not. Ties are broken by position.
        words = np.random.Philox(key=[self._seed, epoch]).random_raw(self._size)
        return np.argsort(words, kind="stable")

    def __len__(self) -> int:
        """More than the steps of any run."""
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


class _From:
    """An order that begins at a step, so that Grain has no state to save."""

    def __init__(self, order: GlobalOrder, start: int, part: slice) -> None:
        """Batches `start`, `start` + 1, ...; of each the rows of `part`."""
        self._order, self._start, self._part = order, start, part

    def __len__(self) -> int:
        return len(self._order) - self._start

    def __getitem__(self, index: int) -> np.ndarray:
        return self._order[self._start + int(index)][self._part]


class _Gather:
    """Makes a batch of its rows; a class, because it is pickled for workers."""

    def __init__(self, images: Rows) -> None:
        self._images = images

    def __call__(self, rows: np.ndarray) -> Batch:
        return Batch(self._images.at(rows), self._images.labels[rows])


def host_rows(order: GlobalOrder, start: int, part: slice) -> grain.IterDataset:
    """The rows `part` of every global batch from step `start` on, prefetched: (b,) int32."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
    rows = grain.MapDataset.source(_From(order, start, part))
    return rows.map(_as_int32).to_iter_dataset(options)


def _as_int32(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.int32)


def host_batches(
    images: Rows, order: GlobalOrder, start: int, part: slice, workers: int = 0
) -> grain.IterDataset:
    """This process's part of every target batch from step `start` on, on the host.

    Several batches are read at once, by threads or by worker processes, and come in order.

    Args:
      images: the target part.
      order: of the global batches.
      start: the first step wanted.
      part: rows of each global batch.
      workers: processes that read; 0 for threads.

    Returns:
      A Grain data set of `Batch`.
    """
    threads = _THREADS_IN_MEMORY if isinstance(images, Split) else _THREADS_READING
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCH)
    batches = grain.MapDataset.source(_From(order, start, part)).map(_Gather(images))
    found = batches.to_iter_dataset(options)
    if not workers:
        return found
    if not flags.FLAGS.is_parsed():  # Grain refuses to start workers otherwise
        flags.FLAGS.mark_as_parsed()
    return found.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin
    )


def _begin(worker: int, workers: int) -> None:
    ignore_signals_end_with_parent()
