"""A prepared set as the data set of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.data.records import PreparedSet, Records
from frepo_scale.data.types import RawDataset, Rows, Split

_BLOCK = 4096  # records per read: they are in memory twice while they are copied


def is_prepared(path: Path) -> bool:
    """Whether a folder holds a prepared set, finished or not."""
    return (path / FILE).is_file() or (path / UNFINISHED).is_dir()


def read_prepared(
    path: Path,
    name: str,
    num_classes: int | None,
    resolution: int | None,
    channels: int | None,
    fit: str | None,
    on_disk: Callable[[int], bool],
) -> RawDataset:
    """A prepared set for a recipe, with every checksum compared; its test part may be empty.

    A set that is read into memory is checked by each process, which reads all of it anyway. One
    that stays on disk is checked by process 0 while the others wait; every process must call this.

    Args:
      path: its folder.
      name: its name in the recipe.
      num_classes: K; None: any.
      resolution: R; None: any.
      channels: C; None: any.
      fit: how images became squares; None: any.
      on_disk: called with the bytes of all its pixels: whether they stay on disk.

    Raises:
      InputError: unfinished, damaged, or of other classes, size, fit or channels.
    """
    found = PreparedSet.open(path)
    described = found.description
    classes, side = len(described.class_names), described.resolution
    if num_classes not in (None, classes):
        raise InputError(
            f"{path} has {classes} classes",
            f"{num_classes}",
            "check that DATA_DIR is the right set",
        )
    if resolution not in (None, side):
        raise InputError(
            f"{path} was prepared at {side} pixels",
            f"{resolution}",
            f"prepare it with --resolution {resolution}, or use --gin.RESOLUTION={side}",
        )
    if channels not in (None, described.channels):
        raise InputError(
            f"{path} has images of {described.channels} channels",
            f"{channels}",
            "check that DATA_DIR is the right set",
        )
    if fit not in (None, described.fit):
        raise InputError(
            f"{path} was prepared with --fit {described.fit}",
            f"{fit}",
            f"prepare it with --fit {fit}, or use --gin.FIT={described.fit}",
        )
    pixels = int(np.prod(described.image_shape)) * (len(found.train) + len(found.test))
    parts: tuple[Rows, Rows] = (found.train, found.test)
    if on_disk(pixels):
        from frepo_scale.parallel.share import on_first  # here: reading images needs no JAX

        on_first(found.verify)
    else:
        found.verify()
        parts = _read(found.train), _read(found.test)
    return RawDataset(
        name,
        described.class_names,
        *parts,
        image_shape=described.image_shape,
        fit=described.fit,
        skipped=len(described.skipped),
        origin=str(path),
        statistics=found.preprocessing,
        fitted=described.fitted is not None,
        fingerprint=found.fingerprint,
    )


def _read(records: Records) -> Split:
    """A part in memory, in the order of its records."""
    images = np.empty((len(records), *records.shape), np.uint8)
    for lo in range(0, len(records), _BLOCK):
        rows = np.arange(lo, min(lo + _BLOCK, len(records)))
        images[rows[0] : rows[-1] + 1] = records.at(rows)
    return Split(images, records.labels)
