"""The loop's order, its rows, and that any stop and resume gives the same run."""

import signal
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_run import RATES, Event, Run, config_of, host, start_state
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError, Preempted, RunError
from frepo_scale.train import loop
from frepo_scale.train.config import LoopConfig
from frepo_scale.train.loop import Outcome


def _resumed(config: LoopConfig, steps: int, before: Run) -> tuple[Run, Outcome]:
    at = max(before.checkpoints)
    state, probed = before.checkpoints[at]
    run = Run()
    return run, run.train(config, steps, state=state, start=at, probed=probed)


def test_the_order_of_a_whole_run() -> None:
    run = Run()
    outcome = run.train(config_of(log=2, probe=3, save=2), steps=4)
    assert run.order() == [
        "probe 0",
        "row 0",
        *("draw 0", "step 0", "after_step 1"),
        *("draw 1", "step 1", "after_step 2"),
        "row 2",  # before the save of step 2: a row is never behind the checkpoint
        "save 2 probed 0",
        *("draw 2", "step 2", "after_step 3"),
        "probe 3",
        "row 3",
        *("draw 3", "step 3", "after_step 4"),
        "row 4",
        "probe 4",
        "row 4",
        "save 4 probed 4",
    ]
    assert outcome.step == 4 and not outcome.stopped
    assert host(outcome.state) == host(run.checkpoints[4][0])


def test_several_steps_per_call_change_neither_rows_nor_probes_nor_checkpoints() -> None:
    config, runs = config_of(log=10, probe=60, save=30), (Run(), Run())
    outcomes = [run.train(config, 120, most=most) for run, most in zip(runs, (0, 8), strict=True)]
    assert max(runs[1].calls) == 8 and len(runs[1].calls) < 40
    assert runs[0].of("step", "probe", "save") == runs[1].of("step", "probe", "save")
    assert runs[0].log_rows() == runs[1].log_rows()
    assert host(outcomes[0].state) == host(outcomes[1].state)
    ends = runs[1].numbers("after_step")
    assert [b - a for a, b in zip([0, *ends], ends, strict=False)] == runs[1].calls


def test_a_signal_in_a_long_call_saves_at_its_end() -> None:
    config = config_of(log=10, probe=60, save=60)
    whole = Run()
    whole.train(config, 60)
    ends = Run()
    ends.train(config, 60, most=8)
    at = next(end for end, n in zip(ends.numbers("after_step"), ends.calls, strict=True) if n == 8)
    run = Run(signal_at=("after_step", at))
    outcome = run.train(config, 60, most=8)
    assert outcome.stopped and outcome.step == at and run.of("save") == [("save", at, 0)]
    _, outcome = _resumed(config, 60, run)
    assert host(outcome.state) == host(whole.checkpoints[60][0])


def test_a_row_is_fetched_after_the_next_step_is_dispatched() -> None:
    run = Run()
    run.train(config_of(log=2, probe=100, save=100), steps=6)
    order = run.order()
    for at in (2, 4):
        assert order.index(f"row {at}") == order.index(f"step {at}") + 1
    assert order.index("row 6") < order.index("probe 6") < order.index("save 6 probed 6")
    assert run.log_rows() == [(2, 0.25), (4, 0.5), (6, 0.75)]
    rows = [e[2] for e in run.of("row") if "loss" in e[2]]
    assert all(r.keys() == {"loss", "target_accuracy", *RATES} for r in rows)
    assert all(type(v) is float and v >= 0 for r in rows for v in r.values())


def test_the_own_time_of_a_process_is_that_of_draw_and_dispatch_but_for_the_first_step() -> None:
    run = Run()
    run.stragglers = SimpleNamespace(
        begin=lambda: run.events.append(("begin",)), end=lambda _: run.events.append(("end",))
    )
    run.train(config_of(log=1, probe=2, save=2), steps=3)
    counted = [event for event in run.events if event[0] in ("begin", "end", "draw", "step")]
    timed = [[("begin",), ("draw", n), ("step", n), ("end",)] for n in (1, 2)]
    assert counted == [("draw", 0), ("step", 0), *timed[0], *timed[1]]


