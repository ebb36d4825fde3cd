"""Tasks in processes: results in order, failures reported, no endless waiting."""

import os
import signal
import sys
import time

import pytest

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.data.prepare.workers import run_tasks
from frepo_scale.ops.preemption import Preempted

HERE = os.path.dirname(__file__)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The workers import this file by its name."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setitem(sys.modules, "test_workers", sys.modules[__name__])
    monkeypatch.setattr(work, "__module__", "test_workers")


def work(task, report):
    """Does what the task says."""
    what, value = task
    report(1)
    match what:
        case "square":
            return value**2
        case "input":
            raise InputError("w", "e", "f")
        case "run":
            raise RunError("full")
        case "bug":
            raise ZeroDivisionError
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "mask":
            return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
        case _:
            time.sleep(value)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_results_are_in_order(workers):
    seen, done = [], []
    found = run_tasks(
        work,
        [("square", n) for n in range(7)],
        workers,
        seen.append,
        lambda number, result: done.append((number, result)),
    )
    assert found == [n**2 for n in range(7)]
    assert sum(seen) == 7 and sorted(done) == list(enumerate(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("input", InputError, "w: expected e; f"),
        ("run", RunError, "full"),
        ("bug", RuntimeError, "ZeroDivisionError"),
        ("die", RunError, "exit code -9"),
    ],
)
def test_failures_are_reported_while_others_work(what, kind, message):
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        run_tasks(work, [("sleep", 60), (what, 0)], 2, lambda images: None)
    assert time.monotonic() - began < 50


@pytest.mark.slow
def test_a_stop_does_not_wait_for_tasks():
    def stop(images):
        if images:
            raise Preempted

    began = time.monotonic()
    with pytest.raises(Preempted):
        run_tasks(work, [("sleep", 60), ("sleep", 60)], 2, stop)
    assert time.monotonic() - began < 50


@pytest.mark.slow
def test_workers_are_blocked_for_stops():
    """A signal to the whole group must not end a worker that is still importing."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    (mask, _) = run_tasks(work, [("mask", 0), ("square", 1)], 2, lambda images: None)
    assert {signal.SIGTERM, signal.SIGINT} <= mask
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
