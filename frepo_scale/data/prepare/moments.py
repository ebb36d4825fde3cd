"""Exact integer moments of the training pixels, in blocks of rows that fit into memory.

With y = x - 128 in [-128, 127] a product is at most 2^14 and a sum of 1024 of them at most 2^24,
which float32 holds exactly: a float32 matrix product over 1024 images is exact in any order of
summation, and int64 adds the rest. So every number of workers gives the same bits.

Images of more than 64 px are taken as g x g interleaved grids (every g-th pixel), all with one
covariance, the mean of the grids' (docs/algorithm.md section 1).

Legend: n images, H W height and width, C channels, D = H*W*C, g grids per axis, E = D / g^2 values
of one grid, [lo, hi) the rows of the second moment that a task is about.
"""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import DAMAGE
from frepo_scale.data.description import LABEL_BYTES
from frepo_scale.data.whitening_grid import split_grids

SHIFT = 128
EXACT_ROWS = 1024  # products summed in float32 at a time, see above
ROWS_PER_TASK = 1024  # 12 tasks at 64 px, each with at most 100 MB of sums


@dataclass(frozen=True)
class MomentsTask:
    """One block of rows of the second moment, over all training images not held out.

    Attributes:
      shards: the files and, of each, which records are summed, (records,) bool.
      shape: (H, W, C).
      grid: g; None: no second moment is wanted, and low = high = 0.
      low: first row.
      high: end of the rows.
      result: the .npz to write.
      identity: of the shards and records; a result of others is made again.
    """

    shards: tuple[tuple[Path, np.ndarray], ...]
    shape: tuple[int, int, int]
    grid: int | None
    low: int
    high: int
    result: Path
    identity: str


def row_blocks(shape: tuple[int, int, int], grid: int | None) -> list[tuple[int, int]]:
    """The (low, high) of the tasks for images of a shape; a single empty one without a grid."""
    if grid is None:
        return [(0, 0)]
    size = math.prod(shape) // grid**2
    return [(low, min(low + ROWS_PER_TASK, size)) for low in range(0, size, ROWS_PER_TASK)]


def make_moments(task: MomentsTask, report: Callable[[int], None]) -> None:
    """Sums and writes one block, rows [low, high), columns [0, high), unless it exists.

    The first block also has the sums of the pixels and their histogram.

    Args:
      task: what to sum.
      report: called with the number of images read; may raise to stop.

    Raises:
      InputError: a shard cannot be read, or the result cannot be written.
    """
    if read_result(task.result, task.identity) is not None:
        report(sum(len(keep) for _, keep in task.shards))
        return
    channels = task.shape[2]
    products = np.zeros((task.high - task.low, task.high), np.int64)
    sums = np.zeros(math.prod(task.shape), np.int64)
    histogram = np.zeros((channels, 256), np.int64)
    for pixels in _pixels(task, report):
        if task.low == 0:
            flat = pixels.reshape(len(pixels), -1)
            sums += flat.sum(axis=0, dtype=np.int64) - SHIFT * len(flat)
            for channel in range(channels):
                histogram[channel] += np.bincount(flat[:, channel::channels].ravel(), minlength=256)
        rows = split_grids(pixels, task.grid or 1)
        for start in range(0, len(rows), EXACT_ROWS):
            y = rows[start : start + EXACT_ROWS, : task.high].astype(np.float32) - SHIFT
            block = y[:, task.low :].T @ y
            np.add(products, block, out=products, casting="unsafe")
    values = {"products": products, "identity": np.array(task.identity)}
    if task.low == 0:
        values |= {"sums": sums, "histogram": histogram}
    with whole_file(task.result) as file:
        np.savez(file, **values)  # type: ignore[arg-type]


def read_result(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """The arrays of an earlier result, if it is intact and of the same images; else None."""
    try:
        with np.load(path) as found:
            arrays = dict(found)  # reading them to their ends compares their checksums
        return arrays if str(arrays["identity"]) == identity else None
    except (*DAMAGE, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile):
        return None


def _pixels(task: MomentsTask, report: Callable[[int], None]) -> Iterator[np.ndarray]:
    """The images that are summed, as uint8 (at most 1024, H, W, C)."""
    size = LABEL_BYTES + math.prod(task.shape)
    for path, counts in task.shards:
        try:
            reader = ArrayRecordReader(
                str(path), options="readahead_buffer_size:0,max_parallelism:0"
            )
            for start in range(0, len(counts), EXACT_ROWS):
                keep = counts[start : start + EXACT_ROWS]
                records = b"".join(reader.read(start, start + len(keep)))
                block = np.frombuffer(records, np.uint8).reshape(len(keep), size)
                report(len(keep))
                yield block[keep, LABEL_BYTES:].reshape(-1, *task.shape)
            reader.close()
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"shard {path} cannot be read ({error})",
                "the shard that was written before",
                "give the same command again: it makes damaged shards again",
            ) from error


class Moments(NamedTuple):
    """The moments that whitening needs.

    Attributes:
      histogram: (C, 256) int64.
      mean: (D,) float64, of pixels in [0, 255].
      covariance: (E, E) float64, biased; (0, 0) where no second moment was summed.
    """

    histogram: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def join_moments(
    results: Sequence[Path], shape: tuple[int, int, int], grid: int | None, count: int
) -> Moments:
    """Mean and covariance of `count` images from the blocks, in a fixed order of operations."""
    with np.load(results[0]) as first:
        sums, histogram = first["sums"], first["histogram"]
    grids = split_grids(sums.reshape(1, *shape), grid or 1).astype(np.float64)  # (g^2, E)
    size = row_blocks(shape, grid)[-1][1]
    covariance = np.empty((size, size))
    for (low, high), path in zip(row_blocks(shape, grid), results, strict=True):
        with np.load(path) as part:
            block = part["products"].astype(np.float64)
        for grid_sums in grids:
            block -= np.multiply.outer(grid_sums[low:high], grid_sums[:high]) / count
        block /= count * len(grids)
        covariance[low:high, :high] = block
        covariance[:low, low:high] = block[:, :low].T
    return Moments(histogram, sums / count + SHIFT, covariance)
