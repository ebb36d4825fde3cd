"""Replaces srun and scontrol: tasks are local processes, a requeue is a file.

Like srun it returns the largest exit code and, as JAX does, ends the other tasks with 134 a moment
after one was killed or failed. $FAKE_NODELIST: where the tasks are. $FAKE_WAIT: seconds instead of
those of --wait, from the first task's end to the others' SIGKILL.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def srun(words: list[str]) -> int:
    wait = 0.0
    while words[0].startswith("--"):
        if given := re.fullmatch(r"--wait=(\d+)", words[0]):
            wait = float(given[1])
        else:
            assert words[0] in ("--kill-on-bad-exit=0", "--gpu-bind=none", "--label"), words
        words = words[1:]
    if wait:  # 0: without end
        wait = float(os.environ.get("FAKE_WAIT", wait))
    count = int(os.environ["SLURM_NTASKS"])
    # Slurm signals the tasks; its own processes are not in their groups.
    tasks = [
        subprocess.Popen(
            words,
            start_new_session=True,
            env=os.environ
            | {
                "SLURM_PROCID": str(number),
                "SLURM_LOCALID": str(number),
                "SLURM_STEP_NODELIST": os.environ.get("FAKE_NODELIST", "node[1-2]"),
            },
        )
        for number in range(count)
    ]
    (STATE / "tasks.new").write_text(" ".join(str(task.pid) for task in tasks))
    (STATE / "tasks.new").rename(STATE / "tasks")  # a test reads it whole
    failed_at = ended_at = None
    while any(task.poll() is None for task in tasks):
        if failed_at is None and any(task.poll() not in (None, 0, 42) for task in tasks):
            failed_at = time.monotonic()
        if failed_at and time.monotonic() - failed_at > 0.5:
            for task in tasks:
                if task.poll() is None:
                    # The program, not the shell around it, is what the runtime aborts.
                    children = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text()
                    for child in children.split():
                        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                            os.kill(int(child), signal.SIGABRT)
            failed_at = time.monotonic()
        if ended_at is None and any(task.poll() is not None for task in tasks):
            ended_at = time.monotonic()
        if wait and ended_at and time.monotonic() - ended_at > wait:
            for task in tasks:
                if task.poll() is None:
                    os.killpg(task.pid, signal.SIGKILL)
        time.sleep(0.02)
    return max(128 - t.returncode if t.returncode < 0 else t.returncode for t in tasks)


if os.path.basename(sys.argv[1]) == "srun":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(srun(sys.argv[2:]))
if sys.argv[2:4] == ["show", "hostnames"]:
    print("node1\nnode2")
elif sys.argv[2] == "requeue":
    if (STATE / "forbidden").exists():
        sys.exit("scontrol: error: Requested operation not permitted")
    with open(STATE / "requeued", "a") as file:
        file.write(sys.argv[3] + "\n")
else:
    sys.exit(f"scontrol {sys.argv[2:]}")
