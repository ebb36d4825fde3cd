"""One of two processes is killed, suspended or impersonated: both end, and the run resumes."""

import re
import signal
import subprocess
import sys
import time

import drill
import pytest
from drills.setting import SUPERVISE, log, more_rows, unlike

pytestmark = pytest.mark.slow

BY_ITSELF = {42, 134, -signal.SIGABRT}  # each is started again by launch/supervise.sh


def ended_by_itself(attempt, process, seconds):
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline, log(attempt)
        time.sleep(drill.POLL)
    assert process.returncode in BY_ITSELF, log(attempt)


# Registers as process 1 of a run that has one: a stranger, or a new start of that process.
STRANGER = """
import sys
from jax._src.lib import _jax
address = sys.stdin.readline().strip()
_jax.get_distributed_runtime_client(address, 1, use_compression=True).connect()
"""


def test_killed_or_stopped(start, undisturbed_two, streamed, tmp_path):
    """Each of the two processes is killed once and stopped once; then a stranger comes."""
    workdir = tmp_path / "run"
    for victim in (0, 1):
        attempt = start(workdir, 2, settings=streamed)
        assert attempt.wait_for(more_rows(workdir, 4))
        attempt.processes[victim].kill()
        ended_by_itself(attempt, attempt.processes[1 - victim], 4 * drill.HEARTBEAT)

        attempt = start(workdir, 2, settings=streamed)
        assert attempt.wait_for(more_rows(workdir, 2))
        attempt.processes[1 - victim].send_signal(signal.SIGSTOP)
        ended_by_itself(attempt, attempt.processes[victim], 4 * drill.HEARTBEAT)
        attempt.end()  # as a supervisor does: a suspended process does not end otherwise

    # It imports JAX while the run starts, which must not end before it comes.
    stranger = subprocess.Popen(
        [sys.executable, "-c", STRANGER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    attempt = start(workdir, 2, settings=streamed)
    try:  # it is refused, but too late for the run; sometimes it then waits for a coordinator
        assert attempt.wait_for(more_rows(workdir, 2))
        address = re.search(r"the others at (\S+)", attempt.shown().decode())[1]
        stranger.stdin.write(f"{address}\n".encode())
        stranger.stdin.close()
        assert {*attempt.codes(60)} <= BY_ITSELF, log(attempt)
    finally:
        stranger.kill()
        stranger.wait()
    # Launchers find it in the log of process 0, and do not count the attempt.
    command = f'. "{SUPERVISE.parent}/policy.sh"; code_of 134 "{attempt.logs[0]}" 1'
    assert subprocess.check_output(["bash", "-c", command]) == b"201\n", log(attempt)

    attempt = start(workdir, 2, settings=streamed)
    assert attempt.codes(200) == [0, 0], log(attempt)
    assert unlike(undisturbed_two, workdir) == []


def test_the_watchdog_ends_a_hung_collective(start, undisturbed_two, streamed, tmp_path):
    """The heartbeat would take longer than the watchdog."""
    workdir, limit = tmp_path / "run", 30.0
    attempt = start(
        workdir,
        2,
        settings=streamed | {"WATCHDOG_MINUTES": limit / 60},  # compiled before, so no long silence
        environment={"FREPO_HEARTBEAT": "100"},
    )
    assert attempt.wait_for(more_rows(workdir, 2))
    other, still = attempt.processes
    still.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    ended_by_itself(attempt, other, 3 * limit)
    assert other.returncode == 42 and time.monotonic() - began > limit
    line = f"limit {limit:.0f} s"
    assert line in attempt.logs[0].read_text(errors="replace")
    stacks = (workdir / "stuck-0.txt").read_text()
    assert line in stacks and "most recent call first" in stacks
    assert "frepo_scale/train/loop.py" in stacks or "frepo_scale/parallel" in stacks

    still.send_signal(signal.SIGCONT)  # its own watchdog has expired too
    assert attempt.codes(120)[1] in BY_ITSELF | {-signal.SIGALRM}, log(attempt)
