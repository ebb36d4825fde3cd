"""The lock of a workdir: one live run at a time; the workdir of a dead run is taken over.

The lock is one small file that is always replaced as a whole, so it needs neither file locks nor
appending.

*Is the holder alive?* On the same machine its process answers at once: by its process ID and its
start time, because IDs are reused. From another machine only the file answers: a live holder renews
it every 30 s, so the holder of a file that does not change for 90 s is dead. The content is
compared with itself; a time in it is never compared with a clock, because clocks differ and jump.

*Which of two runs that start together gets it?* Each reads the file, replaces it, waits much longer
than that took, and reads it again. Only the last writer finds its own record. If one stalled
between reading and writing for longer than the other waited, both continue until the earlier one
renews the file, finds the other's record and stops.
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

_POLL_SECONDS = 1.0  # while watching the record of another machine
_MIN_SETTLE_SECONDS = 0.25  # between writing and reading again
_SETTLE_FACTOR = 10.0  # of the time from reading to the end of writing


class WorkdirLock:
    """The exclusive right of this process to write a workdir, until `release` or its end."""

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
        """Creates the lock without taking it; see `acquire`.

        Args:
          path: the lock file, in the workdir.
          renew_every: seconds between renewals.
          takeover_after: seconds without a renewal after which a holder on another machine is dead.
          clock: the time of day as a Unix time, recorded for people to read.
          timer: a monotonic clock, in seconds.
          sleep: waits for a number of seconds.
        """
        self._path, self._clock, self._timer, self._sleep = path, clock, timer, sleep
        self._renew_every, self._takeover_after = renew_every, takeover_after
        self._token = uuid.uuid4().hex
        self._started = clock()
        self._renewals = 0
        self._renewed = timer()
        self._lost = False
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock; does nothing if this process holds it.

        Raises:
          InputError: a live run holds it, another run took it at the same moment, or the file
            cannot be read.
        """
        if self._thread is not None:
            return
        while True:
            found = self._read()
            if found is not None:
                self._refuse_if_alive(found)
            began = self._timer()
            if self._replace(found):
                break
        self._sleep(max(_MIN_SETTLE_SECONDS, _SETTLE_FACTOR * (self._timer() - began)))
        record = _record(self._read())
        if record.get("token") != self._token:
            raise self._in_use(record)
        self._renewed = self._timer()
        self._thread = threading.Thread(target=self._keep_renewing, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Checks that no other run has taken the workdir; call it before writing there.

        A process that was suspended for longer than `takeover_after` reads the file again.

        Raises:
          RunError: another run has taken it.
        """
        if self._thread is not None and self._timer() - self._renewed > self._takeover_after:
            self.renew()
        if self._lost:
            raise RunError(
                f"workdir {self._path.parent} was taken over by another run while this one was"
                " suspended; the other run continues and this one stops"
            )

    def release(self) -> None:
        """Removes the lock file; does nothing if this process does not hold the lock."""
        self._released.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        # An error of the store must not change how the run ends: the file is then a dead run's.
        with contextlib.suppress(OSError, InputError):
            if _record(self._read()).get("token") == self._token:
                remove(self._path)

    def renew(self) -> None:
        """Writes the file anew, or notes that another run has taken the workdir.

        Errors of the store are ignored: the next renewal may succeed. If none does, the file stays
        as it is and another run may take over.
        """
        with contextlib.suppress(InputError):
            while not self._lost:
                found = self._read()
                if found is not None and _record(found).get("token") != self._token:
                    self._lost = True
                elif self._replace(found):
                    break
            self._renewed = self._timer()

    def _keep_renewing(self) -> None:
        while not self._lost and not self._released.wait(self._renew_every):
            self.renew()

    def _replace(self, expected: bytes | None) -> bool:
        """Replaces the content `expected` by our record; False, without a change, if it differs."""
        self._renewals += 1
        record = _this_process() | {
            "token": self._token,
            "started": self._started,
            "renewed": self._clock(),
            "renewals": self._renewals,  # changes even if the clock jumps back
        }
        try:
            with whole_file(self._path) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())
                if is_local(self._path):
                    file.flush()
                    os.fsync(file.fileno())  # slow, so before reading the old content and not after
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
                "the lock file of the run that uses the workdir",
                "choose another folder with --workdir",
            ) from error

    def _refuse_if_alive(self, found: bytes) -> None:
        record, own = _record(found), _this_process()
        if own["machine"] == record.get("machine"):
            if _is_alive(record.get("pid"), record.get("process_start")):
                raise self._in_use(record)
            return
        print(
            f"frepo-scale: workdir {self._path.parent} was used by process {record.get('pid')} on"
            f" {record.get('host')}; waiting up to {self._takeover_after:.0f} s to see whether it"
            " is still running",
            file=sys.stderr,
            flush=True,
        )
        waited = 0.0
        while waited < self._takeover_after:
            self._sleep(_POLL_SECONDS)
            waited += _POLL_SECONDS
            now = self._read()
            if now is None:
                return  # released
            if now != found:
                raise self._in_use(_record(now))

    def _in_use(self, record: dict[str, Any]) -> InputError:
        pid, host = record.get("pid"), record.get("host")
        if not isinstance(pid, int):  # the file has no record that can be read
            return InputError(
                f"workdir {self._path.parent} is in use: another process writes {self._path}",
                "a workdir that no other run uses",
                "wait for it to end, or choose another folder with --workdir",
            )
        since = ""
        with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
            started = datetime.fromtimestamp(record.get("started"), UTC)  # type: ignore[arg-type]
            since = f" since {started:%Y-%m-%d %H:%M:%S} UTC"
        stop = f"stop it with `kill {pid}` on {host}"
        if record.get("kubernetes"):  # a process ID says nothing outside of its pod
            stop = f"delete the JobSet or Job of the pod {host} (it saves)"
        return InputError(
            f"workdir {self._path.parent} is in use by process {pid} on {host}{since}",
            "a workdir that no other run uses",
            f"wait for it to end, {stop}, or choose another folder with --workdir",
        )


def holder(path: Path) -> tuple[dict[str, Any], bool | None]:
    """The record in the lock file of a workdir, and whether its process lives.

    Args:
      path: the lock file; the record is empty if there is none.

    Returns:
      The record, with "host", "pid" and "renewed" (a Unix time); and whether its process lives,
      None if it is of another machine.

    Raises:
      InputError: the file cannot be read.
    """
    record = _record(WorkdirLock(path)._read())
    if record.get("machine") != _this_process()["machine"]:
        return record, None if record else False
    return record, _is_alive(record.get("pid"), record.get("process_start"))


class _Changed(Exception):
    """The lock file changed between reading and writing."""


def _record(text: bytes | None) -> dict[str, Any]:
    """The parsed lock file; empty if it is not one."""
    try:
        record = json.loads(text or b"")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _this_process() -> dict[str, Any]:
    """Host, machine, process ID and start time, which together identify this process.

    "machine" identifies what shares process IDs: one boot of one kernel, one PID namespace.
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
        "kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
    }


def _process_start(pid: int) -> int | None:
    """When a process started, in kernel ticks; None if it is dead or the system does not say."""
    try:
        return _start_in(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except OSError:
        return None


def _start_in(line: str) -> int | None:
    """Field 22 of /proc/PID/stat; None for a process that has ended."""
    # The name, in parentheses, may itself contain spaces and parentheses.
    after = line.rpartition(")")[2].split()
    state, start = after[0], after[19]  # fields 3 and 22
    return None if state in "ZX" else int(start)


def _is_alive(pid: Any, start: Any) -> bool:
    """Whether this machine runs a process with this ID that started then."""
    if not isinstance(pid, int):
        return False
    if Path("/proc/self/stat").exists():
        return start is not None and _process_start(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True
