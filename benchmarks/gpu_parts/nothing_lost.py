"""Part 3, nothing lost: runs of the real program that are stopped, killed and resumed.

A small run of real digits, undisturbed; one that gets SIGTERM after its first checkpoint; one that
gets SIGKILL there. Both are started again with the same command. With DETERMINISTIC=True their
distilled sets must be bit-equal to that of the undisturbed run; without it their losses must be
equal to rounding, which the steps in between enlarge. The terminated run is alone until it has
resumed, so that its seconds to the first logged step can be compared: those of a first start, which
compiles, and of a second start, which uses the compiled programs in the workdir.
"""

import signal
import statistics
import threading
from pathlib import Path
from typing import Any

import numpy as np

from gpu_parts.program import STOPPED, Attempt, attempts, checkpoints, compiled_in, metrics
from gpu_parts.report import Report

RECIPE = "digits_ipc1.gin"
SETTINGS: dict[str, Any] = {
    "STEPS": 1200,
    "PROBE_EVERY": 600,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 40,
    "SAVE_EVERY": 100,
    "LOG_EVERY": 5,  # on accelerators up to five steps are one call
    "EVAL_NETS": 1,
    "EVAL_STEPS": 40,
    "FULL_DATA": False,
    "PROFILE_AT": 0,
}
SMOKE = {"WIDTH": 4, "BATCH": 32, "STEPS": 40, "PROBE_EVERY": 20, "SAVE_EVERY": 10}
ROUNDING = 1e-2  # median relative difference of the losses, without DETERMINISTIC
SIGNALS = {
    "undisturbed": None,
    "terminated": signal.SIGTERM,
    "killed": signal.SIGKILL,
}


def run(report: Report) -> None:
    """The terminated deterministic run alone until it has resumed, then all side by side."""
    report.put(runs={})
    deterministic = (True,) if report.options.smoke else (True, False)
    resumed = threading.Event()
    threads = [
        threading.Thread(target=_run, args=(report, kind, fixed, resumed), daemon=True)
        for fixed in deterministic
        for kind in SIGNALS
    ]
    first = threads.pop(list(SIGNALS).index("terminated"))
    first.start()
    resumed.wait(max(0.1, report.left()))
    for thread in threads:
        thread.start()
    for thread in (first, *threads):
        thread.join(max(0.1, report.left()))
    if any(thread.is_alive() for thread in (first, *threads)):
        report.has(float("inf"), "runs that had not ended")
    for fixed in deterministic:
        found = {
            kind: compare(_workdir(report, "undisturbed", fixed), _workdir(report, kind, fixed))
            for kind in ("terminated", "killed")
        }
        for row in found.values():
            close = row.get("loss_difference", float("inf")) <= ROUNDING
            row["ok"] = row["bit_equal"] if fixed else close
        report.put(**{"deterministic" if fixed else "default": found})


_LOCK = threading.Lock()  # threads share the report


def _workdir(report: Report, kind: str, fixed: bool) -> Path:
    return report.options.scratch / f"{kind}-{'deterministic' if fixed else 'default'}"


def _run(report: Report, kind: str, fixed: bool, resumed: threading.Event) -> None:
    """One run to its end, disturbed or not, and its measurements.

    Sets the event once the run has logged a step after its second start.
    """
    workdir = _workdir(report, kind, fixed)
    settings = SETTINGS | {"DETERMINISTIC": fixed} | (SMOKE if report.options.smoke else {})
    seen: dict[str, Any] = {"exit_codes": [], "seconds_to_first_loss": []}
    number = SIGNALS[kind]
    # Runs on CPUs store no compiled programs in their workdirs: smoke tests share a cache.
    variables = compiled_in(report.options.scratch / "compiled") if report.options.smoke else {}
    first = Attempt(RECIPE, workdir, settings, variables)
    seen["seconds_to_first_loss"].append(first.first_loss(report.left()))
    last = first
    if number is not None:
        saved = first.wait_for(lambda: bool(checkpoints(workdir)), report.left())
        seen["exit_codes"].append(first.end(number, 30.0) if saved else first.wait(0.1))
        seen["resumed_from"] = max(checkpoints(workdir), default=None)
        seen["steps_before"] = max((row["step"] for row in metrics(workdir)), default=0)
        last = Attempt(RECIPE, workdir, settings, variables)
        seen["seconds_to_first_loss"].append(last.first_loss(report.left()))
        resumed.set()
    seen["exit_codes"].append(last.wait(report.left()))
    seen["compile_seconds"] = [attempt["seconds"]["compile"] for attempt in attempts(workdir)]
    expected = {None: [0], signal.SIGTERM: [STOPPED, 0], signal.SIGKILL: [-signal.SIGKILL, 0]}
    seen["ok"] = seen["exit_codes"] == expected[number]
    if not seen["ok"]:
        seen["said"] = last.said()
    name = workdir.name
    with _LOCK:
        report.put(runs=report.found["runs"] | {name: seen})


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Whether two finished runs have the same distilled set, and how far they are apart."""
    paths = [workdir / "distilled.npz" for workdir in (one, other)]
    missing = [str(path.parent.name) for path in paths if not path.exists()]
    if missing:
        return {"bit_equal": False, "missing": missing}
    with np.load(paths[0]) as mine, np.load(paths[1]) as theirs:
        names = [name for name in mine.files if name in theirs.files]
        equal = mine.files == theirs.files and all(
            np.array_equal(mine[name], theirs[name]) for name in names
        )
        largest = 0.0
        for name in ("images", "labels"):
            x, y = mine[name].astype(np.float64), theirs[name].astype(np.float64)
            largest = max(largest, float(np.abs(x - y).max() / np.abs(x).max()))
    losses = [
        {row["step"]: row["loss"] for row in metrics(workdir) if "loss" in row}
        for workdir in (one, other)
    ]
    common = sorted(losses[0].keys() & losses[1].keys())
    differences = [abs(losses[1][step] / losses[0][step] - 1) for step in common]
    first = [step for step, difference in zip(common, differences, strict=True) if difference]
    return {
        "bit_equal": bool(equal),
        "largest_difference": largest,
        "loss_difference": statistics.median(differences),
        "first_step_with_another_loss": first[0] if first else None,
    }
