"""SIGTERM to any process at any moment: all processes end with 42 and save the same step."""

import contextlib
import itertools
import os
import signal
import time

import pytest
from drills.setting import (
    STEPS,
    at_work,
    attempts,
    being_saved,
    log,
    more_rows,
    own_modules_first,
    saved,
    unlike,
    with_children,
)

pytestmark = pytest.mark.slow


def stopped(attempt, before):
    """Checks that all processes end with 42 after saving the same step; returns the step."""
    assert attempt.codes(120) == [42] * len(attempt.processes), log(attempt)
    last = attempts(attempt.workdir)[-1]
    assert last.reason == "preempted"
    step = saved(attempt.workdir)[-1] if saved(attempt.workdir) else 0
    assert last.last_step in (step, None)  # None: it started at this step and did no work
    assert before <= step < STEPS
    # Each process writes its part of a checkpoint; an incomplete one is not committed.
    assert not list(attempt.workdir.glob("checkpoints/*tmp*"))
    assert not (attempt.workdir / "lock.json").exists()
    return step


def test_two_processes(start, undisturbed_two, streamed, tmp_path):
    """Stopped three times; the result is that of an undisturbed run only if every stop is clean."""
    workdir = tmp_path / "run"

    attempt = start(workdir, 2, settings=streamed)  # while the first step is compiled
    assert attempt.wait_for(at_work(workdir))
    attempt.processes[0].send_signal(signal.SIGTERM)
    step = stopped(attempt, 0)

    attempt = start(
        workdir, 2, settings=streamed
    )  # to the process that writes no metrics, during a save
    assert attempt.wait_for(being_saved(workdir))
    attempt.processes[1].send_signal(signal.SIGTERM)
    step = stopped(attempt, step)

    # To both process groups twice, including Grain's workers, as schedulers do.
    attempt = start(workdir, 2, settings=streamed | {"DATA_WORKERS": 1})
    assert attempt.wait_for(more_rows(workdir, 1))
    groups = [with_children(process) for process in attempt.processes]
    assert all(len(group) >= 2 for group in groups)
    for _ in range(2):
        for pid in itertools.chain(*groups):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    stopped(attempt, step)

    attempt = start(workdir, 2, settings=streamed)
    assert attempt.codes(200) == [0, 0], log(attempt)
    assert unlike(undisturbed_two, workdir) == []


# An import that lasts until a signal ends it: otherwise the handlers may be there when it comes.
STUCK_IMPORT = """
import os, sys, time
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "frepo_scale.jobs.distill":
            open(os.environ["IMPORTING"], "w").close()
            time.sleep(600)
sys.meta_path.insert(0, Finder)
"""


def test_one_process_before_its_handlers_and_while_it_compiles(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"

    importing = tmp_path / "importing"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(STUCK_IMPORT)
    environment = own_modules_first(tmp_path / "modules") | {"IMPORTING": str(importing)}
    attempt = start(workdir, environment=environment)
    assert attempt.wait_for(importing.exists)
    attempt.processes[0].send_signal(signal.SIGTERM)
    assert attempt.codes(120) == [-signal.SIGTERM]  # a supervisor starts it again: 143
    assert not workdir.exists()

    attempt = start(workdir)
    assert attempt.wait_for(at_work(workdir))
    for _ in range(2):
        attempt.processes[0].send_signal(signal.SIGTERM)
        time.sleep(0.05)
    stopped(attempt, 0)

    attempt = start(workdir)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == []
