"""A run outlives its terminal: nobody reads its output any more, and SIGHUP stops it saved."""

import os
import signal
from pathlib import Path

import pytest
from drills.setting import at_work, attempts, log, more_rows, saved, unlike, with_children

pytestmark = pytest.mark.slow

# The reader ends after one byte; the exit code is the program's.
UNREAD = ["bash", "-c", '"$@" 2>&1 | head -c 1; exit ${PIPESTATUS[0]}', "x"]


def program_of(attempt):
    """The process ID of the program behind the shell."""
    for pid in with_children(attempt.processes[0])[1:]:
        if b"frepo_scale.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(log(attempt))


def test_without_readers_it_saves_resumes_and_ends_as_usual(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 42), (signal.SIGINT, 130), (signal.SIGHUP, 42)):
        begun = at_work(workdir)
        attempt = start(workdir, through=UNREAD)
        assert attempt.wait_for(begun) and attempt.wait_for(more_rows(workdir, 2)), log(attempt)
        os.kill(program_of(attempt), number)
        assert attempt.codes(120) == [code], log(attempt)
        last = attempts(workdir)[-1]
        assert last.reason == "preempted" and last.last_step == saved(workdir)[-1]
    attempt = start(workdir, through=UNREAD)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == []
