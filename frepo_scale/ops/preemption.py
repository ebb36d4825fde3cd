"""Noticing that somebody wants the process to stop, in every loop of the program."""

import signal
from types import FrameType

PREEMPTED_EXIT = 42
INTERRUPTED_EXIT = 130


class Preempted(Exception):
    """Raised in the middle of work that can be repeated, once a stop was asked for."""


class Preemption:
    """A sticky flag set by SIGTERM, or by the first Ctrl-C; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        """Nothing is installed before `install`."""
        self._signal: int | None = None

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT; main thread only."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._signal is None:
            self._signal = number

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for; once true, always true."""
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """42 (restart me) after SIGTERM, 130 (the user stopped it) after Ctrl-C."""
        return INTERRUPTED_EXIT if self._signal == signal.SIGINT else PREEMPTED_EXIT

    def check(self) -> None:
        """Raises Preempted if a stop was asked for."""
        if self.requested:
            raise Preempted
