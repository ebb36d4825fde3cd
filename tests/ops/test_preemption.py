"""Signals set a sticky flag and decide the exit code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.parallel import ending


@pytest.fixture
def preemption() -> Iterator[Preemption]:
    """An installed Preemption; the earlier handlers are restored afterwards."""
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    preemption = Preemption()
    preemption.install()
    yield preemption
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_requested_before_a_signal(preemption: Preemption) -> None:
    assert not preemption.requested
    preemption.check()


def test_every_poll_is_reported() -> None:
    polls: list[int] = []
    preemption = Preemption(on_poll=lambda: polls.append(1))
    assert polls == [] and not preemption.requested
    preemption.check()
    assert len(polls) == 2


def test_constructing_installs_nothing() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    Preemption()
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_sigterm_is_sticky(preemption: Preemption) -> None:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(3):
            assert preemption.requested
            with pytest.raises(Preempted):
                preemption.check()
    assert preemption.exit_code == 42


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 42), (signal.SIGINT, 130)])
def test_a_stop_in_one_long_call_need_not_wait_for_its_end(
    preemption: Preemption, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    with preemption.leaving_at_once(left.append):  # a notebook, for example
        assert signal.set_wakeup_fd(-1) == -1
    monkeypatch.setattr(ending, "_alone", True)
    with preemption.leaving_at_once(left.append):
        os.kill(os.getpid(), number)
        while not left:  # in the other thread
            time.sleep(0.001)
    assert left == [code] and preemption.exit_code == code
    assert signal.set_wakeup_fd(-1) == -1
    with pytest.raises(Preempted), preemption.leaving_at_once(left.append):
        left.append(0)  # not reached: the stop was requested before
    assert left == [code]


def test_first_interrupt_is_noted_and_the_second_stops(preemption: Preemption) -> None:
    signal.raise_signal(signal.SIGINT)
    assert preemption.requested and preemption.exit_code == 130
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [(signal.SIGTERM, signal.SIGINT, 42), (signal.SIGINT, signal.SIGTERM, 130)],
)
def test_the_first_signal_decides_the_exit_code(
    preemption: Preemption, first: int, second: int, code: int
) -> None:
    signal.raise_signal(first)
    signal.raise_signal(second)
    assert preemption.requested and preemption.exit_code == code


_PROGRAM = """
import sys, time
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.parallel import ending
preemption = Preemption()
preemption.install()
print("ready", flush=True)
try:
    while True:
        if not preemption.requested:
            time.sleep(0.01)
        elif "stubborn" in sys.argv:
            print("noted", flush=True)
            time.sleep(60)
        else:
            preemption.check()
except Preempted:
    sys.exit(preemption.exit_code)
except KeyboardInterrupt:
    print("stopped at once", flush=True)
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 42), (signal.SIGINT, 130)])
def test_a_process_ends_with_its_code(number: int, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=120) == code


@pytest.mark.slow
def test_a_second_interrupt_ends_a_process_that_does_not_poll() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "stubborn"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "noted\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped at once\n"
        assert process.wait(timeout=120) == 3
