"""One workdir, one run: a second live run is refused, a dead one's workdir is taken over.

The owner's record is one small file that is only ever replaced whole, so it works where there are
neither file locks nor appending.

*Is the owner alive?* On the same machine its process tells, at once: the number and the time it
started, because numbers are used again. From elsewhere only the file tells: a live owner renews it
every 30 s, so one that does not change for 90 s is dead. What is compared is the content with
itself, never a time in it with a clock: clocks differ and jump.

*Who wins of two that start at once?* Each looks, replaces the file, waits for long against the time
that took, and reads again: only the last to write finds itself. Should one have stalled between its
look and its writing for longer than the other waited, both go on until the earlier one renews the
file, finds the other's record and stops.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.paths import is_local, read_bytes, remove

_LOOK_EVERY = 1.0  # seconds, while watching a record from elsewhere
_LEAST_SETTLE = 0.25  # seconds between writing and reading again, at least
_SETTLE_FACTOR = 10.0  # of the time from the look to the end of the writing


class WorkdirLock:
    """The right of this process to write a workdir; ends with `release` or the process."""

    def __init__(
        self,
        path: Path,
        *,
        renew_every: float = 30.0,
        takeover_after: float = 90.0,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Takes nothing before `acquire`.

        Args:
          path: the file of the owner's record, in the workdir.
          renew_every: seconds between renewals.
          takeover_after: seconds without a renewal after which an owner elsewhere is dead.
          clock: the time of day, for people to read in the record.
          timer: seconds that never go back.
          sleep: waits for seconds.
        """
        self._path, self._clock, self._timer, self._sleep = path, clock, timer, sleep
        self._renew_every, self._takeover_after = renew_every, takeover_after
        self._token = uuid.uuid4().hex
        self._started = clock()
        self._beats = 0
        self._renewed = timer()
        self._lost = False
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Makes this process the owner; nothing happens if it is already.

        Raises:
          InputError: a live run owns the workdir, or another one took it at the same moment.
        """
        if self._thread is not None:
            return
        while True:
            there = self._read()
            if there is not None:
                self._refuse_if_alive(there)
            began = self._timer()
            if self._replace(there):
                break
        self._sleep(max(_LEAST_SETTLE, _SETTLE_FACTOR * (self._timer() - began)))
        found = _record(self._read())
        if found.get("token") != self._token:
            raise self._in_use(found)
        self._renewed = self._timer()
        self._thread = threading.Thread(target=self._keep_renewing, name="owner", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another run has taken the workdir."""
        return self._lost

    def check(self) -> None:
        """Raises RunError if another run has taken the workdir; call it before writing there.

        A process that stood still for so long that it may have happened looks before it goes on.
        """
        if self._thread is not None and self._timer() - self._renewed > self._takeover_after:
            self.renew()
        if self._lost:
            raise RunError(
                f"workdir {self._path.parent} was taken over by another run while this one stood"
                " still; it goes on there and this one stops"
            )

    def release(self) -> None:
        """Leaves the workdir to others; nothing happens if it is not ours."""
        self._released.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        # A store that fails now must not change how the run ends: the record is then a dead run's.
        with contextlib.suppress(OSError, InputError):
            if _record(self._read()).get("token") == self._token:
                remove(self._path)

    def renew(self) -> None:
        """Shows that this process lives, or finds that the workdir is another's.

        A store that fails now may work the next time; if it never does, the record stays as it is
        and another run takes over.
        """
        with contextlib.suppress(InputError):
            while not self._lost:
                there = self._read()
                if there is not None and _record(there).get("token") != self._token:
                    self._lost = True
                elif self._replace(there):
                    break
            self._renewed = self._timer()

    def _keep_renewing(self) -> None:
        while not self._lost and not self._released.wait(self._renew_every):
            self.renew()

    def _replace(self, expected: bytes | None) -> bool:
        """Puts our record in place of `expected`; False, and nothing done, if that has changed."""
        self._beats += 1
        record = _this_process() | {
            "token": self._token,
            "started": self._started,
            "beat": self._clock(),
            "beats": self._beats,  # changes even if the clock jumps back
        }
        try:
            with whole_file(self._path) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())
                if is_local(self._path):
                    file.flush()
                    os.fsync(file.fileno())  # the slow part, before the look and not after it
                if self._read() != expected:
                    raise _Changed
        except _Changed:
            return False
        return True

    def _read(self) -> bytes | None:
        try:
            return read_bytes(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be read ({error.strerror or error})",
                "the record of the run that owns the workdir",
                "choose another with --workdir",
            ) from error

    def _refuse_if_alive(self, there: bytes) -> None:
        record, own = _record(there), _this_process()
        if own["machine"] == record.get("machine"):
            if _lives(record.get("pid"), record.get("process_start")):
                raise self._in_use(record)
            return
        print(
            f"frepo-scale: workdir {self._path.parent} was used by process {record.get('pid')} on"
            f" {record.get('host')}; waiting up to {self._takeover_after:.0f} s for a sign of it",
            file=sys.stderr,
            flush=True,
        )
        waited = 0.0
        while waited < self._takeover_after:
            self._sleep(_LOOK_EVERY)
            waited += _LOOK_EVERY
            now = self._read()
            if now is None:
                return  # it ended properly
            if now != there:
                raise self._in_use(_record(now))

    def _in_use(self, record: dict[str, Any]) -> InputError:
        pid, host = record.get("pid"), record.get("host")
        since = ""
        with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
            started = datetime.fromtimestamp(record.get("started"), UTC)  # type: ignore[arg-type]
            since = f" since {started:%Y-%m-%d %H:%M:%S} UTC"
        return InputError(
            f"workdir {self._path.parent} is in use by process {pid} on {host}{since}",
            "a workdir that no other run uses",
            f"wait for it, end it with `kill {pid}` there, or choose another with --workdir",
        )


class _Changed(Exception):
    """Somebody else was faster."""


def _record(text: bytes | None) -> dict[str, Any]:
    """What is in a record; nothing if that is none of ours."""
    try:
        record = json.loads(text or b"")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _this_process() -> dict[str, Any]:
    """Where this process runs and what tells it from others with its number.

    A machine here is what shares process numbers: one boot of one kernel, one container.
    """
    host = socket.gethostname()
    boot, space = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    return {
        "host": host,
        "machine": f"{host} {boot} {space}",
        "pid": pid,
        "process_start": _process_start(pid),
    }


def _process_start(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None if it is dead or nobody can say."""
    try:
        return _start_in(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except OSError:
        return None


def _start_in(line: str) -> int | None:
    """Field 22 of a line of /proc/PID/stat; None for a process that has ended."""
    # The name, in parentheses, may hold spaces and parentheses itself.
    after = line.rpartition(")")[2].split()
    state, start = after[0], after[19]  # fields 3 and 22
    return None if state in "ZX" else int(start)


def _lives(pid: Any, start: Any) -> bool:
    """Whether the process of this machine with this number, started then, is there."""
    if not isinstance(pid, int):
        return False
    if Path("/proc/self/stat").exists():
        return start is not None and _process_start(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True
