"""Standard output and standard error that never fail: a run outlives its terminal.

A terminal is closed, a `tee` or `head` ends, the disk of a log file is full: the next `print` would
raise an error, in the middle of a step or of a save. What is printed is only a copy of what the
workdir holds, so such errors are ignored.
"""

import contextlib
import io
import os
import sys
from typing import IO, TextIO, cast


def outlive_readers() -> None:
    """Makes `sys.stdout` and `sys.stderr` ignore all errors of writing; call it once, at the start.

    A descriptor that is closed (`>&-`) is opened on the null device first. Otherwise the next file
    that is opened, such as a checkpoint, would take its number, and would get what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)


def _stream(descriptor: int, old: TextIO | None) -> io.TextIOWrapper:
    """A stream that writes to the descriptor, with the encoding and buffering of the old one."""
    if old is not None:
        with contextlib.suppress(OSError, ValueError):
            old.flush()
    return io.TextIOWrapper(
        cast(IO[bytes], io.BufferedWriter(cast(io.RawIOBase, _Output(descriptor)))),
        encoding=getattr(old, "encoding", None) or "utf-8",
        errors="backslashreplace",  # a character that a terminal does not know is no reason to end
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=bool(getattr(old, "write_through", False)),
    )


class _Output(io.RawIOBase):
    """A descriptor; what cannot be written to it is dropped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        """Writes as much as possible, and says that everything was written if that fails."""
        try:
            return os.write(self._descriptor, data)
        except OSError:
            return len(data)
