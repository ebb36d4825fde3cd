"""Where the time of a run went, over all its attempts, and how much of it was lost.

Every attempt writes one file `attempt-0001.json`, numbered on from what is there, whole each time:
that works on stores without appending, and a kill never damages it. Times are in seconds; those
of day are Unix times (UTC).
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, read_bytes

CATEGORIES = ("compile", "data", "step", "probe", "checkpoint", "evaluation", "other")
FINISHED, PREEMPTED, DIVERGED = "finished", "preempted", "diverged"
_REWRITE_SECONDS = 30.0
_FILE = "attempt-{:04d}.json"
_NUMBER = re.compile(r"attempt-(\d{4,})\.json")


@dataclass(frozen=True)
class Attempt:
    """One attempt, as its file has it.

    Attributes:
      started: when it began, a Unix time.
      alive: its last sign of life; `started` plus a duration, whatever the clock did meanwhile.
      ended: when it ended; None if it still runs or was killed.
      reason: "finished", "preempted", "diverged" or "failed: ..."; None like `ended`.
      first_step: the step it began at.
      last_step: the last step it saved; None if it saved none.
      process_count: processes.
      device_count: devices of all processes.
      device_kind: what they are.
      seconds: by category; together they are `alive - started`.
      saved_seconds: the same as of the last save, all zero without one: what is not lost.
    """

    started: float
    alive: float
    ended: float | None
    reason: str | None
    first_step: int
    last_step: int | None
    process_count: int
    device_count: int
    device_kind: str
    seconds: Mapping[str, float]
    saved_seconds: Mapping[str, float]

    def kept_seconds(self) -> Mapping[str, float]:
        """By category, what need not be repeated: all of a finished attempt, else up to its save.

        A checkpoint older than the last one, taken because that is damaged, is not accounted for.
        """
        return self.seconds if self.reason == FINISHED else self.saved_seconds


class Ledger:
    """Keeps the account of one attempt; one thread, and of several processes the first one only.

    Time counts from construction on, the file is there from `begin` on. It is written again at
    every save and, while the account is in use, about every 30 s. A write that fails is let go:
    bookkeeping must not end a run, and the checkpoints meet the same disk.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts to count.

        Args:
          folder: where attempts lie; None keeps no account.
          clock: the time of day, read once.
          timer: seconds that never go back.
        """
        self._folder, self._timer = folder, timer
        self._started, self._origin = clock(), timer()
        self._mark = self._written = self._origin
        self._category = "other"
        self._seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._saved_seconds = dict(self._seconds)
        self._last_step: int | None = None
        self._path: Path | None = None
        self._facts: dict[str, Any] = {}
        self._first_start = self._started  # of all attempts
        self._earlier = dict.fromkeys((*CATEGORIES, "lost", "kept_step"), 0.0)

    def begin(
        self,
        first_step: int,
        *,
        process_count: int = 1,
        device_count: int = 1,
        device_kind: str = "",
    ) -> None:
        """Opens the attempt's file, with a number of its own."""
        if self._folder is None:
            return
        number = 1 + max(_numbered(self._folder), default=0)
        for attempt in read_ledger(self._folder).attempts:
            self._first_start = min(self._first_start, attempt.started)
            kept = attempt.kept_seconds()
            for category in CATEGORIES:
                self._earlier[category] += attempt.seconds[category]
                self._earlier["lost"] += attempt.seconds[category] - kept[category]
            self._earlier["kept_step"] += kept["step"]
        self._path = self._folder / _FILE.format(number)
        self._facts = {
            "first_step": first_step,
            "process_count": process_count,
            "device_count": device_count,
            "device_kind": device_kind,
        }
        self._write()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """Counts the block's time for `category`; what an inner block takes, the outer does not."""
        if category not in CATEGORIES:
            raise ValueError(f"{category!r} is none of {', '.join(CATEGORIES)}")
        outer = self._turn_to(category)
        try:
            yield
        finally:
            self._turn_to(outer)

    def tick(self) -> None:
        """Writes the file if that was about 30 s ago; costs next to nothing otherwise."""
        if self._timer() - self._written >= _REWRITE_SECONDS:
            self._write()

    def saved(self, step: int) -> None:
        """Says that the work up to here need not be repeated: `step` is committed."""
        self._turn_to(self._category)
        self._last_step, self._saved_seconds = step, dict(self._seconds)
        self._write()

    def goodput(self) -> float:
        """Share of the time since the run's first start that went into steps that count so far."""
        own = self._seconds["step"] + (self._timer() - self._mark) * (self._category == "step")
        wall = self._started + self._timer() - self._origin - self._first_start
        return (self._earlier["kept_step"] + own) / wall if wall > 0 else 0.0

    def totals(self) -> dict[str, float]:
        """Seconds of all attempts so far, as "seconds/step" and so on, and "seconds/lost"."""
        self._turn_to(self._category)
        spent = {c: self._earlier[c] + self._seconds[c] for c in CATEGORIES}
        named = spent | {"lost": self._earlier["lost"]}
        return {f"seconds/{name}": seconds for name, seconds in named.items()}

    def end(self, reason: str) -> None:
        """Closes the account.

        Args:
          reason: "finished", "preempted", "diverged" or "failed: ..." with the error.
        """
        self._write(" ".join(reason.split())[:300])

    def _turn_to(self, category: str) -> str:
        """Books the time since the last turn; returns the category it was."""
        now = self._timer()
        before = self._category
        self._seconds[before] += now - self._mark
        self._mark, self._category = now, category
        if now - self._written >= _REWRITE_SECONDS:
            self._write()
        return before

    def _write(self, reason: str | None = None) -> None:
        now = self._timer()
        self._seconds[self._category] += now - self._mark
        self._mark = self._written = now
        if self._path is None:
            return
        alive = self._started + now - self._origin
        attempt = Attempt(
            started=self._started,
            alive=alive,
            ended=None if reason is None else alive,
            reason=reason,
            last_step=self._last_step,
            seconds=self._seconds,
            saved_seconds=self._saved_seconds,
            **self._facts,
        )
        with contextlib.suppress(InputError), whole_file(self._path) as file:
            file.write((json.dumps(asdict(attempt), indent=1) + "\n").encode())


