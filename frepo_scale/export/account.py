"""How the time of a run was spent, as text for the terminal and the report."""

from datetime import UTC, datetime

from frepo_scale.ops.badput import BETWEEN, LOST, recent, whole
from frepo_scale.ops.goodput import Attempt, History

_KILLED = "killed, or still running"
_SHOWN = 30  # attempts; a run may have hundreds
_NAMES = {
    "step": "outer steps",
    BETWEEN: "waiting for machines",
    "start": "starting",
    "restore": "restoring",
    "compile": "compiling",
    LOST: "lost (repeated, or not saved)",
    "data": "waiting for batches",
    "probe": "probes",
    "checkpoint": "saving",
    "evaluation": "final evaluation",
    "other": "everything else",
}
_HOURS = (1, 24)
_SHORTEST = 600.0  # seconds; the start of a shorter run says nothing about a long one


def duration(seconds: float) -> str:
    """Such as "2 h 5 min" or "1 min 3 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def account(history: History) -> dict[str, str]:
    """Name and value of every line, with the last 30 attempts one by one; {} without attempts."""
    if not history.attempts:
        return {}
    found = whole(history)
    ends = [attempt.reason or _KILLED for attempt in history.attempts]
    kinds = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    wall = sum(found.values())
    goodput = f"{_percent(found, 'step')} of this time"
    if wall < _SHORTEST:
        goodput = f"not shown for a run of less than {_SHORTEST / 60:.0f} minutes"
    first = max(0, len(ends) - _SHOWN)
    return {
        "attempts": f"{len(ends)} ({kinds})",
        "from the first start to the last heartbeat": duration(wall),
        "goodput (steps not repeated)": goodput,
        **_by_kind(history, found),
        **{
            f"attempt {number + 1}": _attempt(history.attempts[number])
            for number in range(first, len(ends))
        },
    }


def _by_kind(history: History, found: dict[str, float]) -> dict[str, str]:
    """Duration and share of each kind, in the whole run and in its last hours."""
    last = [(hours, recent(history, 3600.0 * hours)) for hours in _HOURS]
    lines = {}
    for kind, name in _NAMES.items():
        shares = [f"{duration(found[kind])} ({_percent(found, kind)})"]
        for hours, spent in last:
            if spent is not None:
                window = "last hour" if hours == 1 else f"last {hours} h"
                shares.append(f"{window} {_percent(spent, kind)}")
        lines[name] = "; ".join(shares)
    return lines


def _percent(found: dict[str, float], kind: str) -> str:
    return f"{100 * found[kind] / max(sum(found.values()), 1e-9):.1f} %"


def surroundings(history: History) -> dict[str, str]:
    """The recorded environment of the last attempt, and what earlier attempts had instead."""
    recorded = [(n, a.environment) for n, a in enumerate(history.attempts, 1) if a.environment]
    if not recorded:
        return {}
    (_, last), earlier = recorded[-1], recorded[:-1]
    found = {}
    for name in dict.fromkeys(name for _, environment in recorded for name in environment):
        value = last.get(name, "not set")
        others: dict[str, list[str]] = {}
        for number, environment in earlier:
            if environment.get(name, "not set") != value:
                others.setdefault(environment.get(name, "not set"), []).append(str(number))
        notes = [f"attempt {', '.join(at)}: {other}" for other, at in others.items()]
        found[name] = f"{value} ({'; '.join(notes)})" if notes else value
    return found


def _attempt(attempt: Attempt) -> str:
    started = datetime.fromtimestamp(attempt.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    saved = "nothing saved" if attempt.last_step is None else f"saved step {attempt.last_step}"
    end = attempt.reason or _KILLED
    return (
        f"{started}, from step {attempt.first_step}, {saved}, {end},"
        f" {duration(attempt.alive - attempt.started)}, {attempt.device_count} x"
        f" {attempt.device_kind} in {attempt.process_count} process(es)"
    )
