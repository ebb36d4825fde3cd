"""Fitting the whitening of a prepared set, once: at 64 px it takes minutes (12 288 dimensions)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  its BLAS must be loaded before the threads are limited
from threadpoolctl import threadpool_limits

from frepo_scale.core.atomic import whole_file
from frepo_scale.data.description import file_sha256
from frepo_scale.data.prepare.moments import join_moments, read_result
from frepo_scale.data.whitening import histogram_statistics, moments_preprocessing


@dataclass(frozen=True)
class FitTask:
    """The whitening to fit.

    Attributes:
      blocks: the results of all `MomentsTask`s.
      shape: (H, W, C).
      grid: g, see `moments`.
      count: images without the held-out ones.
      result: the .npz to write.
      identity: of the moments; a result of others is made again.
    """

    blocks: tuple[Path, ...]
    shape: tuple[int, int, int]
    grid: int
    count: int
    result: Path
    identity: str


def fit_whitening(task: FitTask, report: Callable[[int], None]) -> str | None:
    """Fits and writes a whitening unless it exists and is intact.

    Args:
      task: what to fit.
      report: called once, at the end.

    Returns:
      sha256 of the file; None, and no file, where all images are equal.

    Raises:
      InputError: the result cannot be written.
    """
    if read_result(task.result, task.identity) is None:
        moments = join_moments(task.blocks, task.shape, task.grid, task.count)
        if not np.trace(moments.covariance) > 0:
            return None
        with threadpool_limits(1):  # the bits of eigenvectors depend on the number of threads
            fitted = moments_preprocessing(
                *histogram_statistics(moments.histogram),
                moments.mean,
                moments.covariance,
                task.count,
            )
        with whole_file(task.result) as file:
            identity = {"identity": np.array(task.identity)}
            np.savez(file, **fitted.arrays(), **identity)  # type: ignore[arg-type]
    report(1)
    return file_sha256(task.result)
