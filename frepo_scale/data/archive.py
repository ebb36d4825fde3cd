"""Files read once from front to back: plain, gzip and tar. Nothing is ever unpacked to disk.

All damage is an error: gzip files are read to the end, where their checksum is, and a tar must end
with its zero block, because `tarfile` takes a broken header for the end of the archive. What
follows that block is read or refused.
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

    Those after an end mark too, where archives were put together with `cat`.

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
        start: int | None = 0 if inside is None else inside.offset
        first = True
        while start is not None:
            with damage(path):
                source.seek(start)
                tar = tarfile.TarFile(fileobj=cast(IO[bytes], source))
            if not first and tar.firstmember is None:  # type: ignore[attr-defined]
                raise _after_end(path, start, inside)
            yield from _entries(tar, source, path, end)
            if source.last != bytes(_BLOCK) or (end is not None and tar.offset + _BLOCK > end):
                where = "" if inside is None else f" of {inside.name}"
                raise truncated(path, f"no entry and no end mark at byte {tar.offset}{where}")
            with damage(path):
                start, first = _next_archive(source, tar.offset + _BLOCK, end), False


def _entries(
    tar: tarfile.TarFile, source: _Watched, path: Path, end: int | None
) -> Iterator[Member]:
    """The entries up to the next end mark."""
    while True:
        with damage(path):
            entry = tar.next()
        if entry is None:
            return
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


def _next_archive(source: _Watched, start: int, end: int | None) -> int | None:
    """Where the next archive of `cat a.tar b.tar` begins: after zeros; None where nothing follows.

    To the end of the file, where gzip compares its checksum.
    """
    source.seek(start)
    # In blocks: going back further in a gzip file would read it from its start.
    while piece := source.read(_BLOCK if end is None else min(_BLOCK, end - start)):
        if piece.strip(b"\0"):
            return start
        start += len(piece)
    return None


def _after_end(path: Path, start: int, inside: Member | None) -> InputError:
    """The error for what follows the end mark of an archive and is not another archive."""
    what = path if inside is None else f"{inside.name} in {path}"
    cut = f"if it is not needed: head -c {start} {path.name} > NEW (after gunzip, of a .gz)"
    return InputError(
        f"{what} has something after its end mark, at byte {start}, that is no archive",
        "nothing but further archives",
        cut if inside is None else "download it again",
    )
