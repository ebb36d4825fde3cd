"""The initial synthetic set (docs/algorithm.md section 2) and the draws of random baselines."""

import jax
import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows


def choose_rows(labels: np.ndarray, num_classes: int, ipc: int, key: jax.Array) -> np.ndarray:
    """IPC random rows of every class that has any, class-major.

    Args:
      labels: (n,) int32 classes of the real images; of k different classes.
      num_classes: K.
      ipc: rows per class.
      key: of the random choice.

    Returns:
      (k * ipc,) int64 rows into `labels`.

    Raises:
      InputError: a class has fewer than `ipc` images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.flatnonzero(counts)
    if ipc > counts[present].min():
        scarce = int(present[counts[present].argmin()])
        raise InputError(
            f"IPC = {ipc}: class {scarce} has {counts[scarce]} training images after the held-out"
            " part is set aside",
            f"at most {counts[scarce]}",
            f"use --gin.IPC={int(counts[scarce])}",
        )
    # One draw for the whole set, then the smallest of each class: no per-class random calls.
    draws = np.asarray(jax.random.uniform(key, (len(labels),)))
    by_class_then_draw = np.lexsort((draws, labels))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[present]
    return by_class_then_draw[starts[:, None] + np.arange(ipc)].reshape(-1)


def centred_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`onehot - 1/K` of integer labels (n,): float32 (n, K)."""
    return np.eye(num_classes, dtype=np.float32)[labels] - np.float32(1.0 / num_classes)


def scaled_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """`(onehot - 1/K) / sqrt(K/10)` of integer labels (n,): float32 (n, K)."""
    return centred_labels(labels, num_classes) / np.float32(np.sqrt(num_classes / 10))


def real_set(real: Rows, num_classes: int, ipc: int, key: jax.Array) -> DistilledSet:
    """Random real images with the initial labels: the start of distillation, and a baseline.

    Args:
      real: the target part as float32 net inputs.
      num_classes: K.
      ipc: images per class.
      key: of the random choice.
    """
    rows = choose_rows(real.labels, num_classes, ipc, key)
    return DistilledSet(real.at(rows), scaled_labels(real.labels[rows], num_classes))


def hard_labels(classes: int | np.ndarray, ipc: int) -> np.ndarray:
    """The class each synthetic image was started as: int32 (k * ipc,).

    Args:
      classes: the k classes that are distilled, ascending; a number K: 0 to K - 1.
      ipc: images per class.
    """
    distilled = np.arange(classes) if isinstance(classes, int) else classes
    return np.repeat(distilled.astype(np.int32), ipc)
