"""ArrayRecord files, the other format in which tensorflow-datasets writes its builds.

A record is found by its number and usually compressed, so an image is not a range of the file. Its
offset is `number << 32 | position`, the position counted within the record.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import truncated

_POSITION_BITS = 32
_GROUP = 64  # records decompressed at a time
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


def is_array_record(path: Path) -> bool:
    """Whether the name is that of an ArrayRecord file."""
    return ".array_record" in path.name


def _open(path: Path, options: str = "") -> Any:
    """A reader of the file; its errors are `RuntimeError`."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():  # the reader would end the process
        raise InputError(f"{path} is missing", "the source unchanged", "put it back")
    return ArrayRecordReader(str(path), options)


def read_array_records(path: Path) -> Iterator[tuple[bytes, int]]:
    """Every record of a file in order, and the offset of its first byte.

    Raises:
      InputError: the file is cut off or damaged.
    """
    try:
        reader = _open(path)
        count = reader.num_records()
        for start in range(0, count, _GROUP):
            numbers = range(start, min(start + _GROUP, count))
            for number, data in zip(numbers, reader.read(numbers), strict=True):
                yield data, number << _POSITION_BITS
        reader.close()
    except RuntimeError as error:
        raise truncated(path, str(error).partition("\n")[0]) from error


class ArrayRecordImages:
    """An open file; see `RangeFile`."""

    def __init__(self, path: str) -> None:
        """Opens the file; `InputError` where it is damaged."""
        self._path = Path(path)
        try:
            self._reader = _open(self._path, _RANDOM_ACCESS)
        except RuntimeError as error:
            raise truncated(self._path, str(error).partition("\n")[0]) from error

    def read(self, offset: int, size: int) -> bytes:
        """See `RangeFile`; the whole record is read, which compares its checksum."""
        number, position = offset >> _POSITION_BITS, offset & ((1 << _POSITION_BITS) - 1)
        try:
            (data,) = self._reader.read([number])
        except RuntimeError as error:
            raise truncated(self._path, str(error).partition("\n")[0]) from error
        image: bytes = data[position : position + size]
        return image

    def close(self) -> None:
        """See `RangeFile`."""
        with suppress(RuntimeError):  # after an error of the file it raises that again
            self._reader.close()
