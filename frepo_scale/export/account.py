"""How the time of a run was spent, as text for the terminal and the report."""

from datetime import UTC, datetime

from frepo_scale.ops.goodput import Attempt, History, summary

_KILLED = "killed, or still running"
_SHOWN = 30  # attempts; a run may have hundreds
_NAMES = {
    "step": "outer steps",
    "data": "waiting for batches",
    "compile": "compilation",
    "probe": "probes",
    "checkpoint": "blocked by saves",
    "evaluation": "final evaluation",
    "other": "everything else",
}


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
    found = summary(history)
    ends = [attempt.reason or _KILLED for attempt in history.attempts]
    kinds = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    spent = sum(found["seconds"].values())
    first = max(0, len(ends) - _SHOWN)
    return {
        "attempts": f"{len(ends)} ({kinds})",
        "from the first start to the last heartbeat": duration(found["wall"]),
        "goodput (steps not repeated)": f"{100 * found['goodput']:.1f} %",
        "lost (repeated steps)": duration(found["lost"]),
        "between attempts": duration(found["between"]),
        **{
            _NAMES[name]: f"{duration(seconds)} ({100 * seconds / max(spent, 1e-9):.1f} %)"
            for name, seconds in found["seconds"].items()
        },
        **{
            f"attempt {number + 1}": _attempt(history.attempts[number])
            for number in range(first, len(ends))
        },
    }


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
