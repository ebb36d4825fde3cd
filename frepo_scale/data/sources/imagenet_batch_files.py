"""One batch of the downsampled ImageNet, .npz or pickle.

It holds `data` (n, 3 R R) uint8 with one channel after the other, and `labels` (n,) from 1. An
image is a range of the file, so the set is never in memory as a whole; the channels are moved last
when an image is read.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from frepo_scale.data.archive import damage, read_up_to, truncated
from frepo_scale.data.sources.listing import Poll
from frepo_scale.data.sources.npz import open_array, open_npz, read_array
from frepo_scale.data.sources.pickles import parse_pickle

_CHUNK = 1 << 24
_ARRAYS = ("u1", "i4", "i8", "f4", "f8")


@dataclass(frozen=True)
class Batch:
    """One file: its labels as stored, the side of its images, and where they begin."""

    path: Path
    labels: np.ndarray
    side: int
    start: int
    packed: bool


def read_batch(path: Path, poll: Poll) -> Batch:
    """A batch without its pixels, which are read once where a checksum covers them."""
    if path.suffix == ".npz":
        with open_npz(path) as archive:
            info = archive.getinfo("data.npy") if "data.npy" in archive.namelist() else None
            labels = read_array(archive, "labels", path)
            with damage(path), open_array(archive, "data", path) as (stream, shape, dtype, fortran):
                head = stream.tell()
                if fortran or dtype != np.uint8:
                    raise truncated(path, f"array data is {dtype}, not uint8 in C order")
                size = 0
                while piece := stream.read(_CHUNK):
                    poll()
                    size += len(piece)
        assert info is not None
        packed = info.compress_type != zipfile.ZIP_STORED
        start = head if packed else _entry_start(path, info) + head
    else:
        with damage(path), path.open("rb") as file:
            data = bytes(read_up_to(file, path.stat().st_size))
        try:
            value = parse_pickle(data, _ARRAYS)
        except ValueError as error:
            raise truncated(path, f"as a pickle: {error}") from error
        pixels = value.get("data")
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise truncated(path, "its 'data' is not a uint8 array")
        shape, size, packed = pixels.shape, pixels.size, False
        start = data.find(pixels.tobytes())
        if start < 0:
            raise truncated(path, "its 'data' is not stored as plain bytes")
        found = value.get("labels")
        labels = found if isinstance(found, np.ndarray) else _integers(found, path)
    side = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    if not side or shape[1] != 3 * side * side or size != shape[0] * shape[1]:
        raise truncated(path, f"array data has shape {shape} and {size} bytes, not (n, 3 R R)")
    if labels.shape != shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise truncated(path, f"{labels.dtype} labels of shape {labels.shape} for data {shape}")
    return Batch(path, labels.astype(np.int64), side, start, packed)


def _integers(values: object, path: Path) -> np.ndarray:
    """A list of small integers as an array."""
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 1 << 31 for v in values):
        raise truncated(path, "its 'labels' are not a list of integers")
    return np.array(values, np.int64)


def _entry_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored entry begin, from its local header."""
    with damage(path), path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
    return info.header_offset + 30 + sum(map(int, np.frombuffer(lengths, "<u2")))


class ChannelsFirst:
    """An open batch; see `RangeFile`. Offsets count bytes of the file, or of a compressed array."""

    def __init__(self, path: str) -> None:
        """Opens the file."""
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  kept open
        if path.endswith(".npz"):
            with zipfile.ZipFile(path) as archive:  # what it opens stays open
                if archive.getinfo("data.npy").compress_type != zipfile.ZIP_STORED:
                    self._file.close()
                    self._file = archive.open("data.npy")

    def read(self, offset: int, size: int) -> bytes:
        """See `RangeFile`: the pixels of an image, channels last."""
        self._file.seek(offset)
        data = self._file.read(size)
        side = math.isqrt(size // 3)
        if len(data) < size:
            return data
        return np.frombuffer(data, np.uint8).reshape(3, side, side).transpose(1, 2, 0).tobytes()

    def close(self) -> None:
        """See `RangeFile`."""
        self._file.close()
