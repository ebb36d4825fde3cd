"""A prepared set as the data set of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import CENSUS, FILE, UNFINISHED, Description
from frepo_scale.data.records import PreparedSet, Records
from frepo_scale.data.sources.specs import DatasetSpec
from frepo_scale.data.types import RawDataset, Rows, Split

_BLOCK = 4096  # records per read: they are in memory twice while they are copied


def is_prepared(path: Path) -> bool:
    """Whether a folder holds a prepared set, finished or not."""
    return (path / FILE).is_file() or (path / UNFINISHED).is_dir()


def read_prepared(
    path: Path,
    spec: DatasetSpec,
    resolution: int | None,
    fit: str | None,
    on_disk: Callable[[int], bool],
) -> RawDataset:
    """A prepared set for a recipe, with every checksum compared; its test part may be empty.

    A set that is read into memory is checked by each process, which reads all of it anyway. One
    that stays on disk is checked by process 0 while the others wait; every process must call this.

    Args:
      path: its folder.
      spec: the data set that the recipe names.
      resolution: R; None: any.
      fit: how images became squares; None: any.
      on_disk: called with the bytes of all its pixels: whether they stay on disk.

    Raises:
      InputError: unfinished, damaged, or of other classes, size, fit or channels.
    """
    found = PreparedSet.open(path)
    described = found.description
    _check_suits(path, described, spec, resolution, fit)
    pixels = int(np.prod(described.image_shape)) * (len(found.train) + len(found.test))
    parts: tuple[Rows, Rows] = (found.train, found.test)
    if on_disk(pixels):
        from frepo_scale.parallel.share import on_first  # here: reading needs no JAX

        on_first(found.verify)
    else:
        found.verify()
        parts = _read(found.train), _read(found.test)
    return RawDataset(
        spec.name,
        described.class_names,
        *parts,
        image_shape=described.image_shape,
        fit=described.fit,
        skipped=len(described.skipped),
        origin=str(path),
        statistics=found.preprocessing,
        fitted=described.fitted is not None,
        fingerprint=found.fingerprint,
        notes=(described.source[CENSUS],) if CENSUS in described.source else (),
    )


def _check_suits(
    path: Path, described: Description, spec: DatasetSpec, resolution: int | None, fit: str | None
) -> None:
    """Raises InputError unless the set has the values of the recipe; None: any."""
    classes, side = len(described.class_names), described.resolution
    for what, found, wanted, fix in (
        ("has {} classes", classes, spec.num_classes, "check that DATA_DIR is the right set"),
        (
            "was prepared at {} pixels",
            side,
            resolution,
            f"prepare it with --resolution {resolution}, or use --gin.RESOLUTION={side}",
        ),
        (
            "has images of {} channels",
            described.channels,
            spec.channels,
            "check that DATA_DIR is the right set",
        ),
        (
            "was prepared with --fit {}",
            described.fit,
            fit,
            f"prepare it with --fit {fit}, or use --gin.FIT={described.fit}",
        ),
    ):
        if wanted not in (None, found):
            raise InputError(f"{path} {what.format(found)}", f"{wanted}", fix)


def _read(records: Records) -> Split:
    """A part in memory, in the order of its records."""
    images = np.empty((len(records), *records.shape), np.uint8)
    for lo in range(0, len(records), _BLOCK):
        rows = np.arange(lo, min(lo + _BLOCK, len(records)))
        images[rows[0] : rows[-1] + 1] = records.at(rows)
    return Split(images, records.labels)
