"""Supervision of one attempt at a run: the lock of its workdir, watchdog, ledger of time."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax

from frepo_scale.core.paths import is_local
from frepo_scale.ops.goodput import DIVERGED, FINISHED, PREEMPTED, Ledger
from frepo_scale.ops.lock import WorkdirLock
from frepo_scale.ops.watchdog import Watchdog
from frepo_scale.ops.workdir import STUCK, Workdir
from frepo_scale.parallel.runtime import is_first

_COMPILATION = 3600.0  # seconds the first step may take: a pod's step compiles for ten minutes
_START = 3600.0  # seconds until training starts: large sets are read and whitened


class Supervisor:
    """Lock, ledger and watchdog of an attempt; lock and ledger on process 0 alone.

    A context manager that watches from its begin to its end.

    Attributes:
      ledger: accounts for the time.
    """

    def __init__(self, workdir: Workdir, watchdog_minutes: float) -> None:
        """Starts to count time, and nothing else.

        Args:
          workdir: the workdir of the run.
          watchdog_minutes: minutes without progress after which the process ends; 0: never.
        """
        self._workdir = workdir
        self._lock = WorkdirLock(workdir.lock) if is_first() else None
        self.ledger = Ledger(workdir.ledger if is_first() else None)
        # A process that hangs writes them, so nothing but the local file system may be needed.
        self._stacks: Path | None = None
        if is_local(workdir.root):
            self._stacks = workdir.root / f"{STUCK}{jax.process_index()}.txt"
        self._minutes = watchdog_minutes
        self._watchdog: Watchdog | None = None
        self._longer = contextlib.ExitStack()
        self._diverged = False

    def __enter__(self) -> "Supervisor":
        """Starts the watchdog; until `begin` an hour without progress is allowed."""
        if self._minutes:
            self._watchdog = Watchdog(60.0 * self._minutes, log=self._stacks)
            self._watchdog.start()
            self._longer.enter_context(self._watchdog.allowing(_START))
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self.close()

    def lock(self) -> None:
        """Locks the workdir and removes files left by killed attempts; may be called again.

        Raises:
          InputError: another run that is alive has locked it.
        """
        if self._lock is not None:
            self._lock.acquire()
            self._workdir.remove_leftovers()

    def check_lock(self) -> None:
        """Raises RunError if another run has locked the workdir; call it before writing."""
        if self._lock is not None:
            self._lock.check()

    def begin(self, first_step: int, environment: Mapping[str, str] | None = None) -> None:
        """Records that training starts at this step, in this environment."""
        self._longer.close()
        self.ledger.begin(
            first_step,
            process_count=jax.process_count(),
            device_count=jax.device_count(),
            device_kind=jax.devices()[0].device_kind,
            environment=environment,
        )

    def heartbeat(self) -> None:
        """Reports progress to the watchdog."""
        if self._watchdog is not None:
            self._watchdog.beat()
        self.ledger.tick()

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the watchdog allows a long compilation."""
        if self._watchdog is None:
            return contextlib.nullcontext()
        return self._watchdog.allowing(_COMPILATION)

    def finished(self) -> None:
        """Records that the run is finished."""
        self.ledger.end(FINISHED)

    def preempted(self) -> None:
        """Records that the state is saved and the process ends."""
        self.ledger.end(PREEMPTED)

    def diverged(self) -> None:
        """Records that the run diverged; the caller raises the error."""
        self.ledger.end(DIVERGED)
        self._diverged = True

    def failed(self, error: BaseException) -> None:
        """Records that the attempt ends with an error."""
        if not self._diverged:
            self.ledger.end(f"failed: {error}")

    def close(self) -> None:
        """Stops the watchdog and releases the lock."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._lock is not None:
            self._lock.release()
