"""The division of the outer steps into calls: how many steps the next dispatch does.

A dispatch costs the host about a millisecond, and small sets need less on a GPU. Where the devices
hold the target images, one call therefore does several steps. Batches, losses, rows of metrics,
checkpoints and probes are the same for any division.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.runtime import agree
from frepo_scale.train.config import LoopConfig

_AUTO = 50  # steps of a call on accelerators: the cost of a dispatch is then 2 % of itself
# Up to three calls are ahead of the host when a stop is requested: about a second together.
_CALL_SECONDS = 0.3
_FIRST_LOOK, _LOOK_EVERY = 4, 500  # calls until the speed is measured, at first and at most


def most_steps(asked: int, placement: str, platform: str) -> int:
    """The largest number of steps of one call; 0: each step is a call of its own, with its batch.

    Where the devices hold the images, every number uses the same program, 1 included. So the number
    does not change results.

    Args:
      asked: `STEPS_PER_CALL`.
      placement: of the target images, see `data.placement`.
      platform: of the devices.

    Raises:
      InputError: several steps were asked for, but the devices do not hold the target images.
    """
    if placement == "device":
        # On CPUs a dispatch costs little, and gradients of convolutions are slower inside loops.
        return asked or (1 if platform == "cpu" else _AUTO)
    if asked <= 1:
        return 0
    noise = placement == "constant"
    raise InputError(
        f"STEPS_PER_CALL = {asked} with "
        + ("DATA_SOURCE = 'noise'" if noise else f"DATA_PLACEMENT = {placement!r}"),
        "target images that the devices hold",
        "use " + ("" if noise else "--gin.DATA_PLACEMENT=device or ") + "--gin.STEPS_PER_CALL=0",
    )


class Calls:
    """Decides the number of steps of each call.

    A call ends where something else happens between steps. Its duration is bounded, because a
    request to stop is noticed between calls only: the first calls have one step and are timed.
    Several processes agree on the speed, at the same calls.
    """

    def __init__(
        self, most: int, stops: Callable[[int], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts with calls of one step.

        Args:
          most: as `most_steps` gives it.
          stops: `done -> step`: the next step at which a call has to end.
          clock: seconds.
        """
        self._most, self._stops, self._clock = most, stops, clock
        self._allowed, self._count = 1, 0
        self._look = _FIRST_LOOK
        self._steps, self._seconds = 0, 0.0
        self._since: float | None = None

    def length(self, done: int) -> int:
        """Steps of the call after `done` steps."""
        if self._most <= 1:
            return 1
        return max(1, min(self._allowed, self._stops(done) - done))

    def draw(self, batches: Iterator[Any], length: int) -> Any:
        """The batch of the next call; for several steps, the rows of their batches in a tuple."""
        return tuple(islice(batches, length)) if self._most else next(batches)

    def restart(self) -> None:
        """Leaves the time up to the next finished call out: something else happens in it."""
        self._since = None

    def finished(self, length: int) -> None:
        """Called whenever a call is known to have finished; collective at some calls."""
        if self._most <= 1:
            return
        now, self._count = self._clock(), self._count + 1
        if self._since is not None:
            self._steps, self._seconds = self._steps + length, self._seconds + now - self._since
        self._since = now
        if self._count < self._look:
            return
        fits = self._allowed
        if self._steps:
            fits = int(_CALL_SECONDS * self._steps / max(self._seconds, 1e-9))
        self._allowed = agree(max(1, min(self._most, fits)))
        self._look += min(self._count, _LOOK_EVERY)
        self._steps, self._seconds = 0, 0.0


def next_stop(periods: Sequence[int], steps: Sequence[int]) -> Callable[[int], int]:
    """`done -> step`: the first step after `done` that is a multiple of a period or in `steps`."""

    def following(done: int) -> int:
        multiples = (done // period * period + period for period in periods)
        return min((*multiples, *(step for step in steps if step > done)))

    return following


def calls_of(loop: LoopConfig, most: int, start: int, steps: int) -> Calls:
    """The calls of a run: they end at every row, probe and save, and where a profile begins.

    Args:
      loop: the periods.
      most: as `most_steps` gives it.
      start, steps: outer steps done and to reach.
    """
    periods = (loop.log_every, loop.probe_every, loop.save_every)
    return Calls(most, next_stop(periods, (start + loop.profile_at, steps)))
