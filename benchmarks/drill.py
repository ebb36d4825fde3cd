"""Kills a run repeatedly and compares its result with that of an undisturbed run.

    python benchmarks/drill.py --kills 100 [--processes 2] [--seed 0] [--out FOLDER]

Each attempt is ended at a random moment: soon after the start, after some steps, during a save,
during a probe or during the final evaluation. A single process gets SIGKILL, or SIGTERM in one of
four cases. Of several processes one gets SIGKILL, SIGTERM or SIGSTOP, and the others must end
without a signal. (An exit code None means that a process still waited for another one that had
ended before they were connected; the drill killed it.) Then all processes are restarted with the
same command. After at most 25 attempts the run is not disturbed any more. It must then have the
same `distilled.npz`, bit for bit, and the same loss at every step.

Prints one line for each kind of end with its exit codes. The exit code is 1 if anything differed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, Any] = {
    "STEPS": 60,
    "PROBE_EVERY": 15,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 40,
    "SAVE_EVERY": 5,
    "LOG_EVERY": 1,
    "EVAL_NETS": 2,
    "EVAL_STEPS": 40,
    "FULL_DATA": False,
    "WIDTH": 4,
    "BATCH": 32,
    "PROFILE_AT": 0,
}
ATTEMPTS_PER_RUN = 25
HEARTBEAT = 10  # seconds until JAX ends the others after one process has ended
LONGEST = 240.0  # seconds to wait for a moment
MOMENTS = ("start", "steps", "save", "probe", "evaluation")
POLL = 0.003


class Attempt:
    """The processes of one attempt at a run, started together."""

    def __init__(
        self,
        workdir: Path,
        cache: Path,
        processes: int,
        devices: int,
        *,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """Starts the processes; their output goes to files beside the workdir.

        Args:
          workdir: the run's workdir.
          cache: the folder of the compilation cache.
          processes: the number of processes.
          devices: the number of devices of each process.
          settings: settings that replace those in `SETTINGS` or are added to them.
          environment: additional environment variables.
          through: a command that is given the program's command as its last arguments.
        """
        self.workdir = workdir
        given = SETTINGS | dict(settings or {})
        overrides = [f"--gin.{name}={value}" for name, value in given.items()]
        command = ["distill", "digits_ipc1.gin", "--workdir", str(workdir), *overrides]
        common = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "OPENBLAS_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # With the cache a restart takes seconds.
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        further = dict(environment or {})
        address = f"127.0.0.1:{_free_port()}"
        self.logs = [workdir.with_suffix(f".{number}.log") for number in range(processes)]
        first = self.logs[0]
        self._before = first.stat().st_size if first.exists() else 0
        self.processes = []
        for number, log in enumerate(self.logs):
            several = {
                "FREPO_COORDINATOR": address,
                "FREPO_PROCESSES": str(processes),
                "FREPO_PROCESS": str(number),
                "FREPO_HEARTBEAT": str(HEARTBEAT),
            }
            with log.open("ab") as out:
                self.processes.append(
                    subprocess.Popen(
                        [*through, sys.executable, "-m", "frepo_scale.main", *command],
                        env=common | (several if processes > 1 else {}) | further,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    @property
    def running(self) -> bool:
        """Whether any process is running."""
        return any(process.poll() is None for process in self.processes)

    def shown(self) -> bytes:
        """The output of process 0 in this attempt."""
        with self.logs[0].open("rb") as log:
            log.seek(self._before)
            return log.read()

    def wait_for(self, reached: Callable[[], bool]) -> bool:
        """Waits until `reached` is true; returns False if a process ended before."""
        deadline = time.monotonic() + LONGEST
        while not reached():
            if any(process.poll() is not None for process in self.processes):
                return False
            if time.monotonic() > deadline:
                self.end()
                raise RuntimeError(f"nothing happened for {LONGEST:.0f} s; see {self.logs[0]}")
            time.sleep(POLL)
        return True

    def codes(self, seconds: float) -> list[int | None]:
        """Exit codes; None for a process that did not end in time and was killed."""
        deadline = time.monotonic() + seconds
        codes: list[int | None] = []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append(None)
        self.end()
        return codes

    def end(self) -> None:
        """Kills all processes that are running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def being_written(workdir: Path) -> set[Path]:
    """Checkpoints that are being written."""
    return set((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def moment_of(attempt: Attempt, moment: str, rng: random.Random) -> Callable[[], bool]:
    """A function that is true once the moment has come in this attempt."""
    workdir = attempt.workdir
    if moment == "start":
        at = time.monotonic() + rng.uniform(0.0, 8.0)
        return lambda: time.monotonic() >= at
    if moment == "steps":
        rows = _lines(workdir / "metrics.jsonl") + rng.randrange(1, 20)
        return lambda: _lines(workdir / "metrics.jsonl") >= rows
    if moment == "save":
        left = being_written(workdir)
        return lambda: bool(being_written(workdir) - left)
    # The progress bars.
    bar = b"probe:   0%" if moment == "probe" else b"distilled:   0%"
    return lambda: bar in attempt.shown()


@dataclass
class Tally:
    """The results of one kind of end.

    Attributes:
      ends: the number of ends.
      codes: the exit codes and how often each was seen.
      slowest: the longest time in seconds until the last process had ended.
    """

    ends: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


def disturb(attempt: Attempt, rng: random.Random, tallies: dict[str, Tally]) -> bool:
    """Ends an attempt at a random moment; returns False if it finished before.

    Raises:
      RuntimeError: a process did not end, or ended with a wrong exit code.
    """
    moment = rng.choice(MOMENTS)
    several = len(attempt.processes) > 1
    number = signal.SIGKILL
    if several:
        number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
    elif rng.random() < 0.25:
        number = signal.SIGTERM
    if not attempt.wait_for(moment_of(attempt, moment, rng)):
        return False
    time.sleep(rng.uniform(0.0, 1.0 if moment == "evaluation" else 0.2))
    victim = rng.choice(attempt.processes)
    if victim.poll() is not None:
        return False
    began = time.monotonic()
    victim.send_signal(number)
    if number == signal.SIGSTOP:
        others = [process for process in attempt.processes if process is not victim]
        deadline = began + 6 * HEARTBEAT
        while any(p.poll() is None for p in others) and time.monotonic() < deadline:
            time.sleep(POLL)
        if moment != "start" and any(p.poll() is None for p in others):
            attempt.end()
            raise RuntimeError(f"a process did not end after another's SIGSTOP; see {attempt.logs}")
        victim.kill()
    codes = attempt.codes(60.0)
    # Before all have connected, the others wait five minutes for one that has ended; a launcher
    # ends them.
    if None in codes and moment != "start":
        raise RuntimeError(f"a process did not end after {number.name}; see {attempt.logs}")
    allowed = {None, 0, 42, 134, 137, 143, -9, -6, -15}
    # Without handlers, at the start and after the result, SIGTERM ends a process with -15.
    if any(code not in allowed for code in codes):
        raise RuntimeError(f"exit codes {codes} after {number.name}; see {attempt.logs}")
    tally = tallies.setdefault(f"{number.name:8} {moment}", Tally())
    tally.ends += 1
    tally.codes["/".join(map(str, codes))] += 1
    tally.slowest = max(tally.slowest, time.monotonic() - began)
    return True


def finish(workdir: Path, cache: Path, processes: int, devices: int) -> None:
    """Runs an attempt that is not disturbed until it finishes."""
    codes = Attempt(workdir, cache, processes, devices).codes(600.0)
    if any(codes):
        raise RuntimeError(f"an undisturbed attempt ended with {codes}; see {workdir}.0.log")


def same_end(one: Path, other: Path) -> list[str]:
    """Names what differs between two finished runs; empty if they are the same."""
    found = []
    with np.load(one / "distilled.npz") as mine, np.load(other / "distilled.npz") as theirs:
        if mine.files != theirs.files:
            found.append("the names in distilled.npz")
        found += [name for name in mine.files if not np.array_equal(mine[name], theirs[name])]
    losses = [
        {row["step"]: row["loss"] for row in rows if "loss" in row}
        for rows in (
            [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            for run in (one, other)
        )
    ]
    if losses[0] != losses[1]:
        found.append("the losses")
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    for result in results:
        del result["seconds"]
    if results[0] != results[1]:
        found.append("result.json")
    return found


def drill(folder: Path, kills: int, processes: int, devices: int, seed: int) -> dict[str, Tally]:
    """Runs the drill and returns its results by kind of end.

    Raises:
      RuntimeError: a process behaved wrongly, or a result differs.
    """
    rng = random.Random(seed)
    cache, reference = folder / "compiled", folder / "undisturbed"
    finish(reference, cache, processes, devices)
    tallies: dict[str, Tally] = {}
    done, run = 0, 0
    while done < kills:
        run += 1
        workdir = folder / f"run{run}"
        limit = min(kills, done + ATTEMPTS_PER_RUN)
        while done < limit and not (workdir / "DONE").exists():
            attempt = Attempt(workdir, cache, processes, devices)
            try:
                done += disturb(attempt, rng, tallies)
            finally:
                attempt.end()
        finish(workdir, cache, processes, devices)
        different = same_end(reference, workdir)
        if different:
            raise RuntimeError(f"{workdir} differs from {reference}: {', '.join(different)}")
        print(f"run {run}: {done} ends so far, the same bits as the undisturbed run", flush=True)
        shutil.rmtree(workdir)
    return tallies


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Kills a run repeatedly.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="of each process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for the workdirs and logs")
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp(prefix="drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        tallies = drill(folder, given.kills, given.processes, given.devices, given.seed)
    except RuntimeError as error:
        print(f"FAILED: {error}")
        return 1
    print(f"{'signal and moment':22} ends  codes, and how often; slowest end in seconds")
    for kind, tally in sorted(tallies.items()):
        codes = ", ".join(f"{code} x {number}" for code, number in tally.codes.most_common())
        print(f"{kind:22} {tally.ends:4}  {codes}; {tally.slowest:.1f}")
    print(f"{sum(t.ends for t in tallies.values())} ends in {time.monotonic() - began:.0f} s")
    if given.out is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
