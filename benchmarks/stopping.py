"""Measures how long a run takes to end after SIGTERM, on a machine with other work.

    python benchmarks/stopping.py [--busy 4] [--moments first profile] [--repeat 3] [--out FOLDER]

Each run is that of `drill.py`, alone and with an empty compilation cache, beside `--busy` endless
loops (`taskset -c 0` before the command puts all of them on one core). SIGTERM is sent

  compile     while the first step is compiled;
  first       after the first step, before anything else has run;
  profile     while a profile is taken;
  probe       in the first probe;
  evaluation  in the final evaluation.

Prints seconds from the signal until the checkpoint is committed and until the process has ended,
the exit code and the saved steps. The exit code is 1 if a run did not end with 42.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import drill

MOMENTS = ("compile", "first", "profile", "probe", "evaluation")
_PROFILE_AT = 3


def _reached(attempt: drill.Attempt, moment: str) -> Callable[[], bool]:
    """A function that is true once the moment has come."""
    workdir = attempt.workdir
    if moment == "compile":
        return lambda: any((workdir / "attempts").glob("*.json"))
    if moment in ("first", "profile"):
        wanted = b'"step": 1,' if moment == "first" else f'"step": {_PROFILE_AT + 2},'.encode()
        metrics = workdir / "metrics.jsonl"
        return lambda: (
            metrics.exists()
            and any(wanted in row and b'"loss"' in row for row in metrics.read_bytes().splitlines())
        )
    return drill.moment_of(attempt, moment, random.Random(0))


def _committed(workdir: Path) -> set[str]:
    folder = workdir / "checkpoints"
    return {name for name in os.listdir(folder) if name.isdigit()} if folder.exists() else set()


def stop(folder: Path, moment: str) -> tuple[float | None, float, int, set[str]]:
    """One run: seconds until the commit (None: no new one) and the end, code, saved steps."""
    settings = {"PROFILE_AT": _PROFILE_AT if moment == "profile" else 0, "SAVE_EVERY": 1000}
    attempt = drill.Attempt(folder / "run", folder / "cache", 1, 1, settings=settings)
    (process,) = attempt.processes
    try:
        if not attempt.wait_for(_reached(attempt, moment)):
            raise RuntimeError(f"the run ended before {moment}; see {attempt.logs[0]}")
        before, began, commit = _committed(folder / "run"), time.monotonic(), None
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            if commit is None and _committed(folder / "run") - before:
                commit = time.monotonic() - began
            time.sleep(0.02)
        return commit, time.monotonic() - began, process.returncode, _committed(folder / "run")
    finally:
        attempt.end()


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measures how long a stop takes.")
    parser.add_argument("--busy", type=int, default=4, help="endless loops beside the run")
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=MOMENTS)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for the workdirs and logs")
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp(prefix="stopping-"))
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)
    ]
    right = True
    try:
        print(f"{'moment':12}{'committed':>10}{'ended':>10}  code  saved", flush=True)
        for moment in given.moments:
            for number in range(given.repeat):
                folder = out / f"{moment}-{number}"
                (folder / "cache").mkdir(parents=True)
                commit, end, code, saved = stop(folder, moment)
                right &= code == 42
                first = f"{commit:10.1f}" if commit is not None else f"{'-':>10}"
                print(f"{moment:12}{first}{end:10.1f}  {code:4}  {sorted(saved)}", flush=True)
    finally:
        for loop in loops:
            loop.kill()
    return not right


if __name__ == "__main__":
    sys.exit(main())
