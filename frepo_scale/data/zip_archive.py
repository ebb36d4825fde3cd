"""Zip archives read in place: their entries, checked, and the bytes of each.

Nothing is unpacked to disk. An archive that was made to fill the memory is refused: deflate expands
by a factor of 1032 at most, and entries must not overlap.

An entry is found by `header << 22 | check`: where its local header begins, and bits of the checksum
of its name. The table of contents, where the name and so the class comes from, has no checksum; the
name is there a second time, in the local header.
"""

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, truncated
from frepo_scale.data.decode import UnreadableImage

_HEADER = struct.Struct("<4s5H3L2H")  # the local header before every entry
_SIGNATURE = b"PK\x03\x04"
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 99: "AES"}
_EXPANSION = 1032  # the most that deflate expands by
_CHECK_BITS = 22
_CHECK = (1 << _CHECK_BITS) - 1
_UTF8 = 0x800
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_UNPACK = "unpack it and give the folder"
_NESTED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
# What `zipfile` raises for a damaged archive beside `archive.DAMAGE`.
ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError, AssertionError)


@dataclass(frozen=True)
class Entry:
    """One entry of an archive.

    Attributes:
      name: its path, "/" between components.
      kind: "file", "folder" or "other" (links).
      size: bytes of a file.
      offset: by which `ZipImages` finds it.
    """

    name: str
    kind: str
    size: int
    offset: int


def entries(path: Path) -> list[Entry]:
    """The entries of a zip in the order of the archive.

    Raises:
      InputError: the archive is damaged, encrypted, of a compression that is not read, made to
        fill the memory, or holds another archive.
    """
    try:
        with damage(path), zipfile.ZipFile(path) as archive:
            found = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except ZIP_DAMAGE as error:
        raise truncated(path, f"as a zip: {error}") from error
    if found and found[0].header_offset > 0:
        raise InputError(
            f"{path} has {found[0].header_offset} bytes before its first entry",
            "one zip alone: of several in one file only the last is found",
            f"separate them, or {_UNPACK}",
        )
    listed = []
    names: set[str] = set()
    for number, info in enumerate(found):
        name = entry_name(info)
        if not info.filename:
            raise truncated(path, "an entry has no name")
        _check(path, info, name)
        end = info.header_offset + _HEADER.size + info.compress_size
        if number + 1 < len(found) and end > found[number + 1].header_offset:
            raise truncated(path, f"{name} overlaps {found[number + 1].filename}")
        if not name:  # "./"
            continue
        if name in names:
            raise truncated(path, f"it holds {name} twice")
        names.add(name)
        kind = "other" if stat.S_ISLNK(info.external_attr >> 16) else "file"
        kind = "folder" if info.is_dir() or info.filename.endswith("\\") else kind
        stored = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
        offset = info.header_offset << _CHECK_BITS | zlib.crc32(stored) & _CHECK
        listed.append(Entry(name, kind, info.file_size, offset))
    return listed


def entry_name(info: zipfile.ZipInfo) -> str:
    """The path of an entry; archives made on Windows may have backslashes."""
    parts = info.filename.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _check(path: Path, info: zipfile.ZipInfo, name: str) -> None:
    """Refuses an entry that cannot be read in place."""
    if info.header_offset < 0:  # `zipfile` subtracts what precedes a self-extracting archive
        raise truncated(path, f"{name} begins before the file")
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{name} in {path} is encrypted", "a zip without password", _UNPACK)
    if info.compress_type not in (_STORED, _DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise InputError(f"{name} in {path} is compressed with {method}", "deflate", _UNPACK)
    if info.file_size > _EXPANSION * (info.compress_size + 1):
        raise truncated(path, f"{name} claims {info.file_size} bytes")
    if info.compress_type == _STORED and info.file_size != info.compress_size:
        raise truncated(path, f"{name} claims {info.file_size} of {info.compress_size} bytes")
    if name.lower().endswith(_NESTED):
        raise InputError(
            f"{path} holds another archive, {name}", "images, or tables", f"{_UNPACK} or archive"
        )


class ZipImages:
    """An open zip; see `RangeFile`."""

    def __init__(self, path: str) -> None:
        """Opens the archive; its table of contents is not read."""
        self._file = open(path, "rb")  # noqa: SIM115  kept open

    def read(self, offset: int, size: int) -> bytes:
        """See `RangeFile`; compares the checksum where the header gives it.

        Raises:
          UnreadableImage: the entry is damaged.
        """
        self._file.seek(offset >> _CHECK_BITS)
        head = self._file.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:4] != _SIGNATURE:
            raise UnreadableImage("", "there is no entry of the zip at its position")
        _, _, flags, method, _, _, checksum, _, _, name, extra = _HEADER.unpack(head)
        if zlib.crc32(self._file.read(name)) & _CHECK != offset & _CHECK:
            raise UnreadableImage("", "the zip has another name for it in its header")
        self._file.seek(extra, 1)
        if method == _STORED:
            data, after = self._file.read(size), b""
        elif method == _DEFLATED:
            data, after = self._inflate(size)
        else:
            raise UnreadableImage("", f"compression method {method}")
        if len(data) != size:
            raise UnreadableImage("", f"the zip does not hold the {size} bytes it should")
        if flags & _SIZES_FOLLOW:
            after += self._file.read(max(8 - len(after), 0))
            found = after[4:8] if after[:4] == b"PK\x07\x08" else after[:4]
            checksum = int.from_bytes(found, "little")
        if zlib.crc32(data) != checksum:
            raise UnreadableImage("", "the checksum of the zip differs")
        return data

    def _inflate(self, size: int) -> tuple[bytes, bytes]:
        """At most `size` + 1 bytes of a deflated entry, and bytes read after its end."""
        stream = zlib.decompressobj(-15)
        data = bytearray()
        while not stream.eof and len(data) <= size:
            piece = stream.unconsumed_tail or self._file.read(1 << 16)
            if not piece:
                break
            try:
                data += stream.decompress(piece, size + 1 - len(data))
            except zlib.error as error:
                raise UnreadableImage("", f"damaged in the zip: {error}") from error
        return bytes(data), stream.unused_data

    def close(self) -> None:
        """See `RangeFile`."""
        self._file.close()
