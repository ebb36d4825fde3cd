"""The one reader of text files: recipes, tables of labels, class names, written by any editor."""

import codecs
import os
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(data: bytes, origin: str | os.PathLike[str]) -> str:
    """The text in the bytes of a file, without a byte order mark, lines ended by "\\n" alone.

    Args:
      data: all bytes of the file.
      origin: its path, for the message.

    Raises:
      InputError: the bytes are not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        utf16 = data.startswith(_UTF16)
        found = "it is in UTF-16" if utf16 else f"byte 0x{data[error.start]:02x} in line {line}"
        raise InputError(
            f"{os.fspath(origin)} cannot be read as text ({found})",
            "text in UTF-8",
            "save it as UTF-8, for example with"
            f" iconv -f {'UTF-16' if utf16 else 'LATIN1'} -t UTF-8 FILE > NEW",
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    """The text of a local file or of an object in a store, see `decode_text`.

    Raises:
      InputError: it is missing, cannot be read, or is not UTF-8.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be read ({reason})", "a readable text file") from error
    return decode_text(data, path)


def text_lines(text: str) -> list[str]:
    """The lines of a text without the blank ones at its end.

    Unlike `str.splitlines`, only a line feed ends a line: a name may hold any other separator.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
