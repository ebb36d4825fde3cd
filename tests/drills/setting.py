"""Tiny runs, and looking at what they leave."""

import json
import os
import time
from pathlib import Path

import drill

from frepo_scale.ops.goodput import read_ledger

STEPS = 60
SETTINGS = {
    "STEPS": STEPS,
    "PROBE_EVERY": 15,
    "PROBE_STEPS": 10,
    "EVAL_STEPS": 20,
    # Many saves: steps alone are over before a signal to several processes is heard.
    "SAVE_EVERY": 2,
    "POOL": 2,
}
SUPERVISE = Path(__file__).resolve().parents[2] / "launch" / "supervise.sh"


def log(attempt):
    """What all processes of all attempts at this run have said."""
    return "".join(path.read_text(errors="replace") for path in attempt.logs)


def said(attempt):
    """The lines the program ended with, of process 0."""
    lines = attempt.logs[0].read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("frepo-scale: ") and "looks for" not in line]


def rows(workdir):
    path = workdir / "metrics.jsonl"
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # being written
            break
    return found


def losses(workdir):
    return {row["step"]: row["loss"] for row in rows(workdir) if "loss" in row}


def saved(workdir):
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def attempts(workdir):
    return read_ledger(workdir / "attempts").attempts


def at_work(workdir):
    """Whether another attempt has read everything and is about to compile its first step."""
    before = len(attempts(workdir))
    return lambda: len(attempts(workdir)) > before


def being_saved(workdir):
    """Whether another checkpoint is half written than now."""
    before = drill.being_written(workdir)
    return lambda: drill.being_written(workdir) - before


def with_children(process):
    """The process and all it started, as in a process group of their own."""
    found = [process.pid]
    for pid in found:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            continue
        found += map(int, children)
    return found


def more_rows(workdir, number):
    """Whether so many more steps were logged than now."""
    wanted = len(rows(workdir)) + number
    return lambda: len(rows(workdir)) >= wanted


def unlike(one, other):
    """What differs between two runs; each must have a loss for every step."""
    assert list(losses(other)) == list(range(1, STEPS + 1))
    return drill.same_end(one, other)


def wait_until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(drill.POLL)
    return found


def files(workdir):
    """Everything that is there, with when it was changed."""
    return {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}


def own_modules_first(folder):
    """Environment of a process that finds the modules in `folder` before all others."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}
