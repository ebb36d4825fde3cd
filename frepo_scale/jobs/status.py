"""`frepo-scale status`: how far a run has come, for people, for programs and for the launchers.

It reads the files of a workdir and nothing else, so it works beside a run in progress and on
another machine, and it imports neither JAX nor NumPy. The launchers ask it whether a run has
advanced since its last attempt: which files say so is the program's knowledge.
"""

import json
import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, is_local, read_bytes, to_path
from frepo_scale.export.account import duration
from frepo_scale.jobs.progress import Progress, read_progress, series_parts
from frepo_scale.ops.goodput import DIVERGED, FINISHED, PREEMPTED, History, read_ledger
from frepo_scale.ops.lock import holder
from frepo_scale.ops.metrics import read_jsonl
from frepo_scale.ops.workdir import STUCK, Workdir
from frepo_scale.train.stragglers import is_slow

_STORE_SECONDS = 60.0  # without permission the library of a store may retry forever
_LOCK_SECONDS = 120.0  # a lock is renewed every 30 s; clocks of machines differ
_SILENT_SECONDS = 900.0  # without a new row of metrics
_ROWS = 20  # rows of metrics that count for the health of a run
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Status:
    """The state of a run.

    Attributes:
      workdir: its folder.
      state: "not started", "running", "stopped" (it resumes), "killed" (the same, without a last
        save), "failed" or "finished".
      step: the last step in the metrics, or the last saved step if that is later.
      steps: how many the recipe has; None if unknown.
      eta_seconds: seconds until the last step, by the speed of the last steps; None if unknown.
      saved_step: the last saved step; None: nothing is saved.
      saved_at: when it was saved, a Unix time; None if unknown.
      finished_nets: networks of the final evaluation that are finished.
      attempts: how often the run was started.
      device_count: devices of the last attempt.
      device_kind: their kind.
      loss: of the last step in the metrics; None if unknown.
      health: one line for each thing that deserves attention.
    """

    workdir: str
    state: str
    step: int
    steps: int | None
    eta_seconds: float | None
    saved_step: int | None
    saved_at: float | None
    finished_nets: int
    attempts: int
    device_count: int
    device_kind: str
    loss: float | None
    health: tuple[str, ...]


def status(path: str, since: str | None = None, as_json: bool = False) -> None:
    """Prints how far a run has come.

    Args:
      path: the workdir of a run, or, with `since`, also the --out folder of `prepare`.
      since: a token that this command printed before, or "-": prints "TOKEN yes|no WORDS" only,
        the progress now, whether it is further than `since`, and the progress in words.
      as_json: prints one JSON object.

    Raises:
      InputError: `path` is no workdir, or cannot be read now.
    """
    if since is not None:
        before = Progress.from_token(since)
        now = _in_time(path, read_progress)
        furthest, advanced = now.after(before)
        print(furthest.token, "yes" if advanced else "no", now.words)
        return
    found = _in_time(path, read_status)
    print(json.dumps(asdict(found)) if as_json else _text(found))


def read_status(root: Path, now: Callable[[], float] = time.time) -> Status:
    """The state of a run.

    Args:
      root: its workdir.
      now: the time of day as a Unix time.

    Raises:
      InputError: `root` is not the workdir of a run, or cannot be read now.
    """
    try:
        parts = series_parts(root)
        if parts:
            return _status_of_series(Workdir(root), [read_status(part, now) for part in parts], now)
        return _status_of_run(root, now)
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be read ({error.strerror or error})",
            "the workdir of a run that this machine and account may read",
        ) from error


def _status_of_series(workdir: Workdir, runs: list[Status], now: Callable[[], float]) -> Status:
    """Steps and attempts of all runs; the rest is of the newest run, then of the evaluation."""
    newest, settings = runs[-1], _settings(workdir)
    given = _number(settings.get("series.runs")) or _number(settings.get("series.parts"))
    count = int(given or len(runs))
    state, evaluation = newest.state, None
    if is_file(workdir.done) and is_file(workdir.result):
        state = "finished"
    elif read_ledger(workdir.ledger).attempts:
        evaluation = _status_of_run(workdir.root, now)
        state = evaluation.state
    elif state == "finished":  # the next run, or the evaluation, has not begun
        state = "stopped"
    return replace(
        newest,
        workdir=str(workdir.root),
        state=state,
        step=sum(run.step for run in runs),
        steps=newest.steps * count if newest.steps else None,
        eta_seconds=newest.eta_seconds if len(runs) == count and evaluation is None else None,
        saved_step=sum(run.saved_step or 0 for run in runs),
        finished_nets=read_progress(workdir.root).nets,
        attempts=sum(run.attempts for run in runs) + (evaluation.attempts if evaluation else 0),
        health=(evaluation or newest).health,
    )


