"""Part 5, useful: a recipe at its own settings through the real program, data feeding included.

First a start that is stopped once its speed is known: steps per second, share of the time spent
waiting for input, and the cost of a probe, at the recipe's own number of steps. Then a whole run
with as many steps as the remaining time allows: all other settings stay the recipe's, so that the
learning rate decays within it. Its results are the distilled set, the held-out accuracy over the
steps and the test accuracy with its baselines. A run that does not end in time is stopped with its
state saved, and only its metrics so far are reported.
"""

import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

from gpu_parts.program import Attempt, attempts, compiled_in, metrics, result
from gpu_parts.report import Report

RECIPE = "fashion_mnist_ipc10.gin"
SMOKE_RECIPE = "digits_ipc1.gin"
SMOKE = {
    "WIDTH": 4,
    "BATCH": 32,
    "EVAL_NETS": 1,
    "EVAL_STEPS": 20,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 20,
    "FULL_DATA": False,
}
SHORT = {"EVAL_NETS": 2, "PROBE_NETS": 2, "KEEP_EVERY": 0}
ROWS = 5  # logged intervals that give the speed
PROBES = 8  # of the whole run, at least
RESERVE = 15.0  # seconds for the end of the run, its report and the copies
SLACK = 0.85  # share of the remaining time that is planned for


def run(report: Report) -> None:
    """Calibrates, then runs the recipe to its end."""
    options = report.options
    recipe = options.recipe or (SMOKE_RECIPE if options.smoke else RECIPE)
    settings: dict[str, Any] = SHORT | (SMOKE if options.smoke else {})
    if options.data_dir:
        settings["DATA_DIR"] = options.data_dir
    # Both runs share what was compiled, where the programs are the same.
    cache = compiled_in(options.scratch / "compiled") | {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    report.put(recipe=recipe, settings=settings)
    speed = calibrate(report, recipe, settings, cache)
    steps = planned_steps(speed, report.left(), options.smoke)
    report.put(planned_steps=steps)
    if steps:
        whole_run(report, recipe, settings | _periods(steps, options.smoke), cache)


def calibrate(
    report: Report, recipe: str, settings: dict[str, Any], cache: dict[str, str]
) -> dict[str, Any]:
    """The speed of the recipe as it is.

    Raises:
      RuntimeError: no step was logged.
    """
    workdir = report.options.scratch / "useful-speed"
    every = 5 if report.options.smoke else 100
    periods = {"LOG_EVERY": every, "PROBE_EVERY": 3 * every, "PROFILE_AT": 0}
    attempt = Attempt(recipe, workdir, settings | periods, variables=cache)

    def rows() -> list[dict[str, Any]]:
        return [row for row in metrics(workdir) if "steps_per_second" in row]

    first = attempt.first_loss(0.5 * report.left())
    attempt.wait_for(lambda: len(rows()) > ROWS, 0.3 * report.left())
    # Orderly, so that its account of the time is complete; it may be in the middle of a save.
    code = attempt.end(signal.SIGTERM, 20.0)
    logged = rows()
    if first is None or not logged:
        raise RuntimeError(f"no step was logged (exit code {code}): {attempt.said()}")
    steady = logged[1:] or logged  # the first interval contains the compilation
    spent = attempts(workdir)[0]["seconds"]
    # Of all probes so far, at each logged step: the first probe compiles, the next one does not.
    probing = sorted({row["seconds/probe"] for row in logged})
    speed = {
        "exit_code": code,
        "seconds_to_first_loss": first,
        "steps_per_second": statistics.median(row["steps_per_second"] for row in steady),
        "input_wait_fraction": statistics.median(row["input_wait_fraction"] for row in steady),
        "probe_seconds": probing[1] - probing[0] if len(probing) > 1 else probing[0],
        "start_seconds": first,
        "seconds": spent,
    }
    report.put(speed=speed)
    return speed


def planned_steps(speed: dict[str, Any], left: float, smoke: bool) -> int:
    """Steps of a whole run in the time left; 0 if there is none.

    Beside the steps it needs a start, with the first probe in it, further probes, and the final
    evaluation, which trains nets on three to four sets, about twice as long as a probe at 100
    images: together about 16 probes, of which `PROBES` are the run's own.
    """
    if smoke:
        return 20
    seconds = SLACK * (left - RESERVE - speed["start_seconds"] - 16 * speed["probe_seconds"])
    return max(0, int(seconds * speed["steps_per_second"]) // 1000 * 1000)


def _periods(steps: int, smoke: bool) -> dict[str, Any]:
    every = steps if smoke else max(1, steps // PROBES)
    return {
        "STEPS": steps,
        "PROBE_EVERY": every,
        "SAVE_EVERY": max(1, steps // 4),
        "LOG_EVERY": 5 if smoke else 100,
        "PROFILE_AT": 0,
    }


def whole_run(report: Report, recipe: str, settings: dict[str, Any], cache: dict[str, str]) -> None:
    """The run to its result, or to the end of the time."""
    workdir = report.options.scratch / "useful"
    attempt = Attempt(recipe, workdir, settings, variables=cache)
    finished = not attempt.wait_for(lambda: False, report.left() - RESERVE)
    code = attempt.end(signal.SIGTERM, 10.0) if not finished else attempt.wait(1.0)
    rows = metrics(workdir)
    logged = [row for row in rows if "steps_per_second" in row]
    found: dict[str, Any] = {"exit_code": code, "seconds": attempt.seconds()}
    if logged:
        found |= {
            "steps": logged[-1]["step"],
            "steps_per_second": statistics.median(r["steps_per_second"] for r in logged),
            "input_wait_fraction": statistics.median(r["input_wait_fraction"] for r in logged),
            "goodput": logged[-1]["goodput"],
        }
    curve = [[r["step"], r["probe_accuracy"]] for r in rows if "probe_accuracy" in r]
    found["curve"] = curve
    found["held_out_accuracy"] = max((accuracy for _, accuracy in curve), default=None)
    found["result"] = result(workdir)
    found["attempts"] = [attempt["seconds"] for attempt in attempts(workdir)]
    if code != 0:
        found["said"] = attempt.said()
    report.put(run=found)
    copy_results(workdir, report.options.out, report.options.scratch / "keep")


def copy_results(workdir: Path, out: Path, keep: Path) -> None:
    """The distilled set beside the results; logs and the report among what is packed."""
    if (workdir / "distilled.npz").exists():
        shutil.copy(workdir / "distilled.npz", out / "distilled.npz")
    keep.mkdir(exist_ok=True)
    for name in ("metrics.jsonl", "result.json", "report.html", "operative_config.gin"):
        if (workdir / name).exists():
            shutil.copy(workdir / name, keep / name)
