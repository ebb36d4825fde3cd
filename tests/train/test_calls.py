"""How many steps a call does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.train import calls
from frepo_scale.train.calls import Calls, calls_of, most_steps, next_stop
from frepo_scale.train.config import LoopConfig


def test_several_steps_need_images_on_the_devices() -> None:
    assert most_steps(0, "device", "gpu") == most_steps(50, "device", "cpu") == 50
    assert most_steps(0, "device", "cpu") == 1
    assert most_steps(1, "memory", "gpu") == most_steps(0, "constant", "gpu") == 0
    for placement, value in (("memory", "memory"), ("stream", "stream"), ("constant", "noise")):
        with pytest.raises(InputError) as refused:
            most_steps(2, placement, "tpu")
        assert refused.value.what.startswith("STEPS_PER_CALL = 2") and value in refused.value.what
        assert ("DATA_PLACEMENT=device" in (refused.value.fix or "")) == (value != "noise")


class Clock:
    """Each call that finishes took `seconds` a step."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 50.0, seconds

    def __call__(self) -> float:
        return self.now


def run(found: Calls, clock: Clock, steps: int) -> list[int]:
    """The lengths of the calls of a loop that waits for each of them."""
    done, lengths = 0, []
    while done < steps:
        length = found.length(done)
        clock.now += length * clock.seconds
        found.finished(length)
        done += length
        lengths.append(length)
    return lengths


@pytest.mark.parametrize(("seconds", "longest"), [(1e-5, 50), (0.0195, 15), (0.5, 1)])
def test_a_call_takes_as_many_steps_as_fit_into_its_time(seconds: float, longest: int) -> None:
    clock = Clock(seconds)
    lengths = run(Calls(50, next_stop([100], [400]), clock), clock, 400)
    assert lengths[:4] == [1] * 4 and max(lengths) == longest
    assert sum(lengths) == 400
    if longest > 1:
        assert len(lengths) <= 4 + 2 * 400 / longest


def test_the_speed_is_measured_again_and_other_work_does_not_count() -> None:
    clock = Clock(0.0195)
    found = Calls(1000, next_stop([10_000], [10_000]), clock)
    assert max(run(found, clock, 2000)) == 15
    clock.now += 3600.0  # a probe
    found.restart()
    assert min(run(found, clock, 2000)[:-1]) == 15
    clock.seconds = 0.3
    assert run(found, clock, 10_000)[-1] == 1


def test_processes_follow_the_first_one_and_ask_it_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(calls, "agree", lambda value: asked.append(value) or 7)
    clock = Clock(1e-3)
    lengths = run(Calls(50, next_stop([10_000], [10_000]), clock), clock, 9000)
    assert set(lengths[4:-1]) == {7} and set(asked) == {50}
    assert len(asked) <= 14


def test_single_steps_are_neither_timed_nor_agreed_upon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "agree", lambda value: pytest.fail("a collective"))
    clock = Clock(1e-6)
    for most in (0, 1):
        assert set(run(Calls(most, next_stop([7], [40]), clock), clock, 40)) == {1}
    rows = iter(range(9))
    assert Calls(0, max).draw(rows, 1) == 0
    assert Calls(1, max).draw(rows, 1) == (1,) and Calls(5, max).draw(rows, 3) == (2, 3, 4)


_period = st.integers(1, 30)


@given(_period, _period, _period, st.integers(0, 9), st.integers(0, 50), st.integers(1, 100))
def test_no_call_passes_a_row_a_probe_a_save_a_profile_or_the_end(
    log: int, probe: int, save: int, profile: int, start: int, steps: int
) -> None:
    periods = {"log_every": log, "probe_every": probe, "save_every": save}
    found = calls_of(LoopConfig(**periods, profile_at=profile), 50, start, start + steps)
    found._allowed = 50
    done = start
    while done < start + steps:
        length = found.length(done)
        assert 1 <= length <= 50
        passed = range(done + 1, done + length)
        assert not [at for at in passed if not (at % log and at % probe and at % save)]
        assert start + profile not in passed
        done += length
    assert done == start + steps