class Watching(Run):
    """A run whose data see whether the batch before is still held when the next is asked for."""

    def batches(self, start: int) -> Iterator[jax.Array]:
        self.held: list[bool] = []
        last: Callable[[], Any] = lambda: None  # noqa: E731
        for batch in super().batches(start):
            self.held.append(last() is not None)
            last = weakref.ref(batch)
            box = [batch]
            del batch
            yield box.pop()


def test_a_batch_is_released_before_the_next_is_requested() -> None:
    run = Watching()
    run.train(config_of(log=2, probe=100, save=100), steps=6)
    assert run.held == [False] * 6


_periods = st.integers(1, 6)


@settings(max_examples=150, deadline=None)
@given(log=_periods, probe=_periods, save=_periods, data=st.data())
def test_every_turn_keeps_the_order(log: int, probe: int, save: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, 12))
    start = data.draw(st.integers(0, steps))
    probed = data.draw(st.sampled_from([-1, *range(start + 1)]))
    run = Run()
    state = start_state() | {"step": jnp.int32(start)}
    outcome = run.train(config_of(log, probe, save), steps, state=state, start=start, probed=probed)
    assert not outcome.stopped and outcome.step == steps
    turns = range(start, steps)
    assert run.numbers("draw") == run.numbers("step") == list(turns)
    assert run.numbers("after_step") == [s + 1 for s in turns]
    due = [s for s in range(start, steps + 1) if s % probe == 0 or s == steps]
    assert run.numbers("probe") == [s for s in due if s != probed]
    due = [s for s in range(start + 1, steps + 1) if s % save == 0 or s == steps]
    assert run.numbers("save") == (due if start or steps else [])
    assert run.log_rows() == [(s, s / 8) for s in range(start + 1, steps + 1) if s % log == 0]
    assert [e[1] for e in run.of("row") if "probe_accuracy" in e[2]] == run.numbers("probe")
    last_probe = probed
    for event in run.of("probe", "save"):
        if event[0] == "probe":
            last_probe = event[1]
        else:
            assert event[2] == last_probe
    position = {e[:2]: i for i, e in enumerate(run.events) if e[0] in ("probe", "save", "draw")}
    for s in range(start, steps + 1):
        at = [position[k, s] for k in ("probe", "save", "draw") if (k, s) in position]
        assert at == sorted(at)
    for i, event in enumerate(run.events):
        if event[0] in ("probe", "save"):
            assert ("check", event[1]) in run.events[:i]
        if event[0] == "save":
            assert run.events[i - 1] == ("flush",)  # rows are durable before the checkpoint is
    assert run.events[-1] == ("flush",)


@settings(max_examples=120, deadline=None)
@given(
    log=_periods,
    probe=_periods,
    save=_periods,
    steps=st.integers(1, 10),
    stops=st.lists(
        st.tuples(st.sampled_from(["after_step", "probe", "save"]), st.integers(0, 10)), max_size=4
    ),
)
def test_any_stops_and_resumes_give_the_same_run(
    log: int, probe: int, save: int, steps: int, stops: list[tuple[str, int]]
) -> None:
    config = config_of(log, probe, save)
    whole = Run()
    expected = whole.train(config, steps)
    run, events = Run(), []
    state, start, probed = None, 0, -1
    for stop in [*stops, None]:
        run = Run(signal_at=stop)
        outcome = run.train(config, steps, state=state, start=start, probed=probed)
        events += run.events
        if outcome.stopped:
            assert run.checkpoints.keys() >= {outcome.step} or outcome.step == start
            if outcome.step in run.checkpoints:
                state, probed = run.checkpoints[outcome.step]
                start = outcome.step
        else:
            break
    assert not outcome.stopped and outcome.step == steps
    assert host(outcome.state) == host(expected.state)
    joined = Run(events=events)
    assert joined.numbers("step") == list(range(steps))  # no batch twice, none left out
    assert joined.log_rows() == whole.log_rows()
    assert joined.numbers("probe") == whole.numbers("probe")


