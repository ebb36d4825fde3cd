"""A prepared set as one of the forms of a run's data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.data.records import PreparedSet, Records
from frepo_scale.data.types import RawDataset, Rows, Split

_BLOCK = 4096  # records at once: they are in memory twice while they are copied


def is_prepared(place: Path) -> bool:
    """Whether a folder holds a prepared set, finished or not."""
    return (place / FILE).is_file() or (place / UNFINISHED).is_dir()


def read_prepared(
    place: Path,
    name: str,
    num_classes: int | None,
    resolution: int | None,
    channels: int | None,
    fit: str | None,
    on_disk: Callable[[int], bool],
) -> RawDataset:
    """A prepared set that suits a recipe, with every checksum right; its test part may be empty.

    A set that is put into memory is checked by each process, which reads it all anyway. One that
    stays on disk is checked by process 0 alone, for which the others wait: each calls this.

    Args:
      place: its folder.
      name: what the recipe calls it.
      num_classes: K; None: whatever it has.
      resolution: R; None: whatever it has.
      channels: C; None: whatever it has.
      fit: how images are to have become squares; None: however they did.
      on_disk: asked with the bytes of all its pixels: whether they stay where they are.

    Raises:
      InputError: not finished, damaged, or of other classes, another size, fit or other channels.
    """
    found = PreparedSet.open(place)
    described = found.description
    classes, side = len(described.class_names), described.resolution
    if num_classes not in (None, classes):
        raise InputError(
            f"{place} has {classes} classes",
            f"{num_classes}",
            "check that DATA_DIR is the right set",
        )
    if resolution not in (None, side):
        raise InputError(
            f"{place} was prepared at {side} pixels",
            f"{resolution}",
            f"prepare it with --resolution {resolution}, or use --gin.RESOLUTION={side}",
        )
    if channels not in (None, described.channels):
        raise InputError(
            f"{place} has images of {described.channels} channels",
            f"{channels}",
            "check that DATA_DIR is the right set",
        )
    if fit not in (None, described.fit):
        raise InputError(
            f"{place} was prepared with --fit {described.fit}",
            f"{fit}",
            f"prepare it with --fit {fit}, or use --gin.FIT={described.fit}",
        )
    pixels = int(np.prod(described.image_shape)) * (len(found.train) + len(found.test))
    parts: tuple[Rows, Rows] = (found.train, found.test)
    if on_disk(pixels):
        from frepo_scale.parallel.share import on_first  # late: reading images needs no JAX

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
        origin=str(place),
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
