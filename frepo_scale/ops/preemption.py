"""Polling for a request to stop, in every loop of the program.

One process acts on a signal at its next poll. Several processes must stop at the same point of
their work; otherwise those that continue wait in a collective for those that left. JAX notifies all
processes of a SIGTERM to any of them, and they agree on the number of a poll, counted from the
start of the process, at which the flag becomes true in all of them. There is therefore one counter
in a process, every process must poll the same number of times, and whether a poll happens must not
depend on anything that only one process knows.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from frepo_scale.core.errors import Preempted
from frepo_scale.parallel import notice, runtime
from frepo_scale.parallel.ending import INTERRUPTED_EXIT, PREEMPTED_EXIT, may_leave

_NOTICE_SECONDS = 0.5  # between two questions to JAX's service


class _SharedFlag:
    """The flag of several processes; one in each process, because JAX has one counter."""

    def __init__(self) -> None:
        self._polls = 0
        self._stop: int | None = None
        self.interrupted = False

    def poll(self) -> int | None:
        """The signal to stop for, from the same poll on in all processes; None before."""
        if self._stop is None:
            from jax.experimental import multihost_utils

            self._polls += 1
            # JAX answers True at one poll only, so the answer is stored. Until then the count
            # continues over all loops.
            if multihost_utils.reached_preemption_sync_point(self._polls):
                all_preempted = runtime.all_true(not self.interrupted)
                self._stop = signal.SIGTERM if all_preempted else signal.SIGINT
        return self._stop


_SHARED_FLAG = _SharedFlag()


class Preemption:
    """A sticky flag set by SIGTERM or by the first Ctrl-C; a second Ctrl-C stops at once.

    With several processes the flag becomes true in each at the same poll, about a second after the
    signal; see the module.
    """

    def __init__(self, on_poll: Callable[[], None] | None = None) -> None:
        """Creates the flag; no signal handler changes before `install`.

        Args:
          on_poll: called at every poll, for example to tell a watchdog that the process works.
        """
        self._signal: int | None = None
        self._several = False
        self._on_poll = on_poll

    def install(self) -> None:
        """Handles SIGTERM, SIGINT and SIGHUP; main thread only, after `runtime.initialize`.

        SIGHUP, which a terminal sends when it is closed, counts as SIGTERM, unless it is ignored
        from the start, as under nohup.
        """
        self._several = runtime.process_count() > 1
        signal.signal(signal.SIGINT, self._note)
        # With several processes JAX handles SIGTERM, and a handler here would replace JAX's.
        if not self._several:
            signal.signal(signal.SIGTERM, self._note)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda number, frame: signal.raise_signal(signal.SIGTERM))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._several:
                _SHARED_FLAG.interrupted = True
                notice.note_interrupt()  # for `leaving_at_once`
                signal.raise_signal(signal.SIGTERM)
                return
        if self._signal is None:
            self._signal = number

    @property
    def requested(self) -> bool:
        """Whether a stop was requested; once true, always true.

        With several processes every read is a poll that counts (see the module), and the poll at
        which the flag becomes true is a collective.
        """
        if self._on_poll is not None:
            self._on_poll()
        if self._signal is None and self._several:
            self._signal = _SHARED_FLAG.poll()
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """42 (restart) after SIGTERM, 130 (stopped by the user) after Ctrl-C in any process."""
        return INTERRUPTED_EXIT if self._signal == signal.SIGINT else PREEMPTED_EXIT

    @contextlib.contextmanager
    def leaving_at_once(self, leave: Callable[[int], None]) -> Iterator[None]:
        """A context in which there is nothing to save, so a stop need not wait for a poll.

        Python handles signals in the main thread, between its instructions, so not before a long
        call such as a compilation returns. Here another thread acts on them. With several processes
        each leaves when it learns of a signal to any of them, within two seconds: they need not
        stop at the same point if nothing is lost. Where the process is not this program's alone,
        signals are handled as always.

        Args:
          leave: ends the process with an exit code; called in another thread.

        Raises:
          Preempted: a stop was requested before.
        """
        if not may_leave():
            yield
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        # The interpreter writes the number of each signal it handles, as soon as it arrives.
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        watch = _watch_all if self._several else _watch_own
        thread = threading.Thread(target=watch, args=(read, leave), name="signals", daemon=True)
        thread.start()
        try:
            if self._signal is not None:
                raise Preempted
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(write)
            thread.join()
            os.close(read)

    def check(self) -> None:
        """Polls like `requested`, and raises Preempted if a stop was requested."""
        if self.requested:
            raise Preempted


def _watch_own(read: int, leave: Callable[[int], None]) -> None:
    """Acts on the numbers of signals that arrive at the descriptor, until it is closed."""
    while number := os.read(read, 1):
        if number[0] == signal.SIGINT:
            leave(INTERRUPTED_EXIT)
        elif number[0] in (signal.SIGTERM, signal.SIGHUP):
            leave(PREEMPTED_EXIT)


def _watch_all(read: int, leave: Callable[[int], None]) -> None:
    """The same for one of several processes; JAX handles SIGTERM and tells all of them of it."""
    arrived = select.poll()  # select.select refuses descriptors above 1023
    arrived.register(read, select.POLLIN)
    while True:
        if arrived.poll(1000 * _NOTICE_SECONDS):
            number = os.read(read, 1)
            if not number:
                return
            if number[0] == signal.SIGINT:
                notice.note_interrupt()
            if number[0] in (signal.SIGINT, signal.SIGHUP):  # as its handler will do
                os.kill(os.getpid(), signal.SIGTERM)
        stop = notice.noticed()
        if stop is not None:
            leave(INTERRUPTED_EXIT if stop == signal.SIGINT else PREEMPTED_EXIT)
            return
