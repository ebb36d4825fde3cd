"""One Parquet file: its columns of encoded images and of labels; an image is found by its row.

pyarrow is imported when a file is read.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.extras import not_installed
from frepo_scale.data.archive import DAMAGE, truncated

_IMAGES = ("image", "img", "images", "jpg", "png")
_LABELS = ("label", "labels", "fine_label", "cls", "class")
_ENCODED = re.compile(r"(large_)?binary|struct<(.*, )?bytes: (large_)?binary\b.*>")
_INTEGERS = re.compile(r"u?int\d+")
_ROWS = 64  # images in memory at a time


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns the errors of pyarrow into an `InputError`."""
    from pyarrow import ArrowException

    try:
        yield
    except (*DAMAGE, ArrowException, MemoryError, KeyError, TypeError) as error:
        raise truncated(path, f"as Parquet: {str(error).partition(chr(10))[0]}") from error


def open_parquet(path: Path) -> Any:
    """The file as pyarrow opens it.

    Raises `InputError` where pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        what = f"{path} cannot be read without pyarrow"
        raise not_installed(what, "pyarrow", extra="parquet") from error
    with _damage(path):
        return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)


def parquet_columns(file: Any, path: Path) -> tuple[str, str]:
    """The columns of encoded images and of labels."""
    schema = file.schema_arrow
    image = next((name for name in _IMAGES if name in schema.names), None)
    label = next((name for name in _LABELS if name in schema.names), None)
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    good = _ENCODED.fullmatch(kinds.get(image or "", ""))
    if image is None or label is None or not good or not _INTEGERS.fullmatch(kinds[label]):
        raise InputError(
            f"{path} has the columns {', '.join(f'{n} ({k})' for n, k in kinds.items())}"[:400],
            f"encoded images ({', '.join(_IMAGES[:2])}) and integers ({', '.join(_LABELS[:3])})",
            "in datasets: rename_column, cast_column, class_encode_column; then to_parquet",
        )
    return image, label


def class_names(path: Path) -> list[str] | None:
    """The names of the classes, from the metadata that Hugging Face writes."""
    file = open_parquet(path)
    _, label = parquet_columns(file, path)
    try:
        value: Any = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
    except (KeyError, ValueError, RecursionError):
        return None
    for key in ("info", "features", label, "names"):
        value = value.get(key) if isinstance(value, dict) else None
    return [str(name) for name in value] if isinstance(value, list) and value else None


def read_rows_of(path: Path, columns: tuple[str, ...]) -> Iterator[Any]:
    """Batches of rows of these columns, in order."""
    file = open_parquet(path)
    with _damage(path):
        yield from file.iter_batches(_ROWS, columns=list(columns), use_threads=False)


def encoded(batch: Any, column: str) -> Any:
    """The encoded images of a batch, as an array of pyarrow."""
    images = batch.column(column)
    return images.field("bytes") if "struct" in str(images.type) else images


class ParquetImages:
    """An open file; see `RangeFile`. The offset of an image is its row."""

    def __init__(self, path: str) -> None:
        """Opens the file; see `open_parquet`."""
        self._path = Path(path)
        self._column = parquet_columns(open_parquet(self._path), self._path)[0]
        self._restart()

    def _restart(self) -> None:
        self._batches = read_rows_of(self._path, (self._column,))
        self._first = 0  # the row of the first image of the batch read last
        self._images: list[bytes] = []

    def read(self, offset: int, size: int) -> bytes:
        """See `RangeFile`; rows should be asked for in ascending order."""
        if offset < self._first:
            self._restart()
        while offset >= self._first + len(self._images):
            self._first += len(self._images)
            batch = next(self._batches, None)
            if batch is None:
                raise truncated(self._path, f"it has no row {offset}")
            self._images = encoded(batch, self._column).to_pylist()
        return self._images[offset - self._first]

    def close(self) -> None:
        """See `RangeFile`."""
        self._batches = iter(())