def test_a_resumed_run_repeats_neither_probe_nor_save_and_draws_its_batch_first() -> None:
    config = config_of(log=100, probe=4, save=4)
    before = Run(signal_at=("save", 4))
    assert before.train(config, 8).step == 5  # a signal in the save is seen one step later
    del before.checkpoints[5]  # as after a kill before that
    run, outcome = _resumed(config, 8, before)
    assert run.order()[:3] == ["draw 4", "step 4", "after_step 5"]
    assert run.numbers("probe") == [8] and run.of("save") == [("save", 8, 8)]
    assert not outcome.stopped


def test_a_signal_after_a_step_saves_at_that_step() -> None:
    config = config_of(log=100, probe=3, save=100)
    run = Run(signal_at=("after_step", 5))
    outcome = run.train(config, 9)
    assert outcome.stopped and outcome.step == 5
    assert run.of("save") == [("save", 5, 3)]
    assert run.numbers("draw") == [0, 1, 2, 3, 4]
    assert run.order()[-1] == "save 5 probed 3"


def test_a_signal_at_a_probe_leaves_the_probe_to_the_next_run() -> None:
    config = config_of(log=3, probe=3, save=100)
    for where in ("probe", "after_step"):
        run = Run(signal_at=(where, 6))
        outcome = run.train(config, 9)
        assert outcome.stopped and outcome.step == 6
        assert run.of("save") == [("save", 6, 3)] and run.numbers("probe") == [0, 3]
        assert run.of("row")[-1][:2] == ("row", 6)  # what was measured is not lost
        again, outcome = _resumed(config, 9, run)
        assert again.order()[:3] == ["probe 6", "row 6", "draw 6"]
        assert again.of("save") == [("save", 9, 9)]


def test_a_signal_at_the_start_saves_the_start() -> None:
    run = Run()
    run.preemption._note(signal.SIGTERM, None)
    outcome = run.train(config_of(1, 1, 1), 3)
    assert outcome.stopped and outcome.step == 0
    assert run.order() == ["save 0 probed -1"]
    again, outcome = _resumed(config_of(1, 1, 1), 3, run)
    assert again.numbers("probe") == [0, 1, 2, 3] and not outcome.stopped


def test_a_signal_before_a_resumed_run_leaves_its_checkpoint_alone() -> None:
    run = Run()
    run.preemption._note(signal.SIGTERM, None)
    state = start_state() | {"step": jnp.int32(5)}
    outcome = run.train(config_of(1, 1, 1), 9, state=state, start=5, probed=3)
    assert outcome.stopped and outcome.step == 5 and run.order() == []


def test_a_signal_at_the_last_step_is_a_stop_until_the_last_probe_is_done() -> None:
    config = config_of(log=100, probe=100, save=100)
    for where in ("after_step", "probe"):
        run = Run(signal_at=(where, 4))
        outcome = run.train(config, 4)
        assert outcome.stopped and outcome.step == 4
        assert run.of("save") == [("save", 4, 0)]
        again, outcome = _resumed(config, 4, run)
        assert again.order() == ["probe 4", "row 4"] and not outcome.stopped
        assert host(outcome.state) == host(Run().train(config, 4).state)


def test_the_flag_of_a_real_signal_stops_the_loop() -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    run = Run()
    run.preemption.install()

    def step(state: Any, batch: Any) -> Any:
        if int(batch) == 2:
            signal.raise_signal(signal.SIGTERM)
        return run.step(state, batch)

    try:
        outcome = run.train(config_of(100, 100, 100), 9, step=step)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert outcome.stopped and outcome.step == 3 and run.of("save") == [("save", 3, 0)]