@dataclass(frozen=True)
class History:
    """The attempts of a run in their order, and how many files could not be read."""

    attempts: tuple[Attempt, ...]
    damaged: int


def read_ledger(folder: Path) -> History:
    """What the attempts of a run have left; nothing if there is no such folder."""
    attempts, damaged = [], 0
    for number in sorted(_numbered(folder)):
        try:
            attempts.append(_parse(read_bytes(folder / _FILE.format(number))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            damaged += 1
    return History(tuple(attempts), damaged)


def summary(history: History) -> dict[str, Any]:
    """The account of a run, over all its attempts.

    Returns:
      attempts and damaged: how many.
      wall: seconds from the first start to the last sign of life.
      between: those of them in no attempt, waiting for machines.
      seconds: by category, of all attempts.
      lost: seconds of attempts after their last save, unless they finished: work to repeat.
      goodput: seconds of steps that were kept over `wall`; 0 if that is 0.
    """
    attempts = history.attempts
    seconds = {c: sum(a.seconds[c] for a in attempts) for c in CATEGORIES}
    spent = sum(seconds.values())
    wall = 0.0
    if attempts:
        wall = max(a.alive for a in attempts) - min(a.started for a in attempts)
    wall = max(wall, spent)  # clocks of different machines may have them overlap
    kept = [a.kept_seconds() for a in attempts]
    return {
        "attempts": len(attempts),
        "damaged": history.damaged,
        "wall": wall,
        "between": wall - spent,
        "seconds": seconds,
        "lost": spent - sum(sum(k.values()) for k in kept),
        "goodput": sum(k["step"] for k in kept) / wall if wall else 0.0,
    }


def _numbered(folder: Path) -> list[int]:
    try:
        names = [path.name for path in children(folder)]
    except OSError:
        return []
    return [int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))]


def _parse(text: bytes) -> Attempt:
    """Raises one of several errors if this is not what a ledger wrote."""
    record = json.loads(text)
    attempt = Attempt(**{field.name: record[field.name] for field in fields(Attempt)})
    for seconds in (attempt.seconds, attempt.saved_seconds):
        numbers = [seconds[c] for c in CATEGORIES]
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError("not durations")
    if not math.isfinite(attempt.started) or not attempt.alive >= attempt.started:
        raise ValueError("not times")
    return attempt
