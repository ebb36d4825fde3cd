"""A run outlives its terminal: its output has no reader any more, and SIGHUP stops it saved."""

import signal

import pytest
from drills.setting import attempts, log, more_rows, saved, unlike, with_children

pytestmark = pytest.mark.slow

# Nobody reads the output after its first byte; the exit code is the program's.
UNREAD = ["bash", "-c", 'trap "" HUP; (trap - HUP; exec "$@") 2>&1 | head -c 1; exit ${PIPESTATUS[0]}', "x"]


def test_without_readers_it_saves_resumes_and_ends_as_usual(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 42), (signal.SIGINT, 130), (signal.SIGHUP, 42)):
        attempt = start(workdir, through=UNREAD)
        before = len(attempts(workdir))
        assert attempt.wait_for(lambda seen=before: len(attempts(workdir)) > seen)
        assert attempt.wait_for(more_rows(workdir, 3))
        program = with_children(attempt.processes[0])[-1]
        import os

        os.kill(program, number)
        assert attempt.codes(120) == [code], log(attempt)
        last = attempts(workdir)[-1]
        assert last.reason == "preempted" and last.last_step == saved(workdir)[-1]
    attempt = start(workdir, through=UNREAD)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == []
