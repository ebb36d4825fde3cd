"""Which process the others wait for.

The devices of a run take every step together, so every process measures the same time per step.
What differs is the time that a process needs for itself: until it has its target batch, and to
dispatch the step. A slow disk, a slow network or a busy machine shows in it. The time of the
devices does not: a slow device slows all processes alike and is not named.
"""

import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from frepo_scale.parallel.runtime import exchange, is_first

_FACTOR = 2.0  # a slow process needs this many times the median of the others
_SHARE = 0.2  # and the difference is this share of a step: less is hidden behind the devices
_LEAST_STEPS = 8
_SAY_SECONDS, _ROW_SECONDS = 600.0, 60.0


def hosts() -> list[str]:
    """The names of the hosts of all processes, in their order; collective."""
    # Not above: `status` uses this module and must not import JAX.
    from frepo_scale.parallel.share import gathered

    return gathered(socket.gethostname())


class Stragglers:
    """Compares the processes' own time per step, and names one that is slow twice in a row."""

    def __init__(
        self,
        hosts: Sequence[str],
        say: Callable[[str], None],
        write: Callable[[int, Mapping[str, float]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts to count time.

        Args:
          hosts: the names of the hosts of all processes, in their order.
          say: prints a line on process 0; called there, at most every ten minutes.
          write: receives a step and its metrics; called at most every minute.
          clock: a monotonic clock, in seconds.
        """
        self._hosts, self._say, self._write, self._clock = tuple(hosts), say, write, clock
        self._suspect: int | None = None
        self._said = self._wrote = -_SAY_SECONDS
        self._began = 0.0
        self._restart()

    def _restart(self) -> None:
        self._own, self._steps, self._since = 0.0, 0, self._clock()

    def begin(self) -> None:
        """The process starts to prepare a call."""
        self._began = self._clock()

    def end(self, steps: int) -> None:
        """The process has dispatched the call of this many steps."""
        self._own += self._clock() - self._began
        self._steps += steps

    def compare(self, step: int) -> None:
        """Compares the steps since the last call; collective."""
        steps = self._steps
        if len(self._hosts) == 1 or steps < _LEAST_STEPS:  # the same in every process
            return
        whole = (self._clock() - self._since) / steps
        seconds = exchange(self._own / steps)
        self._restart()
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        median = statistics.median(seconds[:slowest] + seconds[slowest + 1 :])
        now = self._clock()
        if now - self._wrote >= _ROW_SECONDS:
            self._wrote = now
            row = {"slowest_process": slowest, "slowest_process_seconds": seconds[slowest]}
            self._write(step, row | {"other_processes_seconds": median})
        if not is_slow(seconds[slowest], median, whole):
            self._suspect = None
        elif slowest != self._suspect:
            self._suspect = slowest
        elif is_first() and now - self._said >= _SAY_SECONDS:
            self._said = now
            self._say(
                f"frepo-scale: step {step}: process {slowest} on {self._hosts[slowest]} needs"
                f" {seconds[slowest]:.3g} s for the batch and the dispatch of a step, the others"
                f" {median:.3g} s: they wait for it"
            )


def is_slow(seconds: float, median: float, step_seconds: float) -> bool:
    """Whether a process makes the others wait.

    Args:
      seconds: what it needs for itself per step.
      median: what the others need.
      step_seconds: duration of a step.
    """
    return seconds > _FACTOR * median and seconds - median > _SHARE * step_seconds
