"""Where the time of a run went, each second under one kind: the whole run, and its last hours.

*Goodput* is the share of the time since the first start that was spent on outer steps that were
kept. The other kinds are the *badput*: waiting for machines, starting, restoring, compiling, work
that was lost, and so on.
"""

from collections.abc import Mapping

from frepo_scale.ops.goodput import CATEGORIES, FINISHED, SLOT_SECONDS, Attempt, History

LOST, BETWEEN = "lost", "between"
KINDS = (*CATEGORIES, LOST, BETWEEN)


def whole(history: History) -> dict[str, float]:
    """Seconds by kind since the first start; the sum is the time until the last write.

    A category counts work that was kept. "lost" is the work of unfinished attempts after their last
    save, whatever it was; "between" is the time outside of attempts.
    """
    found = dict.fromkeys(KINDS, 0.0)
    for attempt in history.attempts:
        kept = attempt.kept_seconds()
        for category in CATEGORIES:
            found[category] += kept[category]
            found[LOST] += attempt.seconds[category] - kept[category]
    first, last = _ends(history)
    # Attempts may overlap by the clocks of different machines.
    found[BETWEEN] = max(last - first - sum(found.values()), 0.0)
    return found


def recent(history: History, seconds: float) -> dict[str, float] | None:
    """Seconds by kind in the last `seconds` before the last write, to ten minutes.

    None if the run is shorter, or if an attempt of that time was recorded by an earlier version.
    """
    begin, last = _ends(history)
    first = last - seconds
    if begin > first:
        return None
    found = dict.fromkeys(KINDS, 0.0)
    for attempt in history.attempts:
        if attempt.alive <= first:
            continue
        if not attempt.recent:
            return None
        saved = attempt.started + sum(attempt.saved_seconds.values())
        until = attempt.alive if attempt.reason == FINISHED else saved
        for slot, spent in attempt.recent.items():
            _add(found, attempt, int(slot) * SLOT_SECONDS, spent, first, until)
    found[BETWEEN] = max(seconds - sum(found.values()), 0.0)
    return found


def _add(
    found: dict[str, float],
    attempt: Attempt,
    begin: float,
    spent: Mapping[str, float],
    first: float,
    until: float,
) -> None:
    """Adds what one slot, which starts at `begin`, has after `first`; after `until` it is lost."""
    low, high = max(begin, attempt.started), min(begin + SLOT_SECONDS, attempt.alive)
    if high <= low:
        return
    within = max(high - max(low, first), 0.0) / (high - low)
    lost = min(max(high - max(until, low, first), 0.0) / (high - low), within)
    for category, seconds in spent.items():
        found[category] += seconds * (within - lost)
        found[LOST] += seconds * lost


def _ends(history: History) -> tuple[float, float]:
    """The first start and the last write; zeros without attempts."""
    attempts = history.attempts
    if not attempts:
        return 0.0, 0.0
    return min(a.started for a in attempts), max(a.alive for a in attempts)
