"""Files read once from front to back: plain, gzip and tar. Nothing is ever unpacked to disk.

All damage is an error: gzip files are read to the end, where their checksum is, and a tar must end
with its zero block, because `tarfile` takes a broken header for the end of the archive.
"""

import gzip
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from frepo_scale.core.errors import InputError

TARS = (".tar", ".tar.gz", ".tgz")
ZIPS = (".zip",)
ARCHIVES = (*TARS, *ZIPS, ".npz")

_BLOCK = 512
_CHUNK = 1 << 22
# What reading a damaged gzip, zip or tar can raise.
DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    ValueError,
    IndexError,
    OverflowError,
)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns the errors of a damaged or unreadable file into an `InputError` that names `path`."""
    try:
        yield
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason})", "an intact file", "download or copy it again"
        ) from error


def truncated(path: Path, detail: str) -> InputError:
    """The error for a file that ends too early or contradicts its own header."""
    return InputError(
        f"{path} is cut off or damaged ({detail})", "an intact file", "download or copy it again"
    )


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does; its name may be wrong."""
    with damage(path), path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed if it is gzip."""
    with ExitStack() as stack:
        with damage(path):
            plain = stack.enter_context(path.open("rb"))
        if is_gzip(path):
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=plain)))
        else:
            yield plain


def read_up_to(stream: IO[bytes], limit: int) -> bytearray:
    """At most `limit` bytes, read in pieces, so that a wrong header allocates nothing."""
    data = bytearray()
    while len(data) < limit:
        piece = stream.read(min(_CHUNK, limit - len(data)))
        if not piece:
            break
        data += piece
    return data


class _Watched:
    """The stream that `tarfile` reads; stores the last bytes read, finally the end mark."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self.stream.read(size)
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        return self.stream.seek(position, whence)

    def tell(self) -> int:
        return self.stream.tell()


@dataclass(frozen=True)
class Member:
    """One entry of a tar, valid until the next one is read.

    Attributes:
      name: its path without "./" and double slashes.
      kind: "file", "folder" or "other" (links, devices, sparse files).
      size: bytes of a file.
      offset: where they begin, in the archive decompressed.
    """

    name: str
    kind: str
    size: int
    offset: int
    _source: _Watched
    _path: Path

    def read(self) -> bytes:
        """The file's bytes; `InputError` where the archive ends inside them."""
        with damage(self._path):
            self._source.seek(self.offset)
            data = self._source.read(self.size)
        if len(data) < self.size:
            raise truncated(self._path, f"it ends inside {self.name}")
        return data


def members(path: Path, inside: Member | None = None) -> Iterator[Member]:
    """The entries of a .tar or .tar.gz in stored order, in one pass without seeking back.

    Args:
      path: the archive.
      inside: a member that is a tar itself, whose entries are wanted; the archive must not be
        compressed then. Offsets are those in the archive.

    Raises:
      InputError: the archive is damaged, cut off (also between two entries), or not a tar.
    """
    with open_stream(path) as stream:
        end = None if is_gzip(path) else path.stat().st_size
        if inside is not None:
            end = inside.offset + inside.size
        source = _Watched(stream)
        with damage(path):
            if inside is not None:
                source.seek(inside.offset)
            tar = tarfile.TarFile(fileobj=cast(IO[bytes], source))
        while True:
            with damage(path):
                entry = tar.next()
            if entry is None:
                break
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would store every header of a million-image archive
            if entry.isreg() and not entry.issparse():
                kind = "file"
            else:
                kind = "folder" if entry.isdir() else "other"
            name = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
            stored = entry.size if kind == "file" else 0
            if end is not None and entry.offset_data + stored > end:
                raise truncated(path, f"it ends inside {name}")
            yield Member(name, kind, entry.size, entry.offset_data, source, path)
        if source.last != bytes(_BLOCK) or (end is not None and tar.offset + _BLOCK > end):
            where = "" if inside is None else f" of {inside.name}"
            raise truncated(path, f"no entry and no end mark at byte {tar.offset}{where}")
        with damage(path):
            while inside is None and source.read(_CHUNK):  # gzip compares its checksum at the end
                pass
