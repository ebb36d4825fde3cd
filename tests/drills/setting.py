"""Settings of tiny runs, and readers of the files they write."""

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
    # Many saves: otherwise a run may finish before a signal reaches all its processes.
    "SAVE_EVERY": 2,
    "POOL_SIZE": 2,
}
SUPERVISE = Path(__file__).resolve().parents[2] / "launch" / "supervise.sh"


def log(attempt):
    """The output of all processes in all attempts at this run."""
    return "".join(path.read_text(errors="replace") for path in attempt.logs)


def said(attempt):
    """The messages of process 0."""
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
    """A function that is true once a further attempt is about to compile its first step."""
    before = len(attempts(workdir))
    return lambda: len(attempts(workdir)) > before


def being_saved(workdir):
    """A function that is true while a checkpoint is being written that does not exist now."""
    before = drill.being_written(workdir)
    return lambda: drill.being_written(workdir) - before


def with_children(process):
    """The IDs of the process and of all its descendants."""
    found = [process.pid]
    for pid in found:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            continue
        found += map(int, children)
    return found


def more_rows(workdir, number):
    """A function that is true once `number` more steps are logged."""
    wanted = len(rows(workdir)) + number
    return lambda: len(rows(workdir)) >= wanted


def unlike(one, other):
    """Names what differs between two runs; each must have a loss for every step."""
    assert list(losses(other)) == list(range(1, STEPS + 1))
    return drill.same_end(one, other)


def wait_until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(drill.POLL)
    return found


def files(workdir):
    """Every file and folder with its time of change."""
    return {path: path.stat().st_mtime_ns for path in (workdir, *workdir.rglob("*"))}


def own_modules_first(folder):
    """The environment of a process that imports modules from `folder` first."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}
