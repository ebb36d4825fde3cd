"""The idx files of MNIST and Fashion-MNIST, plain or gzip.

A file is: two zero bytes, the type (8 = uint8), the number of axes, one big-endian uint32 per
axis, the values. Everything after the header must be exactly as long as the header says.
"""

import math
import struct
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, open_stream, read_up_to, truncated
from frepo_scale.data.types import Split

_UINT8 = 8
_AXES = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}


def find_idx(folder: Path) -> dict[str, Path]:
    """The idx files of a folder, by "train-images", "train-labels", "t10k-images", "t10k-labels".

    Both spellings ("-idx3-ubyte", ".idx3-ubyte") are known; an unpacked file goes before its .gz.
    """
    found: dict[str, Path] = {}
    for stem, axes in _AXES.items():
        for ending in ("", ".gz"):
            for joint in "-.":
                path = folder / f"{stem}{joint}idx{axes}-ubyte{ending}"
                if stem not in found and path.is_file():
                    found[stem] = path
    return found


def read_idx(path: Path, axes: int) -> np.ndarray:
    """One idx file as uint8 with `axes` axes.

    Raises:
      InputError: not such a file, empty, cut off, longer than its header says, or damaged gzip.
    """
    with open_stream(path) as stream:
        with damage(path):
            head = stream.read(4)
        if len(head) < 4:
            raise truncated(path, "it ends inside its header")
        if head != bytes((0, 0, _UINT8, axes)):
            raise InputError(
                f"{path} begins with bytes {head.hex(' ')}",
                f"an idx file of uint8 with {axes} axes (00 00 08 0{axes})",
                "check that the file is what its name says",
            )
        with damage(path):
            sizes = stream.read(4 * axes)
        if len(sizes) < 4 * axes:
            raise truncated(path, "it ends inside its header")
        shape = struct.unpack(f">{axes}I", sizes)
        count = math.prod(shape)
        if count == 0:
            raise truncated(path, f"its header says {shape}, which is empty")
        with damage(path):
            values = read_up_to(stream, count)
            more = stream.read(1)  # also makes gzip compare its checksum
    if len(values) < count or more:
        there = "more" if more else str(len(values))
        raise truncated(path, f"its header says {shape}, {count} values; there are {there}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_idx_set(folder: Path) -> tuple[Split, Split]:
    """The train and test parts: images (n, H, W, 1) uint8, labels (n,) uint8.

    Raises:
      InputError: one of the four files is missing or bad, or counts disagree.
    """
    files = find_idx(folder)
    for stem, axes in _AXES.items():
        if stem not in files:
            raise InputError(
                f"{folder} has no {stem}-idx{axes}-ubyte[.gz]",
                "all four idx files: " + ", ".join(f"{s}-idx{a}-ubyte" for s, a in _AXES.items()),
                "put the missing file there",
            )
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(files[f"{part}-images"], 3)
        labels = read_idx(files[f"{part}-labels"], 1)
        if len(images) != len(labels):
            raise InputError(
                f"{files[f'{part}-labels']} has {len(labels)} labels",
                f"{len(images)}, as many as images in {files[f'{part}-images'].name}",
                "fetch or copy both files again",
            )
        parts.append(Split(images[..., None], labels))
    return parts[0], parts[1]
