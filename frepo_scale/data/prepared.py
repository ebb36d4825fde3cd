"""A prepared set as one of the forms that a run reads into memory."""

from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.data.records import PreparedSet, Records
from frepo_scale.data.types import Split

_BLOCK = 4096  # records at once: they are in memory twice while they are copied


def is_prepared(place: Path) -> bool:
    """Whether a folder holds a prepared set, finished or not."""
    return (place / FILE).is_file() or (place / UNFINISHED).is_dir()


def read_prepared(place: Path, num_classes: int | None, resolution: int | None) -> PreparedSet:
    """Opens a prepared set that suits a recipe.

    Args:
      place: its folder.
      num_classes: K; None: whatever it has.
      resolution: R; None: whatever it has.

    Raises:
      InputError: not finished, damaged, or of other classes or another size.
    """
    found = PreparedSet.open(place)
    classes, side = len(found.description.class_names), found.description.resolution
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
    return found


def in_memory(found: PreparedSet) -> tuple[Split, Split]:
    """Training and test part, images (n, R, R, C) uint8 and labels (n,) int32, in their order.

    Raises:
      InputError: a shard is damaged.
    """
    shape = found.description.image_shape
    return _read(found.train, shape), _read(found.test, shape)


def _read(records: Records, shape: tuple[int, int, int]) -> Split:
    images = np.empty((len(records), *shape), np.uint8)
    for lo in range(0, len(records), _BLOCK):
        rows = np.arange(lo, min(lo + _BLOCK, len(records)))
        images[rows[0] : rows[-1] + 1] = records.__getitems__(rows)[0]
    return Split(images, records.labels)
