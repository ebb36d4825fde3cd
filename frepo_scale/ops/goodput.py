"""The time of a run by category, over all its attempts, and how much of it was lost.

Every attempt writes one file, `attempt-0001.json` and so on, and always replaces it as a whole:
that works on object stores, and a kill does not damage it. Durations are in seconds; times of day
are Unix times (UTC).
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, read_bytes

CATEGORIES = (
    *("start", "restore", "compile", "data", "step", "probe", "checkpoint", "evaluation", "other"),
)
SLOT_SECONDS = 600
_SLOTS = 6 * 25  # a little more than a day
FINISHED, PREEMPTED, DIVERGED = "finished", "preempted", "diverged"
_REWRITE_SECONDS = 30.0
_FILE = "attempt-{:04d}.json"
_NUMBER = re.compile(r"attempt-(\d{4,})\.json")


@dataclass(frozen=True)
class Attempt:
    """One attempt, as recorded in its file.

    Attributes:
      started: when it started, a Unix time.
      alive: when the file was last written: `started` plus a monotonic duration.
      ended: when it ended; None if it is still running or was killed.
      reason: "finished", "preempted", "diverged" or "failed: ..."; None if `ended` is None.
      first_step: the step at which it started.
      last_step: the last step it saved; None if it saved none.
      process_count: the number of processes.
      device_count: the number of devices of all processes.
      device_kind: the kind of device.
      seconds: duration by category; the sum is `alive - started`.
      saved_seconds: `seconds` at the last save, all zero without a save.
      environment: see `parallel.environment`; empty in attempts of earlier versions.
      recent: duration by category in each slot of ten minutes of the last day; the key is the Unix
        time over `SLOT_SECONDS`, as text. Empty in attempts of earlier versions.
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
    environment: Mapping[str, str] = field(default_factory=dict)
    recent: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def kept_seconds(self) -> Mapping[str, float]:
        """Duration by category of work that need not be repeated.

        That is all of a finished attempt, otherwise its work up to the last save. A later attempt
        that resumes from an older checkpoint, because the last is damaged, does not change it.
        """
        return self.seconds if self.reason == FINISHED else self.saved_seconds


