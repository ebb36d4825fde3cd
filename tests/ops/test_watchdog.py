"""A process without progress ends with 42 and dumps its stacks; others do not end."""

import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.ops.watchdog import Watchdog


class Made:
    """A watchdog with a test clock; `ends` has the exit codes."""

    def __init__(self, **settings):
        self.now, self.ends = 1000.0, []
        self.dog = Watchdog(clock=lambda: self.now, end=self.ends.append, **settings)

    def quiet(self, seconds):
        self.now += seconds
        self.dog.poll()
        return self.ends


@pytest.fixture(autouse=True)
def no_alarm():
    """A watchdog that ends the process sets the alarm clock; here the process continues."""
    yield
    signal.alarm(0)


def test_silence_within_the_limit_is_allowed():
    made = Made(limit_seconds=100.0)
    for _ in range(3):
        assert made.quiet(99.0) == []
        made.dog.beat()


def test_silence_beyond_the_limit_ends_with_42_and_leaves_the_stacks(tmp_path, capfd):
    made = Made(limit_seconds=100.0, log=tmp_path / "stacks.txt")
    (tmp_path / "stacks.txt").write_text("of before")
    assert made.quiet(101.0) == [42]
    text = (tmp_path / "stacks.txt").read_text()
    assert "101 s" in text and "100 s" in text and "of before" not in text
    assert "in quiet" in text and "test_watchdog.py" in text
    err = capfd.readouterr().err
    assert "101 s" in err and "in quiet" in err


def test_a_log_that_cannot_be_written_does_not_matter(tmp_path):
    made = Made(limit_seconds=1.0, log=tmp_path / "none" / "stacks.txt")
    assert made.quiet(2.0) == [42]


def test_slow_work_may_be_quiet_for_longer():
    made = Made(limit_seconds=100.0, factor=10.0)
    for _ in range(5):
        made.now += 50.0
        made.dog.beat()
    assert made.dog.limit() == 500.0
    assert made.quiet(499.0) == [] and made.quiet(2.0) == [42]


def test_one_long_interval_does_not_count():
    made = Made(limit_seconds=100.0)
    for seconds in (5000.0, 1.0, 1.0):
        made.now += seconds
        made.dog.beat()
    assert made.dog.limit() == 100.0


def test_the_pace_of_long_ago_is_forgotten():
    made = Made(limit_seconds=1.0)
    for seconds in [1000.0] * 100 + [1.0] * 64:
        made.now += seconds
        made.dog.beat()
    assert made.dog.limit() == 10.0


def test_a_known_long_phase_is_allowed_and_leaves_no_trace():
    made = Made(limit_seconds=100.0)
    with made.dog.allowing(3600.0):
        with made.dog.allowing(60.0):  # never less than outside
            assert made.quiet(3599.0) == []
        assert made.quiet(3599.0) == []
    assert made.dog.limit() == 100.0
    assert made.quiet(99.0) == [] and made.quiet(2.0) == [42]


def test_a_phase_longer_than_allowed_ends_the_process():
    made = Made(limit_seconds=100.0)
    with made.dog.allowing(3600.0):
        assert made.quiet(3601.0) == [42]


@given(st.lists(st.floats(0.001, 1e5), max_size=200), st.floats(1.0, 1e4), st.floats(1.0, 100.0))
def test_a_steady_pace_never_ends_the_process(intervals, limit, factor):
    """After every beat at least the limit is allowed."""
    made = Made(limit_seconds=limit, factor=factor)
    for seconds in intervals:
        made.now += seconds
        made.dog.beat()
        assert made.dog.limit() >= limit
        assert made.quiet(0.99 * made.dog.limit()) == []
        made.now -= 0.99 * made.dog.limit()


def test_a_stopped_watchdog_does_not_end_the_process():
    dog = Watchdog(limit_seconds=0.2, end=lambda code: pytest.fail("it ended"))
    dog.start()
    assert signal.alarm(0) > 0
    dog.stop()
    assert signal.alarm(0) == 0
    time.sleep(0.4)


PROGRAM = """
import ctypes, sys, threading, time
from pathlib import Path
from frepo_scale.ops.watchdog import Watchdog

def the_loop_that_hangs():
    if sys.argv[1] == "waits":
        threading.Lock().acquire() and time.sleep(60)
    ctypes.PyDLL(None).sleep(60)  # keeps the interpreter lock, unlike CDLL

dog = Watchdog(4.0, log=Path(sys.argv[2]))
dog.start()
for _ in range(20):  # longer than the limit
    time.sleep(0.25)
    dog.beat()
print("hangs", flush=True)
the_loop_that_hangs()
"""


def hanging(how, log):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_process_that_waits_ends_with_42(tmp_path):
    with hanging("waits", tmp_path / "stacks.txt") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 42 and out == "hangs\n"
    text = (tmp_path / "stacks.txt").read_text()
    assert "the_loop_that_hangs" in text and "the_loop_that_hangs" in err


@pytest.mark.slow
def test_a_process_that_keeps_the_interpreter_lock_is_ended_by_the_kernel(tmp_path):
    with hanging("keeps", tmp_path / "stacks.txt") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGALRM  # 142 in a shell
    assert "the_loop_that_hangs" in err
