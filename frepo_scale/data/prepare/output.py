"""The output folder of `prepare`: its lock, its settings, and the space on its disk."""

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
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(code) for code in _FULL)  # ArrayRecord gives text, no number


@contextmanager
def _disk_full(root: Path, needed: int | None) -> Iterator[None]:
    """Turns a full disk of `root` into one line that says how much is missing.

    Args:
      root: the folder that is being filled.
      needed: bytes it will hold in the end, what is there already included; None: not known yet.

    Raises:
      InputError: instead of whatever a full disk raised.
      RunError: there is too little memory.
    """
    try:
        yield
    except MemoryError as error:
        raise RunError(
            "there is not enough memory; what is finished is kept: give the same command again,"
            " with fewer --workers"
        ) from error
    except (InputError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and (
            cause.errno in _FULL or any(text in str(cause) for text in _FULL_TEXTS)
        ):
            still = "room" if needed is None else f"at least {_size(needed - _used(root))}"
            raise InputError(
                f"the disk of {root} is full ({cause.strerror or cause})",
                f"{still} free",
                "what is finished is kept: free some space and give the same command again",
            ) from error
        raise


def _within_room(
    root: Path, needed: int | None, work: Work, task: Any, report: Callable[[int], None]
) -> Any:
    """A function of the module: worker processes get it by its name."""
    with _disk_full(root, needed):
        return work(task, report)


class OutputFolder:
    """An output folder, and the folder in it of what is needed only until it is finished."""

    def __init__(self, root: Path) -> None:
        """Names the folders; makes nothing."""
        if looks_like_url(root):
            raise InputError(f"--out {root} is a URL", "a local folder", "copy it afterwards")
        self.root = root
        self.work = root / UNFINISHED
        self.settings = self.work / "settings.json"
        self.copy = self.work / "source"
        self.undecodable = self.work / "undecodable.txt"
        self._needed: int | None = None
        self._lock: BinaryIO | None = None

    @property
    def finished(self) -> bool:
        """Whether a finished set lies there."""
        return os.path.isfile(self.root / FILE)

    @property
    def begun(self) -> bool:
        """Whether somebody has begun to prepare a set there."""
        return os.path.isdir(self.work)

    def check_free(self) -> None:
        """Raises InputError if something else lies there."""
        try:
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"--out {self.root} is a file", "a folder", _OTHER)
            names = os.listdir(self.root) if self.root.exists() else []
        except OSError as error:
            raise InputError(
                f"--out {self.root} cannot be read ({error.strerror})", "a folder", _OTHER
            ) from error
        if names and UNFINISHED not in names and FILE not in names:
            raise InputError(
                f"--out {self.root} holds something that is not a prepared set",
                "a folder that does not exist yet, is empty, or was begun by this command",
                "choose another --out",
            )

    def noted(self) -> dict[str, Any]:
        """The settings it was begun with; empty after a kill before they were noted.

        Raises:
          InputError: the note is damaged.
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

    def check_same(self, settings: dict[str, Any], there: dict[str, Any]) -> None:
        """Raises InputError if what lies there was begun with other settings.

        Args:
          settings: ours, or some of them.
          there: those of the set there, or some of them; what both have is compared.
        """
        common = settings.keys() & there.keys()
        theirs, ours = ({name: found[name] for name in common} for found in (there, settings))
        changed = differences(theirs, ours)
        if changed:
            raise InputError(
                f"{self.root} was prepared with other settings: " + "; ".join(changed),
                "the same settings, which go on where it was",
                _OTHER,
            )

    def check_images(self, fingerprint: str, there: str, source: Path) -> None:
        """Raises InputError if the images of the set are not those of the source.

        Args:
          fingerprint: of what lies at the source now.
          there: of what the set was begun with.
          source: where it lies.
        """
        if fingerprint != there:
            raise InputError(
                f"the files at {source} have changed since {self.root} was begun, or are others",
                "images of the same names, classes and sizes",
                f"bring them back, or {_OTHER}",
            )

    def check_room(self, needed: int) -> None:
        """Raises InputError if the disk has fewer than `needed` bytes besides what is there."""
        self._needed = needed
        try:
            existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
            free = shutil.disk_usage(existing).free
            there = _used(self.root)
        except OSError as error:
            raise InputError(
                f"--out {self.root} cannot be read ({error.strerror})", "a folder", _OTHER
            ) from error
        if free + there < needed:
            raise InputError(
                f"the disk of --out {self.root} has {_size(free)} free",
                f"at least {_size(needed - there)} free",
                "free some space, choose another --out or a smaller --resolution",
            )

    def begin(self) -> None:
        """Makes the folders and takes the lock; leftovers of a killed attempt are removed.

        Raises:
          InputError: it cannot be written, or somebody is at work there.
        """
        try:
            with self.room():
                self.work.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                self._sweep()
        except OSError as error:
            raise InputError(
                f"--out {self.root} cannot be written ({error.strerror})",
                "a folder you may write to",
                "choose another --out",
            ) from error

    def _take_lock(self) -> None:
        """The kernel drops the lock with its owner, so a dead one's is free."""
        file = open(self.work / "lock", "ab+")  # noqa: SIM115  # open as long as we work
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
                "wait for it, or choose another --out",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        self._lock = file

    def room(self) -> AbstractContextManager[None]:
        """Tells a full disk as such, with the bytes still needed, and too little memory."""
        return _disk_full(self.root, self._needed)

    def careful(self, work: Work) -> Work:
        """`work` within `room`, for worker processes."""
        return partial(_within_room, self.root, self._needed, work)

    def claim(self, settings: dict[str, Any]) -> None:
        """Notes the settings, for whoever goes on."""
        with whole_file(self.settings) as file:
            file.write((json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())

    def clean(self) -> None:
        """Removes what only an unfinished set needs."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _sweep(self) -> None:
        for folder in (self.root, self.work):
            remove_leftovers(folder)

    def release(self) -> None:
        """Removes what stopped workers left half made, and lets others in."""
        if self._lock is not None:
            with suppress(OSError):
                self._sweep()
            self._lock.close()
            self._lock = None


def _used(root: Path) -> int:
    """Bytes of all files below a folder, which workers may be removing and renaming."""
    total = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _size(count: int) -> str:
    return f"{max(count, 0):,} bytes"
