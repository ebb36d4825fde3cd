"""Paths of local files and of objects in a store such as gs://bucket/run.

A local path is a `pathlib.Path`. A URL becomes an `epath.Path`, which has the same methods. A store
holds whole objects by name: it cannot append, rename a folder or lock a file, and a folder exists
as soon as it contains an object. `is_local` tells the two kinds apart.
"""

import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from frepo_scale.core.errors import InputError
from frepo_scale.core.extras import not_installed

# etils knows more (s3://, az://), but Orbax writes checkpoints to local disks and gs:// only.
_STORES = ("gs://",)
_EXPECTED = f"a local path, or a URL that begins with {' or '.join(_STORES)}"


def is_local(path: str | os.PathLike[str]) -> bool:
    """Whether this is a path of the file system, and not of an object store."""
    return "://" not in os.fspath(path)


def to_path(path: str | os.PathLike[str]) -> Path:
    """The path for a text from the command line; a path is returned as it is.

    Raises:
      InputError: a URL that no run can use, or whose store does not answer.
    """
    text = os.fspath(path)
    if is_local(text):
        if looks_like_url(text):
            raise InputError(f"{text} is a URL with a slash missing", _EXPECTED)
        check_utf8(text, "path")
        if not os.path.isabs(text):
            check_utf8(_current_folder(), "the current folder")
        try:
            return Path(path).expanduser()  # the shell does not expand that of --workdir=~/runs
        except RuntimeError as error:
            raise InputError(
                f"{text}: there is no such user, or no home folder",
                "a path that exists",
                "write the folder out instead of the tilde",
            ) from error
    if not isinstance(path, str):
        return path  # type: ignore[return-value]  # an epath.Path
    if not text.startswith(_STORES):
        raise InputError(f"{text} is a URL that no run can use", _EXPECTED)
    # etils reads through TensorFlow, which caches the size of a file for some seconds. The lock of
    # a workdir needs its present content.
    os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
    try:
        from etils import epath

        store: Path = epath.Path(text)
        store.exists()
    # Wrong names, missing packages, no permission: the exception depends on store and package.
    except Exception as error:
        raise InputError(
            f"{text} cannot be used ({_brief(error)})",
            "a bucket that this machine may read, and TensorFlow (or EPATH_USE_TF=0 and gcsfs)",
        ) from error
    return store


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise InputError(
            "the current folder no longer exists", "a folder that exists", "change to one with cd"
        ) from error


def check_utf8(text: str, what: str) -> None:
    """Raises InputError for a text with bytes that are not UTF-8, as Python reads them.

    TensorStore and TensorFlow cannot use such a path; they say so only when they write.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise InputError(
            f"{what} {shown} is not UTF-8", "a name in UTF-8", "rename it, or choose another"
        ) from error


def looks_like_url(path: str | os.PathLike[str]) -> bool:
    """Whether this is a URL, also with the slash that pathlib removes ("gs:/bucket")."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)) is not None


def check_checkpoints(path: Path) -> None:
    """Raises InputError if a package is missing that checkpoints in this path need."""
    if is_local(path):
        return
    # Orbax asks the bucket whether it has real folders when it removes a checkpoint.
    found = False
    with contextlib.suppress(ModuleNotFoundError):  # not even google.cloud
        found = importlib.util.find_spec("google.cloud.storage") is not None
    if not found:
        package = "google-cloud-storage"
        raise not_installed(f"checkpoints in {path} need {package}", package, extra="gs")


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raises errors of a store as `OSError`, as a file system does; local errors are unchanged."""
    try:
        yield
    except (OSError, InputError):
        raise
    except Exception as error:
        if is_local(path):
            raise
        raise OSError(_brief(error)) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises `OSError` if it cannot be read."""
    with store_errors(path):
        return path.read_bytes()


@contextlib.contextmanager
def open_to_read(path: str | Path) -> Iterator[BinaryIO]:
    """A file with random access; from a store it is fetched as a whole."""
    if is_local(path):
        with open(path, "rb") as file:
            yield file
    else:
        yield io.BytesIO(read_bytes(to_path(path)))


def children(folder: Path) -> list[Path]:
    """The entries of a folder; raises `OSError` if it cannot be read.

    In a store a folder without entries does not exist; the result is empty.
    """
    if is_local(folder):
        return [folder / name for name in os.listdir(folder)]
    with store_errors(folder):
        # Some tools make an empty object with the name of the folder: it is no entry.
        return [path for path in folder.iterdir() if path != folder] if folder.is_dir() else []


def is_file(path: Path) -> bool:
    """Whether there is a file; False without permission to read the folder."""
    if is_local(path):
        return os.path.isfile(path)
    with _as_input_error(path):
        return path.is_file()


def is_folder(path: Path) -> bool:
    """Whether there is a folder; False without permission to read its parent."""
    if is_local(path):
        return os.path.isdir(path)
    with _as_input_error(path):
        return path.is_dir()


def remove(path: Path) -> None:
    """Removes a file; `OSError` if that fails."""
    with store_errors(path):
        path.unlink()


@contextlib.contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{path} cannot be read ({_brief(error)})", "a store that answers"
        ) from error


def _brief(error: Exception) -> str:
    """One line of bounded length: stores quote whole requests."""
    return " ".join(str(error).split())[:300] or type(error).__name__
