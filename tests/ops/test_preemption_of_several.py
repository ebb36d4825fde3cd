"""A signal to any of two processes stops both at the same poll."""

import signal
import time
from pathlib import Path

import pytest
from processes import free_address, start

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("preemption_run.py")
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def pair(monkeypatch):
    """Starts both processes and returns them once they poll; ends them after the test."""
    started = []

    def begin(pace):
        monkeypatch.setenv("FREPO_COORDINATOR", free_address())
        monkeypatch.setenv("FREPO_PROCESSES", "2")
        monkeypatch.setenv("FREPO_HEARTBEAT", "20")
        for own in "01":
            monkeypatch.setenv("FREPO_PROCESS", own)
            started.append(start(PROGRAM, pace, devices=1))
        for process in started:
            assert "READY\n" in iter(process.stdout.readline, "")
        return started

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([(0, TERM)], 42),
        ([(1, TERM)], 42),
        ([(1, TERM), (1, TERM)], 42),
        ([(0, TERM), (1, TERM)], 42),
        ([(1, INT)], 130),  # of one process alone: all of them end for the user
        ([(0, INT), (1, INT)], 130),  # a terminal's Ctrl-C
    ],
)
@pytest.mark.parametrize("pace", ["work", "busy"])
def test_both_stop_at_the_same_poll(pair, pace, signals, code):
    processes = pair(pace)
    if pace == "busy":  # the signal comes between polls
        for process in processes:
            assert "BUSY\n" in iter(process.stdout.readline, "")
    for own, number in signals:
        processes[own].send_signal(number)
        time.sleep(0.05)
    found = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [code, code], found
    stopped = [line for out, _ in found for line in out.splitlines() if "STOPPED" in line]
    assert len(stopped) == 2 and stopped[0] == stopped[1], stopped


def test_a_second_interrupt_ends_a_process_at_once(pair):
    _, second = pair("busy")
    assert "BUSY\n" in iter(second.stdout.readline, "")  # no poll for a while
    second.send_signal(INT)
    time.sleep(0.2)
    before = time.monotonic()
    second.send_signal(INT)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 130 and "KeyboardInterrupt" in err
    assert time.monotonic() - before < 15  # less than the heartbeat


@pytest.mark.parametrize(
    ("signals", "code"), [([(0, TERM)], 42), ([(1, TERM), (0, TERM)], 42), ([(1, INT)], 130)]
)
def test_without_anything_to_save_both_leave_a_long_call(pair, signals, code):
    processes = pair("compiling")
    for own, number in signals:
        processes[own].send_signal(number)
    # With another code the heartbeat ended one of them.
    found = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [code, code], found
    assert all("LEFT\n" in out for out, _ in found), found
