"""Fitting the whitening of a prepared set, once: at 64 px it takes minutes (12 288 dimensions)."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  its BLAS must be loaded before the threads are limited
from threadpoolctl import threadpool_limits

from frepo_scale.core.atomic import whole_file
from frepo_scale.data.archive import DAMAGE
from frepo_scale.data.description import FITTED, WHITENING
from frepo_scale.data.whitening import moments_preprocessing

_IDENTITY = "moments"


@dataclass(frozen=True)
class FitTask:
    """The whitening to fit.

    Attributes:
      folder: of the prepared set; `WHITENING` is read there and `FITTED` written.
      channel_mean: (C,) float32, of the images that are not held out.
      channel_std: likewise.
      identity: sha256 of `WHITENING`; a result of other moments is made again.
    """

    folder: Path
    channel_mean: np.ndarray
    channel_std: np.ndarray
    identity: str


def fit_whitening(task: FitTask, report: Callable[[int], None]) -> None:
    """Writes `FITTED` unless it is there already, intact.

    With one thread: the bits of eigenvectors depend on their number.

    Args:
      task: what to fit.
      report: called once, at the end.

    Raises:
      InputError: the result cannot be written.
    """
    if not _is_made(task):
        _fit(task)
    report(1)


def _fit(task: FitTask) -> None:
    with np.load(task.folder / WHITENING) as found:
        mean, covariance, count = found["mean"], found["covariance"], int(found["count"])
    with threadpool_limits(1):
        fitted = moments_preprocessing(task.channel_mean, task.channel_std, mean, covariance, count)
    with whole_file(task.folder / FITTED) as file:
        identity = {_IDENTITY: np.array(task.identity)}
        np.savez(file, **fitted.arrays(), **identity)  # type: ignore[arg-type]


def _is_made(task: FitTask) -> bool:
    """Whether the result is there, intact and of the same moments."""
    try:
        with np.load(task.folder / FITTED) as found:
            arrays = dict(found)  # reading them to their ends compares their checksums
        return str(arrays[_IDENTITY]) == task.identity
    except (*DAMAGE, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile):
        return False
