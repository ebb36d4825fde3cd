"""Reading and decoding the images of a part: the one reader of `prepare` and in-memory loading."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, open_stream
from frepo_scale.data.decode import MAX_BYTES, Decoded, UnreadableImage, decode_image, to_square
from frepo_scale.data.sources.listing import Part, RangeFile


@dataclass(frozen=True)
class Target:
    """The form into which images are decoded.

    Attributes:
      channels: C, 1 or 3; None: 3, and the result says whether the file is grey.
      resolution: R; None: the size is left as stored.
      fit: "crop" or "squash".
      kernel: "area" or "lanczos".
    """

    channels: int | None
    resolution: int | None
    fit: str
    kernel: str = "area"


class RangeReader:
    """Reads the bytes of images; the file read last is kept open.

    Of gzip files, ranges should be asked for in ascending order: going back reads from the start.
    """

    def __init__(self, part: Part) -> None:
        """Opens nothing before the first `read`."""
        self._part = part
        self._number = -1
        self._stream: IO[bytes] | RangeFile | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "RangeReader":
        """The open file is closed with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the open file."""
        self._stack.close()

    def read(self, row: int) -> bytes:
        """The bytes of an image.

        Raises:
          UnreadableImage: this image cannot be read.
          InputError: a file of several images is missing or damaged.
        """
        part = self._part
        number, size = int(part.files[row]), int(part.sizes[row])
        path = part.paths[number]
        if size > MAX_BYTES:
            raise UnreadableImage(part.describe(row), f"{size} bytes are too many")
        if number != self._number:
            self._open(number, row)
        with damage(Path(path)):
            data = self._range(int(part.offsets[row]), size, row)
        if len(data) < size:
            detail = f"the file ends after {len(data)} of {size} bytes"
            raise UnreadableImage(part.describe(row), detail)
        return data

    def _range(self, offset: int, size: int, row: int) -> bytes:
        """A range of the open file."""
        if self._part.opener is not None:
            try:
                return cast(RangeFile, self._stream).read(offset, size)
            except UnreadableImage as error:
                raise UnreadableImage(self._part.describe(row), error.reason) from error
        stream = cast(IO[bytes], self._stream)
        stream.seek(offset)
        return stream.read(size)

    def _open(self, number: int, row: int) -> None:
        path = self._part.paths[number]
        self._stack.close()
        self._number = -1
        if not os.path.isfile(path):
            if os.path.islink(path):  # one image of a folder, not an archive
                raise UnreadableImage(self._part.describe(row), "a link to a missing file")
            if os.path.exists(path):  # opening a pipe would wait for its other end
                raise UnreadableImage(self._part.describe(row), "not a plain file")
            raise InputError(f"{path} is missing", "the source unchanged", "put it back")
        if self._part.opener is not None:
            with damage(Path(path)):
                self._stream = self._stack.enter_context(closing(self._part.opener(path)))
        elif self._part.compressed:
            self._stream = self._stack.enter_context(open_stream(Path(path)))
        else:
            try:
                self._stream = self._stack.enter_context(open(path, "rb"))  # noqa: SIM115  kept open
            except OSError as error:
                raise UnreadableImage(self._part.describe(row), str(error.strerror)) from error
        self._number = number


def in_file_order(part: Part) -> np.ndarray:
    """The rows of a part in the order of their bytes on disk, which reads fastest."""
    return np.lexsort((part.offsets, part.files))


def read_rows(part: Part, rows: Iterable[int]) -> Iterator[tuple[int, bytes | UnreadableImage]]:
    """The bytes of the images at `rows`, in that order; one that cannot be read is a result too.

    Raises:
      InputError: a file of several images is missing or damaged.
    """
    with RangeReader(part) as reader:
        for row in rows:
            try:
                yield row, reader.read(row)
            except UnreadableImage as error:
                yield row, error


def decode_row(
    part: Part, row: int, data: bytes | np.ndarray | UnreadableImage, target: Target
) -> Decoded | UnreadableImage:
    """One image of a part from its bytes, from its row of an array (H, W, C), or an error."""
    if isinstance(data, UnreadableImage):
        return data
    if part.shape is None:
        try:
            return decode_image(
                bytes(data), "", target.channels, target.resolution, target.fit, target.kernel
            )
        except UnreadableImage as error:
            return UnreadableImage(part.describe(row), error.reason)
    height, width, channels = part.shape
    pixels = np.frombuffer(data, np.uint8).reshape(part.shape)
    if target.resolution is not None:
        pixels = to_square(pixels, target.resolution, target.fit, target.kernel)
    return Decoded(pixels, height, width, channels == 1)
