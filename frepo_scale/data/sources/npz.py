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
from frepo_scale.data.sources.census import BESIDE, Census
from frepo_scale.data.sources.listing import Listing, Part, Poll

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_DEFLATE_LIMIT = 1100  # deflate cannot expand by more than 1032
_ROWS = 4096
_NUMBERS = "biuf"
_TOLERANCE = 1e-3  # floats this far outside [0, 1] are rounding errors of whoever made them
_BRIGHT = 64  # no smaller value can be the largest pixel of a set that is saved as 0 to 255
_NUMBER_NAMES = (
    "number the names: names, y_train = np.unique(y_train, return_inverse=True) and"
    " y_test = np.searchsorted(names, y_test)"
)
OpenArray = tuple[IO[bytes], tuple[int, ...], np.dtype, bool]


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; `InputError` where it is none, or more than one."""
    try:
        with damage(path):
            archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise truncated(path, f"not a zip archive: {error}") from error
    with archive:
        _check_whole(archive, path)
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
            _NUMBER_NAMES
            if dtype.kind in "SU" and name.startswith("y")
            else "save it as a rectangular array of uint8 or integers",
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
            _shape_advice(array.shape, name),
        )
    if array.dtype == np.uint8:
        if array.size and array.max() == 1:
            raise InputError(
                f"array {name} in {path} has no value above 1",
                "uint8 from 0 to 255",
                _by(array, name),
            )
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise InputError(
            f"array {name} in {path} is {array.dtype}",
            "uint8 pixels, or floats in [0, 1]",
            _by(array, name),
        )
    pixels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):  # in pieces: no second float copy of the whole set
        piece = array[start : start + _ROWS]
        # NaN is in no range.
        fine = (piece >= -_TOLERANCE) & (piece <= 1 + _TOLERANCE)
        if not fine.all():
            row, *rest = (int(i) for i in np.unravel_index(np.argmin(fine), fine.shape))
            value = piece[(row, *rest)]
            raise InputError(
                f"array {name} in {path} has {value} at index {(start + row, *rest)}",
                "finite floats in [0, 1], or uint8",
                _by(array, name),
            )
        pixels[start : start + _ROWS] = np.rint(piece.clip(0, 1) * piece.dtype.type(255))
    return pixels


def _shape_advice(shape: tuple[int, ...], name: str) -> str:
    """How to save images of another shape."""
    if len(shape) != 4:
        return f"save {name}.reshape(n, height, width, channels) of its own sizes, channels last"
    if shape[-1] in (2, 4):
        return f"without the alpha channel: save {name}[..., :{shape[-1] - 1}]"
    if shape[1] in (1, 3):
        return f"channels go last: save {name}.transpose(0, 2, 3, 1)"
    if shape[1] in (2, 4):
        return f"channels go last: save {name}[:, :{shape[1] - 1}].transpose(0, 2, 3, 1)"
    return "channels go last, one or three"


def _by(array: np.ndarray, name: str) -> str:
    """How to save pixels of another range as uint8 from 0 to 255, by that range."""
    low, high = float(array.min()), float(array.max())
    whole = array.dtype.kind in "biu"
    if array.dtype.kind == "b" or (whole and low >= 0 and high <= 1):
        return f"save {name}.astype('uint8') * 255"
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"replace the values of {name} that are not finite"
    if -1 - _TOLERANCE <= low < 0 and high <= 1 + _TOLERANCE and not whole:
        return f"save (({name} + 1) * 127.5).round().clip(0, 255).astype('uint8')"
    if low >= 0 and _BRIGHT <= high <= 255:
        return f"save {name}.round().astype('uint8')"
    if whole and low >= 0 and 255 < high <= 65535:
        return f"save ({name} / 257).round().astype('uint8'), if its values use all 16 bits"
    if whole and -128 <= low < 0 and high <= 127:
        return f"save ({name}.astype('int16') + 128).astype('uint8')"
    return f"its values reach from {low:g} to {high:g}: scale them to 0 to 255, then save uint8"


def _labels(array: np.ndarray, name: str, images: str, count: int, path: Path) -> np.ndarray:
    """Labels as (n,) integers, n = `count`."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"array {name} in {path} is {array.dtype} of shape {array.shape}",
            "integer class numbers of shape (n,)",
            _label_advice(array, name),
        )
    if len(array) != count:
        raise InputError(
            f"array {name} in {path} has {len(array)} labels",
            f"{count}, as many as images in {images}",
            "save images and labels of the same rows",
        )
    return array


def _label_advice(array: np.ndarray, name: str) -> str:
    """How to save other labels as class numbers."""
    if array.ndim == 2:
        return f"one-hot labels: save {name}.argmax(1)"
    if array.ndim == 1 and (array.dtype.kind == "b" or (array == np.rint(array)).all()):
        return f"save {name}.astype('int64')"
    return "save the number of the class of each image, from 0"


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
            entries = archive.namelist()
        census = Census(len(train) + len(test) + len(entries))
        held = {f"{name}.npy" for name in ARRAYS}
        for name in entries:
            if name in held:
                held.remove(name)
                census.hold()
            else:
                census.ignore(BESIDE, f"array {name.removesuffix('.npy')}")
        return Listing(form="npz", train=train, test=test, census=census)


def _check_whole(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive behind another one or with an entry twice: one would be left out."""
    starts = [info.header_offset for info in archive.infolist()]
    if min(starts, default=0) > 0:
        raise InputError(
            f"{path} has {min(starts)} bytes before its first array",
            "one archive alone",
            "save the arrays of all archives into one with np.savez",
        )
    names = archive.namelist()
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise truncated(path, f"array {twice[0].removesuffix('.npy')} is there twice")


def _read_part(archive: zipfile.ZipFile, part: str, path: Path) -> Part:
    """The images and labels of one part."""
    return read_pair(archive, f"x_{part}", f"y_{part}", path, part)


def read_pair(archive: zipfile.ZipFile, images: str, labels: str, path: Path, part: str) -> Part:
    """The part whose images and labels are in the arrays of these names."""
    pixels = _pixels(read_array(archive, images, path), images, path)
    values = read_array(archive, labels, path)
    return Part.of_arrays(pixels, _labels(values, labels, images, len(pixels), path), part)