class Ledger:
    """Records the time of one attempt; used by one thread, and by the first process only.

    Time counts from construction. The file exists after `begin`; it is written again at every save
    and, while the ledger is used, about every 30 s. Failed writes are ignored: they must not end a
    run, and a failing disk also fails the checkpoints.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts to count time.

        Args:
          folder: the folder of the attempts' files; None: no file is written.
          clock: the time of day as a Unix time, read once.
          timer: a monotonic clock, in seconds.
        """
        self._folder, self._timer = folder, timer
        self._started, self._origin = clock(), timer()
        self._mark = self._written = self._origin
        self._category = "start"
        self._seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._recent: dict[int, dict[str, float]] = {}
        self._saved_seconds = dict(self._seconds)
        self._last_step: int | None = None
        self._begun: tuple[int, dict[str, float]] | None = None  # a save that may still fail
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
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Creates the attempt's file, with the next free number."""
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
        self._turn_to("other")
        self._path = self._folder / _FILE.format(number)
        self._facts = {
            "first_step": first_step,
            "process_count": process_count,
            "device_count": device_count,
            "device_kind": device_kind,
            "environment": dict(environment or {}),
        }
        self._write()

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """Counts the block's time for `category`, without the time of inner blocks."""
        if category not in CATEGORIES:
            raise ValueError(f"{category!r} is not one of {', '.join(CATEGORIES)}")
        outer = self._turn_to(category)
        try:
            yield
        finally:
            self._turn_to(outer)

    def tick(self) -> None:
        """Writes the file if the last write is about 30 s old; otherwise costs almost nothing."""
        if self._timer() - self._written >= _REWRITE_SECONDS:
            self._write()

    @property
    def save_pending(self) -> bool:
        """Whether a save has begun and is not known to be complete."""
        return self._begun is not None

    def saving(self, step: int) -> None:
        """Records that a save of `step` has begun; `committed` makes it count.

        A save waits for the one before, which is therefore committed.
        """
        self.committed()
        self._count()
        self._begun = (step, dict(self._seconds))

    def committed(self) -> None:
        """Records that the save is complete: work up to its begin need not be repeated."""
        if self._begun is not None:
            (self._last_step, self._saved_seconds), self._begun = self._begun, None
            self._write()

    def goodput(self) -> float:
        """Time of steps that need not be repeated so far, over the time since the first start."""
        own = self._seconds["step"] + (self._timer() - self._mark) * (self._category == "step")
        wall = self._started + self._timer() - self._origin - self._first_start
        return (self._earlier["kept_step"] + own) / wall if wall > 0 else 0.0

    def totals(self) -> dict[str, float]:
        """Seconds of all attempts so far, by category ("seconds/step", ...), and "seconds/lost"."""
        self._count()
        spent = {c: self._earlier[c] + self._seconds[c] for c in CATEGORIES}
        named = spent | {"lost": self._earlier["lost"]}
        return {f"seconds/{name}": seconds for name, seconds in named.items()}

    def end(self, reason: str) -> None:
        """Records the end of the attempt.

        Args:
          reason: "finished", "preempted", "diverged" or "failed: ..." with the error.
        """
        self._write(" ".join(reason.split())[:300])

    def _turn_to(self, category: str) -> str:
        """Adds the time since the last change to its category; returns that category."""
        now, before = self._count(), self._category
        self._category = category
        if now - self._written >= _REWRITE_SECONDS:
            self._write()
        return before

    def _count(self) -> float:
        """Adds the time since the last count to its category; returns the timer."""
        now, category = self._timer(), self._category
        self._seconds[category] += now - self._mark
        begin, end = (self._started + at - self._origin for at in (self._mark, now))
        self._mark = now
        newest = int(end // SLOT_SECONDS)
        for slot in range(max(int(begin // SLOT_SECONDS), newest - _SLOTS + 1), newest + 1):
            part = min(end, (slot + 1) * SLOT_SECONDS) - max(begin, slot * SLOT_SECONDS)
            if part > 0:
                spent = self._recent.setdefault(slot, {})
                spent[category] = spent.get(category, 0.0) + part
        return now

    def _write(self, reason: str | None = None) -> None:
        now = self._written = self._count()
        kept = sorted(self._recent)[-_SLOTS:]
        self._recent = {slot: self._recent[slot] for slot in kept}
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
            recent={
                str(slot): {category: round(part, 3) for category, part in spent.items()}
                for slot, spent in self._recent.items()
            },
            **self._facts,
        )
        with contextlib.suppress(InputError), whole_file(self._path) as file:
            file.write((json.dumps(asdict(attempt), indent=1) + "\n").encode())


@dataclass(frozen=True)
class History:
    """The attempts of a run in order, and the number of files that could not be read."""

    attempts: tuple[Attempt, ...]
    damaged: int


def read_ledger(folder: Path) -> History:
    """Reads the attempts of a run; none if the folder does not exist."""
    attempts, damaged = [], 0
    for number in sorted(_numbered(folder)):
        try:
            attempts.append(_parse(read_bytes(folder / _FILE.format(number))))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            damaged += 1
    return History(tuple(attempts), damaged)


def _numbered(folder: Path) -> list[int]:
    try:
        names = [path.name for path in children(folder)]
    except OSError:
        return []
    return [int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))]


def _parse(text: bytes) -> Attempt:
    """Parses an attempt's file; raises one of several errors if it is damaged."""
    record = json.loads(text)
    for name in ("environment", "recent"):  # not in files of earlier versions, as some categories
        record.setdefault(name, {})
    for name in ("start", "restore"):
        for seconds in (record["seconds"], record["saved_seconds"]):
            if seconds:
                seconds.setdefault(name, 0.0)
    attempt = Attempt(**{one.name: record[one.name] for one in fields(Attempt)})
    if not isinstance(attempt.environment, dict):
        raise ValueError("the environment must be an object")
    totals = [
        [seconds[c] for c in CATEGORIES] for seconds in (attempt.seconds, attempt.saved_seconds)
    ]
    for slot, spent in attempt.recent.items():
        if not (slot.isdecimal() and spent.keys() <= set(CATEGORIES)):
            raise ValueError("a slot must be a number with durations by category")
    for numbers in (*totals, *(list(spent.values()) for spent in attempt.recent.values())):
        if not all(math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError("durations must be finite and not negative")
    if not math.isfinite(attempt.started) or not attempt.alive >= attempt.started:
        raise ValueError("times must be finite and in order")
    return attempt
