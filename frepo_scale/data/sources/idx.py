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
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.listing import Listing, Part, Poll

_UINT8 = 8
_AXES = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}
_PARTS = (("train", "train"), ("t10k", "test"))


def find_idx(folder: Path) -> dict[str, Path]:
    """The idx files of a folder, by "train-images", "train-labels", "t10k-images", "t10k-labels".

    Both spellings ("-idx3-ubyte", ".idx3-ubyte") are known; unpacked files go before a .gz.
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
        found = "more" if more else str(len(values))
        raise truncated(path, f"its header says {shape}, {count} values; there are {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)


class IdxFiles:
    """A folder with the four idx files: grey images of numbered classes."""

    form = "idx files as of MNIST"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return path.is_dir() and bool(find_idx(path))

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        files = find_idx(path)
        for stem, axes in _AXES.items():
            if stem not in files:
                raise InputError(
                    f"{path} has no {stem}-idx{axes}-ubyte[.gz]",
                    "all four idx files: "
                    + ", ".join(f"{s}-idx{a}-ubyte" for s, a in _AXES.items()),
                    "copy the missing file there",
                )
        train, test = (_read_part(files, stem, part) for stem, part in _PARTS)
        census = Census(len(train) + len(test))
        census.folder(path, {file.name for file in files.values()})
        return Listing(form="idx files", train=train, test=test, census=census)


def _read_part(files: dict[str, Path], stem: str, part: str) -> Part:
    """The images and labels of one part."""
    images = read_idx(files[f"{stem}-images"], 3)
    labels = read_idx(files[f"{stem}-labels"], 1)
    if len(images) != len(labels):
        raise InputError(
            f"{files[f'{stem}-labels']} has {len(labels)} labels",
            f"{len(images)}, as many as images in {files[f'{stem}-images'].name}",
            "download or copy both files again",
        )
    return Part.of_arrays(images[..., None], labels, part)
