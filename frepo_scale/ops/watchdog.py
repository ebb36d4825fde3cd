"""Ends a process in which nothing happens any more, so that it is started again.

A hung collective or a lost file server raises nothing and never ends. A thread looks whether the
work still gives signs of life; if not, it leaves the stacks of all threads and ends the process
with 42, "restart me".

That thread needs the interpreter lock. Waiting in a collective or for a file releases it, but a
deadlock can hold it for good. Against that the thread keeps setting the alarm clock of the kernel
further ahead: if it no longer can, SIGALRM ends the process (142 in a shell, restarted like any
death by a signal) after faulthandler, in C, has written the stacks. faulthandler's own timer
would end it with 1, which means a bug that no restart helps.

A process that was stopped (SIGSTOP, Ctrl-Z) for longer than its limit ends when it continues.
"""

import contextlib
import faulthandler
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from frepo_scale.parallel.ending import PREEMPTED_EXIT

_RECENT = 64  # intervals between signs of life
_LONGEST_NAP = 5.0  # seconds between looks
_TO_WRITE = 30  # seconds: the disk or pipe the stacks go to may be what hangs


class Watchdog:
    """Watches for signs of life: `beat` is called wherever work gets on.

    The process may be quiet for `factor` times the median of the recent intervals between beats,
    and always for `limit_seconds`.
    """

    def __init__(
        self,
        limit_seconds: float = 900.0,
        factor: float = 10.0,
        log: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """Watches nothing before `start`.

        Args:
          limit_seconds: silence always allowed.
          factor: silence allowed, in median intervals.
          log: a file for the stacks, beside standard error; replaced.
          clock: seconds that never go back.
          end: ends the process with a code.
        """
        self._limit, self._factor, self._log = limit_seconds, factor, log
        self._clock, self._end = clock, end
        self._nap = min(_LONGEST_NAP, limit_seconds / 10)
        self._intervals: deque[float] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()
        self._last = clock()
        self._allowed = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts to watch, from now; once, and one in a process: there is one alarm clock."""
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        self._last = self._clock()
        self._set_alarm()
        self._thread.start()

    def beat(self) -> None:
        """A sign of life; takes microseconds."""
        now = self._clock()
        with self._lock:
            self._intervals.append(now - self._last)
            self._last = now

    @contextlib.contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        """Allows at least `seconds` of silence in the block: one long compilation, say.

        Its length is not among the intervals the usual limit is made of.
        """
        outer = self._allowed
        with self._lock:
            self._allowed, self._last = max(outer, seconds), self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._allowed, self._last = outer, self._clock()

    def stop(self) -> None:
        """Watches no longer."""
        self._stopped.set()
        self._thread.join()
        signal.alarm(0)
        faulthandler.unregister(signal.SIGALRM)

    def limit(self) -> float:
        """Seconds of silence allowed now."""
        with self._lock:
            usual = statistics.median(self._intervals) if self._intervals else 0.0
            return max(self._limit, self._factor * usual, self._allowed)

    def look(self) -> None:
        """Ends the process if it was quiet for longer than the limit; the thread's own loop."""
        limit = self.limit()
        with self._lock:
            quiet = self._clock() - self._last
        if quiet > limit:
            self._bark(quiet, limit)

    def _watch(self) -> None:
        while not self._stopped.wait(self._nap):
            self.look()
            self._set_alarm()

    def _set_alarm(self) -> None:
        """Well after this thread would have ended the process, if it could."""
        signal.alarm(math.ceil(1.2 * self.limit() + 2 * self._nap))

    def _bark(self, quiet: float, limit: float) -> None:
        signal.alarm(_TO_WRITE)
        line = (
            f"frepo-scale: no sign of life for {quiet:.0f} s ({limit:.0f} s are allowed); this"
            f" process ends with {PREEMPTED_EXIT}: started again it goes on from its last"
            " checkpoint. What its threads were doing:\n"
        )
        # Descriptors, not Python's files: the thread that hangs may hold the lock of one.
        _write_stacks(2, line)
        if self._log is not None:
            with contextlib.suppress(OSError), self._log.open("wb", buffering=0) as file:
                _write_stacks(file.fileno(), line)
        self._end(PREEMPTED_EXIT)


def _write_stacks(descriptor: int, line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(descriptor, line.encode())
    faulthandler.dump_traceback(descriptor, all_threads=True)
