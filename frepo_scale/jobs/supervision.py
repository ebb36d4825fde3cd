"""What watches over one attempt at a run: who owns the workdir, is it alive, where does time go."""

import contextlib
from pathlib import Path

import jax

from frepo_scale.core.paths import is_local
from frepo_scale.ops.goodput import DIVERGED, FINISHED, PREEMPTED, Ledger
from frepo_scale.ops.lock import WorkdirLock
from frepo_scale.ops.watchdog import Watchdog
from frepo_scale.ops.workdir import STUCK, Workdir
from frepo_scale.parallel.runtime import is_first

_COMPILATION = 3600.0  # seconds the first step may take: a pod's step compiles for ten minutes
_START = 3600.0  # seconds until the work starts: large sets are read whole and whitened


class Supervision:
    """Owner, ledger and watchdog of an attempt; owner and ledger on process 0 alone.

    Attributes:
      ledger: where the time goes.
    """

    def __init__(self, place: Workdir, watchdog_minutes: float) -> None:
        """Starts nothing but the account of time.

        Args:
          place: the run's workdir.
          watchdog_minutes: silence after which a process is taken for stuck; 0: never.
        """
        self._place = place
        self._owner = WorkdirLock(place.lock) if is_first() else None
        self.ledger = Ledger(place.ledger if is_first() else None)
        # Written by a process that hangs: what takes more than the kernel is left out.
        self._stacks: Path | None = None
        if is_local(place.root):
            self._stacks = place.root / f"{STUCK}{jax.process_index()}.txt"
        self._minutes = watchdog_minutes
        self._watchdog: Watchdog | None = None
        self._patience = contextlib.ExitStack()
        self._given_up = False

    def own(self) -> None:
        """Takes the workdir and tidies it; may be called again.

        Raises:
          InputError: a live run owns it.
        """
        if self._owner is not None:
            self._owner.acquire()
            self._place.remove_leftovers()

    def check_owner(self) -> None:
        """Raises RunError if another run has taken the workdir; to be called before writing."""
        if self._owner is not None:
            self._owner.check()

    def begin(self, first_step: int) -> None:
        """The work starts, at this step."""
        self._patience.close()
        self.ledger.begin(
            first_step,
            process_count=jax.process_count(),
            device_count=jax.device_count(),
            device_kind=jax.devices()[0].device_kind,
        )

    def watch(self) -> None:
        """From now on too long a silence ends the process; until `begin`, it may be an hour."""
        if self._minutes:
            self._watchdog = Watchdog(60.0 * self._minutes, log=self._stacks)
            self._watchdog.start()
            self._patience.enter_context(self._watchdog.allowing(_START))

    def alive(self) -> None:
        """A sign of life."""
        if self._watchdog is not None:
            self._watchdog.beat()
        self.ledger.tick()

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """Inside, a long compilation is no reason for the watchdog."""
        if self._watchdog is None:
            return contextlib.nullcontext()
        return self._watchdog.allowing(_COMPILATION)

    def finished(self) -> None:
        """The result is written."""
        self.ledger.end(FINISHED)

    def preempted(self) -> None:
        """The state is saved, and the process ends."""
        self.ledger.end(PREEMPTED)

    def diverged(self) -> None:
        """The run is given up; the error that says so follows."""
        self.ledger.end(DIVERGED)
        self._given_up = True

    def failed(self, error: BaseException) -> None:
        """The attempt ends with an error."""
        if not self._given_up:
            self.ledger.end(f"failed: {error}")

    def close(self) -> None:
        """Watches no longer and leaves the workdir to others."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._owner is not None:
            self._owner.release()
