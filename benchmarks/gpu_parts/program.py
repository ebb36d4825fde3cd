"""Runs of the real program, `frepo-scale distill`, in separate processes.

Only the command line and the files of a workdir are used here: metrics.jsonl, attempts/,
distilled.npz, result.json, DONE and checkpoints/.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 42  # exit code of a run that was asked to stop and has saved its state
_POLL = 0.02


def environment(further: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the checkout importable, and further variables."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Several processes share the device here: none may take its memory beforehand.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return {**os.environ, **shared, "PYTHONPATH": os.pathsep.join(paths), **further}


def compiled_in(folder: Path) -> dict[str, str]:
    """Variables that make JAX store everything it compiles in a folder, also small programs."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


class Attempt:
    """One start of the program on a workdir."""

    def __init__(
        self,
        recipe: str,
        workdir: Path,
        settings: Mapping[str, Any],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it; its output goes to a file beside the workdir."""
        self.workdir = workdir
        self.log = workdir.with_name(f"{workdir.name}.log")
        self._rows_before = len(metrics(workdir))
        overrides = [f"--gin.{name}={value}" for name, value in settings.items()]
        command = ["distill", recipe, "--workdir", str(workdir), *overrides]
        self.started = time.monotonic()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "frepo_scale.main", *command],
                cwd=ROOT,
                env=environment(variables or {}),
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def wait_for(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Waits until something holds; False if the process ended or the time was up before."""
        deadline = time.monotonic() + seconds
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def first_loss(self, seconds: float) -> float | None:
        """Seconds from the start to this attempt's first logged step; None if there was none."""

        def logged() -> bool:
            return any("loss" in row for row in metrics(self.workdir)[self._rows_before :])

        return self.seconds() if self.wait_for(logged, seconds) else None

    def end(self, number: signal.Signals, seconds: float) -> int | None:
        """Sends a signal and waits for the exit code; None if it had to be killed for it."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int | None:
        """The exit code; None if it did not end in time and was killed."""
        try:
            return self.process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-800:]


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last one that is half written is left out."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def attempts(workdir: Path) -> list[dict[str, Any]]:
    """What each attempt recorded of itself, in order."""
    return [json.loads(path.read_text()) for path in sorted((workdir / "attempts").glob("*.json"))]


def checkpoints(workdir: Path) -> list[int]:
    """Steps with a finished checkpoint."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def result(workdir: Path) -> dict[str, Any] | None:
    """result.json of a finished run."""
    path = workdir / "result.json"
    return json.loads(path.read_text()) if path.exists() else None
