"""One batch of the downsampled ImageNet, .npz or pickle.

It holds `data` (n, 3 R R) uint8 with one channel after the other, and `labels` (n,) from 1. An
image is a range of the file, so the set is never in memory as a whole; the channels are moved last
when an image is read.
"""

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, read_up_to, truncated
from frepo_scale.data.sources.census import is_leftover
from frepo_scale.data.sources.listing import Poll
from frepo_scale.data.sources.npz import open_array, open_npz, read_array
from frepo_scale.data.sources.pickles import parse_pickle

_TRAIN = re.compile(r"train_data_batch_(\d+)(?:\.npz)?")
TEST = ("val_data.npz", "val_data")
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


def batch_number(file: Path) -> str:
    """The number in the name of a training batch; empty where it is none."""
    match = _TRAIN.fullmatch(file.name)
    return match[1] if match else ""


def find_batches(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The training batches, the validation batch, and the folders they are in."""
    with damage(path):
        below = [f for f in path.iterdir() if f.is_dir() and not is_leftover(f.name)]
        files = [f for folder in (path, *sorted(below)) for f in folder.iterdir()]
    train = sorted(
        (f for f in files if batch_number(f) and f.is_file()), key=lambda f: int(batch_number(f))
    )
    test = [f for f in files if f.name in TEST and f.is_file()]
    if len(test) > 1:
        raise InputError(f"{path} has {test[0]} and {test[1]}", "one of them", "remove one")
    return train, test, sorted({file.parent for file in (*train, *test)})


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
