"""Reading an .npz from anybody: what it declares is compared before its arrays are decompressed."""

import math
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import open_to_read

# Above both, a file is refused: learned images and labels hardly compress.
_LARGE = 256 * 2**20  # bytes
_RATIO = 50  # decompressed bytes per byte of the file


class Header(NamedTuple):
    """What the header of an array declares.

    Attributes:
      shape: of the array.
      dtype: of the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def read_arrays(
    path: str | Path,
    wanted: Collection[str],
    check: Callable[[Mapping[str, Header]], None],
    expected: str,
    fix: str = "",
) -> dict[str, np.ndarray]:
    """Some arrays of an .npz file.

    Args:
      path: the file.
      wanted: names of arrays to read; those that the file does not hold are left out.
      check: called with the headers of these arrays before they are read; may raise InputError.
      expected: what the file should be, for error messages.
      fix: what to do about a damaged file.

    Raises:
      InputError: the file is missing, damaged, not an .npz, or would need far more memory than its
        size suggests; or `check` raised it.
    """
    # A damaged archive fails in many ways (zip structure, checksum, array header, compression
    # method, ...); all of them are one error for the user.
    try:
        with open_to_read(path) as file:
            check_size(path, file, expected)
            _check_sums(file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                names = [name for name in npz.files if name in wanted]
                check({name: _header(npz.zip, name) for name in names})
                return {name: npz[name] for name in names}
    except FileNotFoundError as error:
        fix = "check the path"
        raise InputError(f"{path}: no such file", "an existing file or workdir", fix) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason})", "a readable .npz file") from error
    except (MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(f"{path}: damaged or not an .npz file ({error})", expected, fix) from error


def check_size(path: str | Path, file: BinaryIO, expected: str) -> None:
    """Raises InputError for a zip archive that decompresses to far more than its size.

    Args:
      path: the file, for error messages.
      file: the archive, opened; its position is changed.
      expected: what it should hold.
    """
    size = file.seek(0, 2)
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > max(_LARGE, _RATIO * size):
        raise InputError(
            f"{path}: {size:,} bytes that decompress to {total:,}",
            f"{expected} of less than {_RATIO} times its size in memory",
        )


def _check_sums(file: BinaryIO) -> None:
    """Checksums of all members, so that no unchecked array header is read."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    """The header of one array; reads no more than it."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        else:  # 3.0 differs from 2.0 in the encoding of field names, which these arrays lack
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    held = archive.getinfo(f"{name}.npy").file_size
    if math.prod(shape) * dtype.itemsize > held:  # numpy would reserve the memory first
        raise ValueError(f"{name} declares {shape} {dtype} and has {held:,} bytes")
    return Header(shape, dtype)
