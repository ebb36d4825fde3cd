"""The output folder of `prepare`: its lock, its settings, and the free space of its disk."""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from frepo_scale.core.atomic import remove_leftovers, whole_file
from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.identity import differences
from frepo_scale.core.paths import looks_like_url
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.data.prepare.workers import Work

_OTHER = "choose another --out, or remove this one"
_RESUME = "finished parts are on disk: give the same command again"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(code) for code in _FULL)  # ArrayRecord gives the text only


class OutputFolder:
    """An output folder, and its subfolder of files that only an unfinished set needs."""

    def __init__(self, root: Path) -> None:
        """Names the files; writes nothing."""
        if looks_like_url(root):
            raise InputError(f"--out {root} is a URL", "a local folder", "copy the set afterwards")
        self.root = root
        self.work = root / UNFINISHED
        self.settings = self.work / "settings.json"
        self.copy = self.work / "source"
        self.undecodable = self.work / "undecodable.txt"
        self._needed: int | None = None
        self._lock: BinaryIO | None = None

    @property
    def finished(self) -> bool:
        """Whether the folder has a finished set."""
        return os.path.isfile(self.root / FILE)

    @property
    def begun(self) -> bool:
        """Whether a set was begun in the folder."""
        return os.path.isdir(self.work)

    def check_usable(self) -> None:
        """Raises InputError if the folder holds anything but a set or the beginning of one."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"--out {self.root} is a file", "a folder", _OTHER)
        with _as_input_error(f"--out {self.root} cannot be read"):
            names = os.listdir(self.root) if self.root.exists() else []
        if names and UNFINISHED not in names and FILE not in names:
            raise InputError(
                f"--out {self.root} holds something that is not a prepared set",
                "a folder that does not exist, is empty, or was begun by this command",
                "choose another --out",
            )

    def read_settings(self) -> dict[str, Any]:
        """The settings the set was begun with; empty after a kill before they were written.

        Raises:
          InputError: the file is damaged.
        """
        try:
            value = json.loads(self.settings.read_bytes())
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.settings} cannot be read ({error})", "JSON", f"remove {self.root}"
            ) from error
        return value

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Writes the settings, which a resumed command must have too."""
        with whole_file(self.settings) as file:
            file.write((json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())

    def check_settings(self, settings: dict[str, Any], earlier: dict[str, Any]) -> None:
        """Raises InputError if the set was begun with other settings.

        Args:
          settings: of this command.
          earlier: of the set; settings that both have are compared.
        """
        common = settings.keys() & earlier.keys()
        before, now = ({name: found[name] for name in common} for found in (earlier, settings))
        changed = differences(before, now)
        if changed:
            raise InputError(
                f"{self.root} was prepared with other settings: " + "; ".join(changed),
                "the same settings, to resume",
                _OTHER,
            )

    def check_images(self, fingerprint: str, earlier: str, source: Path) -> None:
        """Raises InputError if the images of the set are not those of the source.

        Args:
          fingerprint: of the listing of the source.
          earlier: of the listing the set was begun with.
          source: its path.
        """
        if fingerprint != earlier:
            raise InputError(
                f"the files at {source} have changed since {self.root} was begun, or are others",
                "images of the same names, classes and sizes",
                f"restore them, or {_OTHER}",
            )

    def check_space(self, needed: int) -> None:
        """Raises InputError if the disk has no space for `needed` bytes, existing ones included."""
        self._needed = needed
        with _as_input_error(f"--out {self.root} cannot be read"):
            existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
            free, used = shutil.disk_usage(existing).free, _used(self.root)
        if free + used < needed:
            raise InputError(
                f"the disk of --out {self.root} has {_size(free)} free",
                f"at least {_size(needed - used)} free",
                "free some space, choose another --out or a smaller --resolution",
            )

    def begin(self) -> None:
        """Makes the folders, takes the lock and removes temporary files of a killed command.

        Raises:
          InputError: the folder cannot be written, or another process has the lock.
        """
        with _as_input_error(f"--out {self.root} cannot be written"), self.explain_errors():
            self.work.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._remove_leftovers()

    def _take_lock(self) -> None:
        """The kernel releases the lock when its process ends."""
        file = open(self.work / "lock", "ab+")  # noqa: SIM115  open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).decode("utf-8", "replace") or "another process"
            file.close()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(
                f"--out {self.root} is being prepared by {owner}",
                "one frepo-scale prepare at a time",
                "wait until it ends, or choose another --out",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        self._lock = file

    def explain_errors(self) -> AbstractContextManager[None]:
        """Reports a full disk with the bytes needed, and too little memory."""
        return _explain_errors(self.root, self._needed)

    def explaining(self, work: Work) -> Work:
        """`work` within `explain_errors`, for worker processes."""
        return partial(_explained, self.root, self._needed, work)

    def clean(self) -> None:
        """Removes what only an unfinished set needs."""
        shutil.rmtree(self.work, ignore_errors=True)

    def release(self) -> None:
        """Removes temporary files of stopped workers and releases the lock, if it is held."""
        if self._lock is not None:
            with suppress(OSError):
                self._remove_leftovers()
            self._lock.close()
            self._lock = None

    def _remove_leftovers(self) -> None:
        for folder in (self.root, self.work):
            remove_leftovers(folder)


@contextmanager
def _as_input_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{what} ({error.strerror})", "a folder you may use", _OTHER) from error


@contextmanager
def _explain_errors(root: Path, needed: int | None) -> Iterator[None]:
    """Turns a full disk of `root`, which will hold `needed` bytes in the end, into one line.

    Raises:
      InputError: the disk is full.
      RunError: there is too little memory.
    """
    try:
        yield
    except MemoryError as error:
        raise RunError(f"there is not enough memory; {_RESUME}, with fewer --workers") from error
    except (InputError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and (
            cause.errno in _FULL or any(text in str(cause) for text in _FULL_TEXTS)
        ):
            missing = "more space" if needed is None else f"at least {_size(needed - _used(root))}"
            raise InputError(
                f"the disk of {root} is full ({cause.strerror or cause})",
                f"{missing} free",
                f"free some space; {_RESUME}",
            ) from error
        raise


def _explained(
    root: Path, needed: int | None, work: Work, task: Any, report: Callable[[int], None]
) -> Any:
    """A function of the module, because worker processes import it by its name."""
    with _explain_errors(root, needed):
        return work(task, report)


def _used(root: Path) -> int:
    """Bytes of all files below a folder, which workers may be removing and renaming."""
    total = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _size(count: int) -> str:
    return f"{max(count, 0):,} bytes"
