"""Noticing that somebody wants the process to stop, in every loop of the program.

One process sees a signal at its next look. Several must stop at the same point of their work, or
those that go on wait in a collective for those that left: JAX tells all of them of a SIGTERM to any
of them, and they agree on the number of the look, counted from the start of the process, at which
the flag becomes true everywhere. So there is one counter in a process, every process must look the
same number of times, and no look may depend on what only one process knows.
"""

import signal
from collections.abc import Callable
from types import FrameType

from frepo_scale.core.errors import Preempted
from frepo_scale.parallel import runtime
from frepo_scale.parallel.ending import INTERRUPTED_EXIT, PREEMPTED_EXIT


class _Several:
    """What several processes agree on; one of it in a process, because JAX has one count."""

    def __init__(self) -> None:
        self._looks = 0
        self._stop: int | None = None
        self.interrupted = False

    def look(self) -> int | None:
        """The signal to stop for, from the same look on everywhere."""
        if self._stop is None:
            from jax.experimental import multihost_utils

            self._looks += 1
            # True at one look only: it is kept, and the count goes on over all loops until then.
            if multihost_utils.reached_preemption_sync_point(self._looks):
                all_preempted = runtime.all_true(not self.interrupted)
                self._stop = signal.SIGTERM if all_preempted else signal.SIGINT
        return self._stop


_SEVERAL = _Several()


class Preemption:
    """A sticky flag set by SIGTERM, or by the first Ctrl-C; a second Ctrl-C stops at once.

    With several processes the signal reaches the flag of each at the same look, about a second
    later; see the module.
    """

    def __init__(self, on_poll: Callable[[], None] | None = None) -> None:
        """Installs nothing before `install`.

        Args:
          on_poll: called at every poll.
        """
        self._signal: int | None = None
        self._several = False
        self._on_poll = on_poll

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT; main thread only, after `runtime.initialize`."""
        self._several = runtime.process_count() > 1
        signal.signal(signal.SIGINT, self._note)
        if not self._several:  # JAX listens for it there; a handler here would make it deaf
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._several:
                _SEVERAL.interrupted = True
                signal.raise_signal(signal.SIGTERM)
                return
        if self._signal is None:
            self._signal = number

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for; once true, always true.

        With several processes this is a look that counts (see the module), and the one that finds
        the flag set is collective.
        """
        if self._on_poll is not None:
            self._on_poll()
        if self._signal is None and self._several:
            self._signal = _SEVERAL.look()
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """42 (restart me) after SIGTERM, 130 (the user stopped it) after Ctrl-C at any process."""
        return INTERRUPTED_EXIT if self._signal == signal.SIGINT else PREEMPTED_EXIT

    def check(self) -> None:
        """Raises Preempted if a stop was asked for; a look like `requested`."""
        if self.requested:
            raise Preempted