def _status_of_run(root: Path, now: Callable[[], float]) -> Status:
    if is_local(root) and not is_folder(root):
        raise InputError(
            f"{root} {'is a file' if is_file(root) else 'does not exist'}",
            "the workdir of a run",
            "the folder after --workdir, or runs/RECIPE",
        )
    workdir, progress = Workdir(root), read_progress(root)
    history = read_ledger(workdir.ledger)
    record, lives = holder(workdir.lock)
    if not (record or history.attempts or is_file(workdir.config)):
        raise InputError(
            f"{root} is not the workdir of a run",
            f"a folder with {workdir.config.name}",
            "the folder after --workdir, or runs/RECIPE",
        )
    if lives is None and record:  # of another machine
        lives = now() - (_number(record.get("renewed")) or 0.0) < _LOCK_SECONDS
    logged = read_jsonl(workdir.metrics)
    rows = [row for row in logged if "loss" in row][-_ROWS:]
    last = rows[-1] if rows else {}
    step = max(int(last.get("step", 0)), progress.saved)
    steps = _steps(workdir)
    saved = [a for a in history.attempts if a.last_step is not None]
    state = _state(workdir, history, bool(lives))
    final = history.attempts[-1] if history.attempts else None
    return Status(
        workdir=str(root),
        state=state,
        step=max(step, 0),
        steps=steps,
        eta_seconds=None if state == "finished" else _number(last.get("eta_seconds")),
        saved_step=None if progress.saved < 0 else progress.saved,
        # An attempt counts its seconds without gaps from its start.
        saved_at=saved[-1].started + sum(saved[-1].saved_seconds.values()) if saved else None,
        finished_nets=progress.nets,
        attempts=len(history.attempts),
        device_count=final.device_count if final else 0,
        device_kind=final.device_kind if final else "",
        loss=_number(last.get("loss")),
        health=(*_health(workdir, state, history, rows, now()), *_straggler(logged, rows)),
    )


def _state(workdir: Workdir, history: History, lives: bool) -> str:
    if workdir.finished:
        return "finished"
    if lives:
        return "running"
    if not history.attempts:
        return "not started"
    reason = history.attempts[-1].reason
    return {None: "killed", PREEMPTED: "stopped", FINISHED: "stopped"}.get(reason, "failed")


def _health(
    workdir: Workdir, state: str, history: History, rows: list[dict[str, Any]], now: float
) -> list[str]:
    lines = []
    final = history.attempts[-1] if history.attempts else None
    if state == "killed":
        lines.append("the last attempt was killed or lost its machine: the same command resumes")
    if state == "failed" and final is not None:
        diverged = "diverged: try a higher RIDGE or a lower LEARNING_RATE in a new workdir"
        lines.append(f"the last attempt {diverged if final.reason == DIVERGED else final.reason}")
    if history.damaged:
        lines.append(f"{history.damaged} files in {workdir.ledger} cannot be read")
    idle = 0
    for attempt in reversed(history.attempts):
        if attempt.last_step is not None or (attempt is final and state == "running"):
            break
        idle += 1
    if idle >= 2:
        lines.append(f"the last {idle} attempts saved nothing")
    stuck = [p.name for p in children(workdir.root) if p.name.startswith(STUCK)]
    if stuck:
        lines.append(f"a process hung; the stacks of its threads are in {', '.join(sorted(stuck))}")
    if rows:
        waited = _mean(rows, "input_wait_fraction")
        if waited > 0.3:
            lines.append(f"{100 * waited:.0f} % of the time is spent waiting for target batches")
        if _mean(rows, "ridge_raised") > 0.5:
            lines.append("the ridge is raised in most steps: RIDGE is too small")
    if state == "running" and rows and is_local(workdir.metrics):
        silent = now - workdir.metrics.stat().st_mtime
        if silent > _SILENT_SECONDS:
            lines.append(f"no new row of metrics for {duration(silent)}")
    return lines


def _straggler(logged: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """A line about a process that the others wait for, if there is one."""
    compared = [row for row in logged if "slowest_process" in row][-1:]
    steps_per_second = _mean(rows, "steps_per_second") if rows else 0.0
    names = ("slowest_process_seconds", "other_processes_seconds")
    for row in compared if steps_per_second else ():
        seconds, median = (_number(row.get(name)) or 0.0 for name in names)
        if is_slow(seconds, median, 1 / steps_per_second):
            return [
                f"process {row['slowest_process']:.0f} makes the others wait: it needs"
                f" {seconds:.3g} s for itself per step, the others {median:.3g} s"
            ]
    return []


def _text(found: Status) -> str:
    of = f" of {found.steps}" if found.steps else ""
    if found.steps:
        of += f" ({100 * found.step / found.steps:.1f} %)"
    first = f"{found.workdir}: {found.state}, step {found.step}{of}"
    if found.eta_seconds is not None and found.state == "running":
        first += f", {duration(found.eta_seconds)} left"
    saved = "nothing"
    if found.saved_step is not None:
        saved = f"step {found.saved_step}"
        if found.saved_at is not None:
            saved += f", {datetime.fromtimestamp(found.saved_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    devices = f", {found.device_count} x {found.device_kind}" if found.device_count else ""
    lines = [first, f"saved      {saved}", f"attempts   {found.attempts}{devices}"]
    if found.loss is not None:
        lines.append(f"loss       {found.loss:.5g}")
    if found.finished_nets:
        lines.append(f"evaluated  {found.finished_nets} networks")
    health = found.health or ("nothing unusual",)
    return "\n".join([*lines, f"health     {health[0]}", *(f"           {x}" for x in health[1:])])


def _settings(workdir: Workdir) -> dict[str, Any]:
    """The settings that the workdir belongs to; empty if they are not written yet or damaged."""
    try:
        found = json.loads(read_bytes(workdir.identity))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _steps(workdir: Workdir) -> int | None:
    steps = _number(_settings(workdir).get("distill.steps"))  # may be of another version
    return int(steps) if steps is not None and steps > 0 else None


def _number(value: Any) -> float | None:
    """A finite number of a file; None for anything else."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(_number(row.get(name)) or 0.0 for row in rows)


def _in_time(path: str, read: Callable[[Path], _Result]) -> _Result:
    """What `read` returns for this path; for a store within a minute."""
    if is_local(path):
        return read(to_path(path))
    results: list[_Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(read(to_path(path)))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="status", daemon=True)
    thread.start()
    thread.join(_STORE_SECONDS)
    if errors:
        raise errors[0]
    if not results:
        raise InputError(
            f"{path} did not answer within {_STORE_SECONDS:.0f} s",
            "a store that this machine and account may read",
        )
    return results[0]
