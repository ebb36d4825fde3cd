"""Where the time of a run went, for people."""

from frepo_scale.ops.goodput import History, summary

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
    """Name and value of every line; nothing of a run that has not started."""
    if not history.attempts:
        return {}
    found = summary(history)
    ends = [attempt.reason or "killed, or still running" for attempt in history.attempts]
    kinds = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    spent = sum(found["seconds"].values())
    return {
        "attempts": f"{len(ends)} ({kinds})",
        "from first start to last sign of life": duration(found["wall"]),
        "goodput (steps that were kept)": f"{100 * found['goodput']:.1f} %",
        "lost (work done again)": duration(found["lost"]),
        "between attempts": duration(found["between"]),
        **{
            _NAMES[name]: f"{duration(seconds)} ({100 * seconds / max(spent, 1e-9):.1f} %)"
            for name, seconds in found["seconds"].items()
        },
    }