@pytest.mark.parametrize(
    ("probe", "save", "signal_at"), [(3, 100, None), (100, 3, None), (100, 100, ("after_step", 3))]
)
def test_a_failed_check_stops_before_probe_and_save(
    probe: int, save: int, signal_at: tuple[str, int] | None
) -> None:
    run = Run(bad_from=2, signal_at=signal_at)
    with pytest.raises(RunError, match="not finite"):
        run.train(config_of(3, probe, save), 9)
    assert run.events[-1] == ("check", 3)
    assert run.numbers("probe") == [0] and not run.checkpoints
    assert run.log_rows() == [(3, 3 / 8)]  # the row shows what went wrong


@pytest.mark.parametrize("kind", ["check", "probe", "save", "step"])
def test_errors_propagate_unchanged(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    run = Run()
    monkeypatch.setattr(run, kind, fail)
    with pytest.raises(ZeroDivisionError):
        run.train(config_of(1, 2, 2), 4)


def test_a_complete_run_does_nothing() -> None:
    run = Run()
    state = start_state() | {"step": jnp.int32(5)}
    outcome = run.train(config_of(1, 5, 5), 5, state=state, start=5, probed=5)
    assert outcome.step == 5 and not outcome.stopped and run.order() == []
    outcome = run.train(config_of(1, 2, 2), 5, state=state, start=5, probed=4)
    assert run.order() == ["probe 5", "row 5"] and not outcome.stopped
    run = Run()
    outcome = run.train(config_of(1, 1, 1), 0)
    assert run.order() == ["probe 0", "row 0", "save 0 probed 0"] and outcome.step == 0


class _OnDevice:
    """A number that records when the host reads it or waits for it; float, asarray or get."""

    def __init__(self, events: list[Event], name: str, step: int) -> None:
        self._events, self._name, self._step = events, name, step

    def _read(self) -> float:
        self._events.append(("fetch", self._step, self._name))
        return 1.0

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.asarray(self._read())

    def __float__(self) -> float:
        return self._read()

    item = __float__

    def block_until_ready(self) -> "_OnDevice":
        self._events.append(("wait", self._step))
        return self


def test_metrics_are_fetched_at_log_steps_only_and_the_queue_stays_short() -> None:
    run = Run()

    def step(state: Any, batch: Any) -> Any:
        state, metrics = run.step(state, batch)
        return state, {k: _OnDevice(run.events, k, int(batch) + 1) for k in metrics}

    steps = 12
    run.train(config_of(log=5, probe=100, save=100), steps, step=step)
    assert sorted(e[1:] for e in run.of("fetch")) == [
        (at, name) for at in (5, 10) for name in ("loss", "target_accuracy")
    ]
    waits = run.numbers("wait")
    assert sorted(set(waits)) == list(range(1, steps - loop._IN_FLIGHT + 1))
    for i, event in enumerate(run.events):
        if event[0] == "wait":
            dispatched = max(e[1] for e in run.events[:i] if e[0] == "step") + 1
            # The first step is compiled and waited for; later ones always have others queued.
            assert dispatched - event[1] == (0 if dispatched == 1 else loop._IN_FLIGHT)


def test_device_get_is_called_once_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: (calls.append(1), get(x))[1])
    run = Run()
    run.train(config_of(log=4, probe=100, save=100), 9)
    assert len(calls) == len(run.log_rows()) == 2


@pytest.mark.parametrize("name", ["log_every", "probe_every", "save_every"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "5", None])
def test_periods_are_checked(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name.upper()} = "):
        LoopConfig(**{name: value})


@pytest.mark.parametrize("value", [-1, 1.0, True, "5"])
def test_profile_at_is_checked(value: Any) -> None:
    with pytest.raises(InputError, match=r"^PROFILE_AT = "):
        LoopConfig(profile_at=value)


def test_preempted_is_not_swallowed_outside_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()

    def save(*args: Any) -> None:
        raise Preempted

    monkeypatch.setattr(run, "save", save)
    with pytest.raises(Preempted):
        run.train(config_of(1, 1, 1), 2)


def test_the_first_warning_about_a_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(warning=lambda row: "low" if row["loss"] >= 0.5 else "")
    run.train(config_of(log=2, probe=100, save=100), steps=8)
    assert capsys.readouterr().err.count("frepo-scale: step 4: low\n") == 1
