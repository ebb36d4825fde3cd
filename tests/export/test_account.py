"""The account of a run's time in words."""

import dataclasses

import pytest

from frepo_scale.export.account import account, duration, surroundings
from frepo_scale.ops.goodput import CATEGORIES, Attempt, History


def attempt(started, reason, **seconds):
    spent = dict.fromkeys(CATEGORIES, 0.0) | seconds
    alive = started + sum(spent.values())
    saved = spent | {"step": spent["step"] / 2}
    return Attempt(started, alive, alive, reason, 0, 5, 1, 1, "cpu", spent, saved)


def test_a_run_in_three_attempts():
    history = History(
        (
            attempt(0, None, step=100, compile=20),
            attempt(200, "preempted", step=60),
            attempt(600, "finished", step=80, evaluation=20),
        ),
        0,
    )
    lines = account(history)
    assert lines["attempts"] == "3 (1 killed, or still running, 1 preempted, 1 finished)"
    assert lines["from the first start to the last heartbeat"] == "11 min 40 s"
    # 50 + 30 + 80 of 700
    assert lines["goodput (steps not repeated)"] == "22.9 % of this time"
    assert lines["outer steps"] == "2 min 40 s (22.9 %)"
    assert lines["lost (repeated, or not saved)"] == "1 min 20 s (11.4 %)"
    assert lines["waiting for machines"] == "7 min 0 s (60.0 %)"
    assert lines["compiling"] == "20 s (2.9 %)" and lines["final evaluation"] == "20 s (2.9 %)"
    assert lines["attempt 2"] == (
        "1970-01-01 00:03 UTC, from step 0, saved step 5, preempted, 1 min 0 s, 1 x cpu in 1"
        " process(es)"
    )


def test_a_short_run_has_no_goodput_and_a_long_one_its_last_hours():
    lines = account(History((attempt(0, "finished", step=10, compile=45),), 0))
    assert "%" not in lines["goodput (steps not repeated)"]
    assert lines["compiling"] == "45 s (81.8 %)"
    recent = {str(slot): {"step": 400.0, "data": 200.0} for slot in range(12)}
    long = dataclasses.replace(attempt(0, "finished", step=5000, data=2200), recent=recent)
    lines = account(History((long,), 0))
    assert lines["waiting for batches"] == "36 min 40 s (30.6 %); last hour 33.3 %"


def test_of_many_attempts_the_last_ones_are_shown():
    history = History(tuple(attempt(100 * n, None, step=10) for n in range(100)), 0)
    shown = [name for name in account(history) if name.startswith("attempt ")]
    assert shown == [f"attempt {n}" for n in range(71, 101)]


def test_nothing_of_a_run_that_has_not_started():
    assert account(History((), 0)) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (63, "1 min 3 s"), (7500, "2 h 5 min"), (59.7, "1 min 0 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_environment_of_the_last_attempt_and_what_was_different_before():
    first, second, third = (attempt(100 * n, None, step=10) for n in range(3))
    history = History(
        (
            dataclasses.replace(first, environment={"jax": "1", "cores": "2", "XLA_FLAGS": "--a"}),
            second,  # of an earlier version
            dataclasses.replace(third, environment={"jax": "2", "cores": "2"}),
        ),
        0,
    )
    assert surroundings(history) == {
        "jax": "2 (attempt 1: 1)",
        "cores": "2",
        "XLA_FLAGS": "not set (attempt 1: --a)",
    }
    assert surroundings(History((second,), 0)) == {}
