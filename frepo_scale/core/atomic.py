"""Files and folders that are written completely or not at all.

Everything is written under a hidden temporary name beside its target and renamed at the end. So
no reader ever sees half a file, and the old target survives a crash or a full disk. For an object
store a file is collected in memory and written in one call, which the store makes atomic.
"""

import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_local, looks_like_url, store_errors, to_path

_PARTIAL = ".partial-"
_NAMED = 100  # characters of the target's name that the temporary name repeats


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that becomes `path` when the block ends without an error.

    Missing parent folders are made. An existing file is replaced.

    Raises:
      InputError: `path` cannot be written (no permission, no room, a folder).
    """
    if not is_local(path):
        with _whole_object(to_path(path)) as buffer:
            yield buffer
        return
    target = _local(path)
    with _as_input_error(target, "a file name in a folder you may write to, with room on it"):
        temporary = _beside(target)
        try:
            # "xb" and not tempfile: the file gets the usual permissions, not owner-only ones.
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def whole_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path; the file the block makes there becomes `path` at its end.

    For writers that take a name and not an open file. Missing parent folders are made.

    Raises:
      InputError: `path` cannot be written.
    """
    target = _local(path)
    with _as_input_error(target, "a file name in a folder you may write to, with room on it"):
        temporary = _beside(target)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends without an error.

    Missing parent folders are made.

    Raises:
      InputError: `path` exists and is anything but an empty folder, or cannot be written.
    """
    target = _local(path)
    expected = "a folder that does not exist yet, or is empty"
    with _as_input_error(target, expected):
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file", expected, "choose another name")
        if target.is_dir() and any(target.iterdir()):
            raise InputError(f"{target} is not empty", expected, "choose another or empty it")
        temporary = _beside(target)
        try:
            temporary.mkdir()
            yield temporary
            os.rename(temporary, target)  # replaces an empty folder, refuses any other
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_leftovers(folder: Path, but_of: tuple[str, ...] = ()) -> None:
    """Removes temporary files that killed writers left in a local folder, which may be missing.

    Args:
      folder: a folder in which nothing is being written now.
      but_of: names of files that may be being written all the same.
    """
    kept = tuple(f"{_PARTIAL}{name}-" for name in but_of)
    for path in folder.glob(f"{_PARTIAL}*"):
        if path.name.startswith(kept):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # leftovers do no harm
                path.unlink()


@contextmanager
def _whole_object(target: Path) -> Iterator[BinaryIO]:
    buffer = io.BytesIO()
    yield buffer
    # The store's own file object would leave what was written so far when the block fails.
    with _as_input_error(target, "a path you may write to"), store_errors(target):
        target.write_bytes(buffer.getvalue())


def _local(path: str | Path) -> Path:
    # pathlib makes "gs:/bucket", a local path, of "gs://bucket": the file would be lost.
    if looks_like_url(path):
        raise InputError(f"cannot write {path}", "a local path", "write it locally and copy it")
    return Path(path)


def _beside(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f"{_PARTIAL}{target.name[:_NAMED]}-{secrets.token_hex(6)}"


@contextmanager
def _as_input_error(target: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {target} ({reason})", expected) from error
