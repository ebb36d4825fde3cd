import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_workers_ignore_signals_and_end_with_their_parent():
    program = Path(__file__).with_name("workers_run.py")
    process = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pid, heard = process.stdout.readline().split()
    assert heard == "True"
    assert process.wait(30) == -signal.SIGKILL
    deadline = time.monotonic() + 120
    while _lives(int(pid)):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container there may be no process that reaps it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
