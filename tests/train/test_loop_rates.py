"""The logged speed of the loop, and checkpoints by the clock."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest
from fake_run import Run, config_of

from frepo_scale.train import hooks
from frepo_scale.train.config import LoopConfig


def test_waiting_for_batches_is_logged_as_a_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock[0])
    run = Run()
    batches = run.batches

    def slow_batches(start: int) -> Iterator[jax.Array]:
        for batch in batches(start):
            clock[0] += 0.25
            yield batch

    def step(state: Any, batch: Any) -> Any:
        clock[0] += 0.75
        return run.step(state, batch)

    monkeypatch.setattr(run, "batches", slow_batches)
    run.train(config_of(log=4, probe=100, save=100), 12, step=step)
    rows = [e[2] for e in run.of("row") if "loss" in e[2]]
    assert [row["input_wait_fraction"] for row in rows] == [0.25] * 3
    assert [row["images_per_second"] for row in rows] == [
        10 * row["steps_per_second"] for row in rows
    ]


def test_speed_counts_steps_since_the_last_row_without_probes_and_saves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock[0])
    run = Run()

    def step(state: Any, batch: Any) -> Any:
        seconds = [60.0] + 3 * [0.5] + 4 * [0.25] + 4 * [1.0] + 4 * [4.0]
        clock[0] += seconds[int(batch)]
        return run.step(state, batch)

    def probe(state: Any, at: int) -> Any:
        clock[0] += 1000.0
        return state, {}

    monkeypatch.setattr(run, "probe", probe)
    run.train(config_of(log=4, probe=8, save=8), 16, step=step)
    speeds = {e[1]: e[2]["steps_per_second"] for e in run.of("row") if "loss" in e[2]}
    # Rows 4 and 12 are fetched behind the next step, whose dispatch counts to their time here.
    assert speeds == {
        4: 3 / (3 * 0.5 + 0.25),
        8: 4 / (3 * 0.25),
        12: 4 / (4 * 1.0 + 4.0),
        16: 4 / (3 * 4.0),
    }


def test_the_clock_saves_between_logged_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock[0])
    run = Run()

    def step(state: Any, batch: Any) -> Any:
        clock[0] += 25.0
        return run.step(state, batch)

    config = LoopConfig(
        log_every=100, probe_every=100, save_every=1000, profile_at=0, save_minutes=1.0
    )
    run.train(config, 11, step=step)
    # The first step that ends 60 seconds after the start, or after a save; and the last step.
    assert run.numbers("save") == [3, 6, 9, 11]
    clock[0] -= 3600.0  # a clock that jumps back only makes it later
    assert run.train(config, 11).step == 11


@pytest.mark.parametrize("seconds", [0.01, 1.0, 7.0])
def test_the_clock_is_read_at_few_steps_and_never_late(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = [100.0], []
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(hooks, "agree", lambda value: looks.append(value) or value)
    run = Run()

    def step(state: Any, batch: Any) -> Any:
        clock[0] += seconds
        return run.step(state, batch)

    config = LoopConfig(
        log_every=50, probe_every=10_000, save_every=10_000, profile_at=0, save_minutes=1.0
    )
    run.train(config, 400, step=step)
    between = -(-60.0 // seconds)
    expected = [step for step in range(1, 400) if step % between == 0]
    assert run.numbers("save") == [*expected, 400]
    assert len(looks) <= 400 / 50 + 8 * len(run.numbers("save"))


def test_processes_are_compared_at_every_reading_of_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    met: list[int] = []
    monkeypatch.setattr(hooks, "agree", lambda value: looks.append(value) or value)
    save = hooks.Save(1000, 1.0, lambda *given: None, start=0, clock_every=5, met=met.append)
    for step in range(1, 30):
        assert not save.due(step, False)
    assert len(met) == len(looks) >= 5 and met[0] == 1 and max(met) > 20


def test_a_log_line_has_all_values(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run()
    run.train(config_of(log=2, probe=4, save=100), 12)
    last = capsys.readouterr().err.splitlines()[-1]
    for word in ("12/12", "step/s", "<", "loss=", "target_accuracy=", "probe_accuracy=4",
                 "images_per_second=", "input_wait_fraction=", "flops_per_second_per_device=",
                 "goodput="):  # fmt: skip
        assert word in last, last
