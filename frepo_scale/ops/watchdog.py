"""Ends a process that no longer makes progress, so that it is restarted.

A hung collective or an unreachable file server raises no error and never returns. A thread checks
whether the work still reports progress. If not, it dumps the stacks of all threads and ends the
process with exit code 42, which means "restart".

That thread needs the interpreter lock. Waiting in a collective or for a file releases the lock, but
a deadlock may hold it forever. For that case the thread repeatedly postpones the kernel's alarm
clock. If it cannot, SIGALRM ends the process (142 in a shell; launch/supervise.sh restarts it)
after faulthandler, in C, has written the stacks. faulthandler's own timer would exit with 1, which
means an error that a restart does not help.

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

_RECENT = 64  # intervals between beats
_MAX_POLL_SECONDS = 5.0
_DUMP_SECONDS = 30  # to write the stacks: the disk or pipe they go to may be what hangs


class Watchdog:
    """Ends the process if `beat` is not called for too long.

    The limit is `factor` times the median of the recent intervals between beats, and at least
    `limit_seconds`.
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
        """Creates the watchdog; it starts with `start`.

        Args:
          limit_seconds: the shortest limit, in seconds without a beat.
          factor: the limit in median intervals between beats.
          log: a file for the stacks, in addition to standard error; replaced.
          clock: a monotonic clock, in seconds.
          end: ends the process with an exit code.
        """
        self._limit, self._factor, self._log = limit_seconds, factor, log
        self._clock, self._end = clock, end
        self._poll_seconds = min(_MAX_POLL_SECONDS, limit_seconds / 10)
        self._intervals: deque[float] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()
        self._last = clock()
        self._allowed = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread; once, and for one watchdog in a process: there is one alarm clock."""
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        self._last = self._clock()
        self._set_alarm()
        self._thread.start()

    def beat(self) -> None:
        """Reports progress; takes microseconds."""
        now = self._clock()
        with self._lock:
            self._intervals.append(now - self._last)
            self._last = now

    @contextlib.contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        """Allows at least `seconds` without a beat in the block, for example for one compilation.

        The block's duration does not count among the intervals that determine the limit.
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
        """Stops the thread and the alarm clock."""
        self._stopped.set()
        self._thread.join()
        signal.alarm(0)
        faulthandler.unregister(signal.SIGALRM)

    def limit(self) -> float:
        """Seconds without a beat that are allowed now."""
        with self._lock:
            usual = statistics.median(self._intervals) if self._intervals else 0.0
            return max(self._limit, self._factor * usual, self._allowed)

    def poll(self) -> None:
        """Ends the process if the last beat is older than the limit; called by the thread."""
        limit = self.limit()
        with self._lock:
            silent = self._clock() - self._last
        if silent > limit:
            self._dump_stacks(silent, limit)
            self._end(PREEMPTED_EXIT)

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.poll()
            self._set_alarm()

    def _set_alarm(self) -> None:
        """Sets the alarm clock to well after this thread would have ended the process."""
        signal.alarm(math.ceil(1.2 * self.limit() + 2 * self._poll_seconds))

    def _dump_stacks(self, silent: float, limit: float) -> None:
        signal.alarm(_DUMP_SECONDS)
        line = (
            f"frepo-scale: no progress for {silent:.0f} s (limit {limit:.0f} s); this process exits"
            f" with {PREEMPTED_EXIT}. Restart it: the run resumes from its last checkpoint. Stacks"
            " of its threads:\n"
        )
        # Descriptors, not Python's files: the thread that hangs may hold the lock of one.
        _write_stacks(2, line)
        if self._log is not None:
            with contextlib.suppress(OSError), self._log.open("wb", buffering=0) as file:
                _write_stacks(file.fileno(), line)


def _write_stacks(descriptor: int, line: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(descriptor, line.encode())
    faulthandler.dump_traceback(descriptor, all_threads=True)
