"""An .npz with arrays x_train, y_train, x_test, y_test.

Read entry by entry instead of with `np.load`, so that a header that claims more than the entry
holds is refused before anything of that size is allocated. Objects (pickles) are never read.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, read_up_to, truncated
from frepo_scale.data.sources.listing import Listing, Part, Poll

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_DEFLATE_LIMIT = 1100  # deflate cannot expand by more than 1032
_ROWS = 4096
_NUMBERS = "biuf"
OpenArray = tuple[IO[bytes], tuple[int, ...], np.dtype, bool]


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; `InputError` where it is none."""
    try:
        with damage(path):
            archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise truncated(path, f"not a zip archive: {error}") from error
    with archive:
        yield archive


@contextmanager
def open_array(archive: zipfile.ZipFile, name: str, path: Path) -> Iterator[OpenArray]:
    """One array of the archive: the stream of its bytes, shape, dtype, whether in Fortran order.

    Raises:
      InputError: there is none, or it is damaged; also where reading the stream shows it.
    """
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        names = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "none"
        raise InputError(
            f"{path} has no array {name} (its arrays: {names})",
            "arrays " + ", ".join(ARRAYS),
            f"save it with np.savez(file, {', '.join(f'{a}=...' for a in ARRAYS)})",
        ) from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise truncated(path, f"array {name} has compression type {info.compress_type}")
    if info.file_size > _DEFLATE_LIMIT * max(info.compress_size, 1):
        raise truncated(path, f"array {name} claims {info.file_size} bytes")
    # NotImplementedError, RuntimeError: a damaged flag says "encrypted" or "patched data".
    try:
        with damage(path), archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            else:
                raise ValueError(f"array {name} has format version {version}")
            yield stream, shape, dtype, fortran
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError, TypeError) as error:
        raise truncated(path, f"array {name}: {error}") from error


def read_array(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """One array of the archive, any dtype but objects."""
    with open_array(archive, name, path) as (stream, shape, dtype, fortran):
        values = None
        if dtype.kind in _NUMBERS:  # to the end: zip checks its CRC
            values = read_up_to(stream, archive.getinfo(f"{name}.npy").file_size + 1)
    if values is None:
        raise InputError(
            f"array {name} in {path} holds {dtype} values",
            "plain numbers (objects are never read)",
            "save it as a rectangular array of uint8 or integers",
        )
    if min(shape, default=0) < 0 or len(values) != math.prod(shape) * dtype.itemsize:
        raise truncated(path, f"array {name} says {shape} {dtype} but holds {len(values)} bytes")
    array = np.frombuffer(values, dtype) if values else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _pixels(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Images as (n, H, W, C) uint8, from uint8 or from floats in [0, 1]."""
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape[1:]:
        raise InputError(
            f"array {name} in {path} has shape {array.shape}",
            "(n, height, width), (n, height, width, 1) or (n, height, width, 3)",
            "channels go last",
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise InputError(
            f"array {name} in {path} is {array.dtype}",
            "uint8 pixels, or floats in [0, 1]",
            f"save {name}.astype('uint8')",
        )
    pixels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):  # in pieces: no second float copy of the whole set
        piece = array[start : start + _ROWS]
        fine = (piece >= 0) & (piece <= 1)  # NaN is in no range
        if not fine.all():
            row, *rest = (int(i) for i in np.unravel_index(np.argmin(fine), fine.shape))
            value = piece[(row, *rest)]
            raise InputError(
                f"array {name} in {path} has {value} at index {(start + row, *rest)}",
                "finite floats in [0, 1], or uint8",
                "divide by 255 or save uint8",
            )
        pixels[start : start + _ROWS] = np.rint(piece * piece.dtype.type(255))
    return pixels


def _labels(array: np.ndarray, name: str, images: str, count: int, path: Path) -> np.ndarray:
    """Labels as (n,) integers, n = `count`."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"array {name} in {path} is {array.dtype} of shape {array.shape}",
            "integer class numbers of shape (n,)",
            "one-hot labels: save their argmax",
        )
    if len(array) != count:
        raise InputError(
            f"array {name} in {path} has {len(array)} labels",
            f"{count}, as many as images in {images}",
            "save images and labels of the same rows",
        )
    return array


class NpzArrays:
    """An .npz file with the four arrays.

    Images have shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), uint8, or floats in [0, 1], which
    become round(255 x). Labels have any integer dtype.
    """

    form = f"an .npz with {', '.join(ARRAYS)}"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return path.is_file() and path.name.endswith(".npz")

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        with open_npz(path) as archive:
            train, test = (_read_part(archive, part, path) for part in ("train", "test"))
        return Listing(form="npz", train=train, test=test)


def _read_part(archive: zipfile.ZipFile, part: str, path: Path) -> Part:
    """The images and labels of one part."""
    return read_pair(archive, f"x_{part}", f"y_{part}", path, part)


def read_pair(archive: zipfile.ZipFile, images: str, labels: str, path: Path, part: str) -> Part:
    """The part whose images and labels are in the arrays of these names."""
    pixels = _pixels(read_array(archive, images, path), images, path)
    values = read_array(archive, labels, path)
    return Part.of_arrays(pixels, _labels(values, labels, images, len(pixels), path), part)
