"""An .npz as ranges of bytes: its pixels are copied out once, uncompressed."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.npz import read_npz
from frepo_scale.data.prepare.listing import COPY, Listing, Part
from frepo_scale.data.types import Split


def list_arrays(path: Path) -> Listing:
    """The images of an .npz with x_train, y_train, x_test, y_test.

    Raises:
      InputError: as `read_npz`; or the two parts have differing channels.
    """
    train, test = read_npz(path)
    channels = train.images.shape[3]
    if len(test) and test.images.shape[3] != channels:
        raise InputError(
            f"{path} has {channels} channels in train and {test.images.shape[3]} in test",
            "the same",
            "save both grey or both in colour",
        )
    if not len(train):
        raise InputError(f"the train part of {path} is empty", "images", "add some")
    count = max(int(train.labels.max()) + 1, 0)
    if count > len(train):  # told here: names for so many classes would not fit into memory
        raise InputError(
            f"the largest label of {path} is {count - 1}",
            f"classes numbered from 0 without gaps (it has {len(train)} images)",
            "number them so",
        )

    def copy(out: BinaryIO) -> None:
        for split in (train, test):
            out.write(split.images.data)

    return Listing(
        form="npz",
        name=None,
        class_names=tuple(map(str, range(count))),
        wnids=None,
        channels=channels,
        train=_part(train, "train", 0),
        test=_part(test, "test", train.images.nbytes),
        copy=copy,
        copy_bytes=train.images.nbytes + test.images.nbytes,
    )


def _part(split: Split, name: str, start: int) -> Part:
    count = len(split)
    height, width, channels = split.images.shape[1:]
    size = height * width * channels
    largest = np.iinfo(np.int32)
    return Part(
        [f"{label}/{name}-{row:09}" for row, label in enumerate(split.labels.tolist())],
        split.labels.clip(largest.min, largest.max).astype(np.int32),
        [COPY],
        np.zeros(count, np.int32),
        start + size * np.arange(count, dtype=np.int64),
        np.full(count, size, np.int64),
        (height, width, channels),
    )
