"""The folder that is being prepared: whose it is, who is at work in it, whether there is room."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from frepo_scale.core.atomic import remove_leftovers, whole_file
from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.identity import differences
from frepo_scale.data.description import FILE, UNFINISHED

_OTHER = "choose another --out, or remove this one"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(code) for code in _FULL)  # ArrayRecord gives text, no number


@contextmanager
def disk_full(root: Path) -> Iterator[None]:
    """Turns a full disk into a `RunError`: the input is not wrong, the same command will work.

    Too little memory likewise.
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
            raise RunError(
                f"the disk of {root} is full ({cause.strerror or cause}); what is finished is kept:"
                " free some space and give the same command again"
            ) from error
        raise


def with_room(
    root: Path,
    work: Callable[[Any, Callable[[int], None]], Any],
    task: Any,
    report: Callable[[int], None],
) -> Any:
    """`work(task, report)`, with a full disk of `root` told as such; for worker processes."""
    with disk_full(root):
        return work(task, report)


class Place:
    """An output folder, and the folder in it of what is needed only until it is finished."""

    def __init__(self, root: Path) -> None:
        """Names the folders; makes nothing."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(root)):
            raise InputError(f"--out {root} is a URL", "a local folder", "copy it afterwards")
        self.root = root
        self.work = root / UNFINISHED
        self.settings = self.work / "settings.json"
        self.copy = self.work / "source"
        self.undecodable = self.work / "undecodable.txt"
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

    def check_same(self, settings: dict[str, Any], there: dict[str, Any] | None = None) -> None:
        """Raises InputError if what lies there was begun with other settings.

        Args:
          settings: ours, or some of them.
          there: those of the set there; None: as noted when it was begun.
        """
        if there is None:
            try:
                there = json.loads(self.settings.read_bytes())
            except FileNotFoundError:
                return  # a kill before the first note
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{self.settings} cannot be read ({error})", "JSON", f"remove {self.root}"
                ) from error
        common = {name: there[name] for name in settings if name in there}
        changed = differences(common, settings)
        if changed:
            raise InputError(
                f"{self.root} was prepared with other settings: " + "; ".join(changed),
                "the same settings, which go on where it was",
                _OTHER,
            )

    def check_room(self, needed: int) -> None:
        """Raises InputError if the disk has fewer than `needed` bytes besides what is there."""
        try:
            existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
            free = shutil.disk_usage(existing).free
            there = sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())
        except OSError as error:
            raise InputError(
                f"--out {self.root} cannot be read ({error.strerror})", "a folder", _OTHER
            ) from error
        if free + there < needed:
            raise InputError(
                f"the disk of --out {self.root} has {_size(free)} free",
                f"at least {_size(needed - there)}",
                "free some space, choose another --out or a smaller --resolution",
            )

    def begin(self) -> None:
        """Makes the folders and takes the lock; leftovers of a killed attempt are removed.

        Raises:
          InputError: it cannot be written, or somebody is at work there.
        """
        try:
            with disk_full(self.root):
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


def _size(count: int) -> str:
    return f"{max(count, 0) / 2**20:,.0f} MiB"
